"""Plans and sweeps: what runs would take, and many runs one after the other."""
