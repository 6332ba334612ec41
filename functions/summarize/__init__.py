"""The last Lambda of a run: gathers what the ranks left in S3 and says what is missing."""
