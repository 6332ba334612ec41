"""An S3 client that signs its own HTTP requests, because boto3 takes 0.3 s of a cold start and most of a small
read's time."""
