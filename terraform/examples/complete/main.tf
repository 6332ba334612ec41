# Every option, with values other than the defaults. Options that exclude one another are in comments.

module "cosmicai" {
  source = "../.."

  team                 = "team3"
  region               = "eu-central-1"
  tags                 = { CostCentre = "astronomy" }
  permissions_boundary = "arn:aws:iam::123456789012:policy/boundary"

  bucket_name               = "team3-galaxies"
  data_buckets              = ["survey-archive"]
  data_bucket_kms_key_arns  = ["arn:aws:kms:us-east-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"]
  kms_key_arn               = "arn:aws:kms:eu-central-1:123456789012:key/1b4a7c1e-0000-4000-8000-000000000000"
  abort_uploads_after_days  = 3
  delete_results_on_destroy = true
  s3_use_path_style         = true
  build_folder              = "/srv/cosmicai/build"

  image_tag      = "v1" # the image is in the deployment's own ECR repository
  image_variant  = "torch"
  extra_packages = ["timm==0.4.12"]
  # inference_image = "URI" # instead of image_tag, image_variant and extra_packages

  architecture              = "x86_64"
  inference_memory_mb       = 5307
  inference_timeout_seconds = 600
  reserved_concurrency      = 500
  warm_up                   = true

  allow_scripts   = true
  max_concurrency = 500
  retry_seconds   = 5
  redis_host      = "redis.example.org:6379"
  start_on_ready  = "incoming"

  rendezvous_port           = 11000
  rendezvous_static_address = true
  rendezvous_idle_minutes   = 30
  rendezvous_wait_seconds   = 60
  rendezvous_limits         = { relays = 512, relays_per_address = 128 }
  rendezvous_enabled        = true
  rendezvous_subnet_id      = "subnet-0123456789abcdef0" # a public one of the team's
  # rendezvous_address = "rendezvous.example.org:10000" # a host that another team runs, instead of an own one

  log_retention_days = 90
  dashboard          = true
  alarm_email        = "operator@example.org"
  monthly_budget_usd = 50
}

output "deployment" {
  description = "All outputs of the root module."
  value       = module.cosmicai
}
