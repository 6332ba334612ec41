"""Partitions in S3 or on disk, read as data."""
