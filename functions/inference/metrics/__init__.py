"""The metrics of a run, reduced across its ranks."""
