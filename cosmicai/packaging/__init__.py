"""What is deployed: zips, and the task folder of the inference image."""
