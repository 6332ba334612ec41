# Copy to teams/TEAM.tfvars and run: make deploy TEAM=TEAM
team   = "example"
region = "us-east-1"

inference = {
  architecture = "arm64"
  memory_mb    = 3008 # the most that new accounts allow
}

image = {
  variant = "lean" # "torch" for your own scripts that import torch
  # extra_packages = ["timm==0.4.12"] # other packages that your own scripts import
}

# image_builder = "codebuild" # builds the image on AWS, without Docker

operations = {
  log_retention_days = 30
}

# rendezvous = { address = "rendezvous.example.org:10000" } # a rendezvous host that another team runs
