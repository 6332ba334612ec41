"""S3 as ranks use it: signed requests over HTTP, without boto3, which takes 0.3 s of a cold start."""
