# A team with an image that has been pushed already; everything else by default.

module "cosmicai" {
  source = "../.."

  team      = "team3"
  image_uri = "123456789012.dkr.ecr.us-east-1.amazonaws.com/team3-cosmicai-inference:v1-lean"
}

output "next_steps" {
  description = "The commands to run next."
  value       = module.cosmicai.next_steps
}
