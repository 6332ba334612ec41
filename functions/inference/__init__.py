"""The inference Lambda: one rank of a run over its partitions."""
