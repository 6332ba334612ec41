"""What computes redshifts: the network, and the ways to run it."""
