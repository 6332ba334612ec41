"""A deployment on AWS or on this machine."""
