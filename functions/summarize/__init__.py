"""The last Lambda of a run: gathers what the ranks have written to S3 and reports what is missing."""
