# Every option but those of ../private, with values other than the defaults. Comments show what excludes another option.

module "cosmicai" {
  source = "../.."

  team                 = "team3"
  region               = "eu-central-1"
  tags                 = { CostCentre = "astronomy" }
  permissions_boundary = "arn:aws:iam::123456789012:policy/boundary"

  build_folder      = "/srv/cosmicai/build"
  s3_use_path_style = true

  storage = {
    bucket_name               = "team3-galaxies"
    data_buckets              = ["survey-archive"]
    data_bucket_kms_key_arns  = ["arn:aws:kms:us-east-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"]
    kms_key_arn               = "arn:aws:kms:eu-central-1:123456789012:key/1b4a7c1e-0000-4000-8000-000000000000"
    abort_uploads_after_days  = 3
    expire_keys_after_days    = 1
    delete_results_on_destroy = true
  }

  image_builder = "codebuild"
  image_tag     = "v1" # the image is in the deployment's own ECR repository
  image = {
    variant        = "cuda"
    extra_packages = ["timm==0.4.12"]
  }
  # image_uri = "URI" # instead of image_tag and image

  inference = {
    architecture         = "x86_64"
    memory_mb            = 5307
    timeout_seconds      = 600
    max_concurrency      = 500
    reserved_concurrency = 500
    retry_seconds        = 5
    warm_up              = true
    allow_scripts        = true
  }

  rendezvous = {
    # address = "rendezvous.example.org:10000" # a host that another team runs, instead of one of its own
    enabled        = true
    subnet_id      = "subnet-0123456789abcdef0" # a public one of the team's
    port           = 11000
    static_address = true
    idle_minutes   = 30
    wait_seconds   = 60
    limits = {
      relays               = 512
      relays_per_address   = 128
      relay_bytes          = 8388608
      relay_bytes_per_hour = 536870912
      relay_idle_seconds   = 600
      relay_stall_seconds  = 30
    }
  }

  redis_host = "redis.example.org:6379"

  batch = {
    subnet_ids      = ["subnet-0123456789abcdef0"]
    public          = true
    vcpus           = 8
    memory_mb       = 32768
    max_vcpus       = 512
    spot            = true
    timeout_seconds = 7200
    gpu = { # instead of Fargate
      instance_types = ["g6.xlarge", "g5.xlarge"]
      memory_mb      = 14000
    }
  }

  operations = {
    log_retention_days = 90
    dashboard          = true
    alarm_email        = "operator@example.org"
    monthly_budget_usd = 50
    start_on_ready     = "incoming"
    ready_catalogues   = "catalogues"
  }
}

output "deployment" {
  description = "All outputs of the root module."
  value       = module.cosmicai
}
