# Copy to teams/TEAM.tfvars and run: make deploy TEAM=TEAM
team   = "example"
region = "us-east-1"

inference = {
  architecture = "arm64"
  memory_mb    = 3008 # what new accounts get at most
}

image = {
  variant = "lean" # "torch" for scripts of your own that import it
  # extra_packages = ["timm==0.4.12"] # what scripts of your own import beside torch
}

# image_builder = "codebuild" # builds the image on AWS: the deployer needs no Docker

operations = {
  log_retention_days = 30
}

# rendezvous = { address = "rendezvous.example.org:10000" } # a rendezvous host that another team runs
