"""The first Lambda of a run: checks the payload, deals the partitions to ranks, writes the plan."""
