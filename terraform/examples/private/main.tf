# Ranks in private subnets of the team's own, which reach S3 and a Redis server of the same VPC, and nothing else.

module "cosmicai" {
  source = "../.."

  team      = "team3"
  image_uri = "123456789012.dkr.ecr.us-east-1.amazonaws.com/team3-cosmicai-inference@sha256:0000000000000000000000000000000000000000000000000000000000000000"

  network = {
    subnet_ids      = ["subnet-0123456789abcdef0", "subnet-0123456789abcdef1"]
    route_table_ids = ["rtb-0123456789abcdef0"]
  }

  # Ranks there cannot reach a rendezvous host or each other: metrics go through S3, or through Redis.
  rendezvous = { enabled = false }
  redis_host = "redis.internal:6379"
}

output "deployment" {
  description = "All outputs of the root module."
  value       = module.cosmicai
}
