"""What tests compare of two summaries of the same data."""

OF_DATA = (
    "world_size",
    "num_samples",
    "accuracy",
    "accuracy_state",
    "flags",
    "predicted_redshifts",
    "missing_ranks",
)
"""Fields of summary.json that follow from the data, wherever the ranks ran."""
