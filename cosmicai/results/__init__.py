"""What a run leaves on this machine, in our form and in the historic one."""
