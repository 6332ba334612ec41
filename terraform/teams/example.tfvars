# Copy to teams/TEAM.tfvars and run: make deploy TEAM=TEAM
team                = "example"
region              = "us-east-1"
architecture        = "arm64"
inference_memory_mb = 3538
log_retention_days  = 30
