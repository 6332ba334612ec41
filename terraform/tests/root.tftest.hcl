# The root module against a mock provider: no account, no network. Run `make package` first.

mock_provider "aws" {
  source = "./tests/mocks"
}

variables {
  team      = "team3"
  image_tag = "abc123"
}

run "a_team_gets_everything_under_its_name" {
  assert {
    condition     = output.bucket == module.storage.bucket_name && local.bucket_name == "team3-cosmicai"
    error_message = "the bucket must be TEAM-cosmicai"
  }
  assert {
    condition     = output.function_names.inference == "team3-cosmicai-inference"
    error_message = "functions must carry the team's name"
  }
  assert {
    condition     = output.repository_url != null
    error_message = "without image_uri the module must make its own repository"
  }
  assert {
    condition     = strcontains(output.next_steps, "aws stepfunctions start-execution --region us-east-1 --state-machine-arn ${output.state_machine_arn}") && length(regexall("\naws ", output.next_steps)) == length(regexall("--region us-east-1 ", output.next_steps))
    error_message = "next_steps must print the command that starts a run, and name the region in every command"
  }
}

run "the_image_variant_chooses_the_image" {
  variables {
    image = { variant = "torch" }
  }
  assert {
    condition     = endswith(local.image_uri, "/team3-cosmicai-inference:abc123-arm64-torch")
    error_message = "image_variant must be the end of the image's tag"
  }
}

run "an_unknown_image_variant_is_refused" {
  command = plan
  variables {
    image = { variant = "jax" }
  }
  expect_failures = [var.image]
}

run "extra_packages_are_names_with_versions" {
  command = plan
  variables {
    image = { extra_packages = [
      "timm==0.4.12", "ruamel.yaml==0.18.10", "torchvision==0.28.0+cpu --no-deps",
      "six==1.17.0 --hash=sha256:4721f391ed90541fddacab5acf947aa0d3dc7d27b2e1e8eda2be8970586c3274",
    ] }
  }
  assert {
    condition     = length(var.image.extra_packages) == 4
    error_message = "extra_packages must take names with versions and hashes"
  }
}

run "an_extra_package_without_a_version_is_refused" {
  command = plan
  variables {
    image = { extra_packages = ["timm"] }
  }
  expect_failures = [var.image]
}

run "extra_packages_need_an_image_that_is_built_here" {
  command = plan
  variables {
    image_tag = null
    image     = { extra_packages = ["timm==0.4.12"] }
    image_uri = "123456789012.dkr.ecr.us-east-1.amazonaws.com/shared/inference:v1"
  }
  expect_failures = [var.image]
}

run "an_unknown_image_builder_is_refused" {
  command = plan
  variables {
    image_builder = "kaniko"
  }
  expect_failures = [var.image_builder]
}

run "an_image_may_be_built_on_aws" {
  variables {
    image_builder = "codebuild"
  }
  assert {
    condition     = module.image_builder[0].project_name == "team3-cosmicai-image-builder"
    error_message = "image_builder must make a project"
  }
}

run "an_image_from_elsewhere_needs_no_repository" {
  variables {
    image_tag = null
    image_uri = "123456789012.dkr.ecr.us-east-1.amazonaws.com/shared/inference:v1"
  }
  assert {
    condition     = output.repository_url == null && length(module.registry) == 0 && length(module.image_builder) == 0
    error_message = "image_uri must replace the repository"
  }
}

run "further_data_buckets_may_be_read" {
  variables {
    storage = { data_buckets = ["survey-archive"] }
  }
  assert {
    condition     = contains(local.readable, "arn:aws:s3:::survey-archive")
    error_message = "data_buckets must be readable"
  }
}

run "the_state_machine_is_the_one_that_rendezvous_knows" {
  assert {
    condition     = local.state_machine_arn == "arn:aws:states:us-east-1:123456789012:stateMachine:team3-cosmicai"
    error_message = "the ARN must be this very state machine's"
  }
  assert {
    condition     = length(module.rendezvous_host) == 1
    error_message = "by default the deployment has a rendezvous host of its own"
  }
}

run "a_rendezvous_host_from_elsewhere_needs_none_of_its_own" {
  variables {
    rendezvous = { address = "rendezvous.example.org:10000" }
  }
  assert {
    condition     = length(module.rendezvous_host) == 0
    error_message = "rendezvous.address must replace the host"
  }
}

run "operations_are_off_unless_asked_for" {
  assert {
    condition     = length(module.operations) == 0 && length(module.ready) == 0 && length(aws_lambda_invocation.warm_up) == 0
    error_message = "dashboard, alarms and the rule must be optional"
  }
}

run "alarms_rule_boundary_and_reserved_concurrency_can_be_had" {
  variables {
    permissions_boundary = "arn:aws:iam::123456789012:policy/boundary"
    operations = {
      alarm_email        = "operator@example.org"
      start_on_ready     = "incoming"
      monthly_budget_usd = 50
    }
    inference = {
      reserved_concurrency = 500
      warm_up              = true
    }
    storage = { kms_key_arn = "arn:aws:kms:us-east-1:123456789012:key/1" }
  }
  assert {
    condition     = jsondecode(aws_lambda_invocation.warm_up[0].input) == { warm_up = true }
    error_message = "a new image must be called once"
  }
  assert {
    condition     = length(module.operations) == 1 && length(module.ready) == 1
    error_message = "alarms and the rule must be made"
  }
}

run "a_missing_image_is_refused" {
  command = plan
  variables {
    image_tag = null
    image_uri = null
  }
  expect_failures = [var.image_uri]
}

run "a_bad_team_is_refused" {
  command = plan
  variables {
    team = "Team_3"
  }
  expect_failures = [var.team]
}

run "a_bad_region_is_refused" {
  command = plan
  variables {
    region = "Virginia"
  }
  expect_failures = [var.region]
}

run "a_bad_bucket_name_is_refused" {
  command = plan
  variables {
    storage = { bucket_name = "My_Bucket" }
  }
  expect_failures = [var.storage]
}

run "a_bad_data_bucket_is_refused" {
  command = plan
  variables {
    storage = { data_buckets = ["ok-bucket", "*"] }
  }
  expect_failures = [var.storage]
}

run "a_bad_image_tag_is_refused" {
  command = plan
  variables {
    image_tag = "-latest"
  }
  expect_failures = [var.image_tag]
}

run "an_unknown_architecture_is_refused" {
  command = plan
  variables {
    inference = { architecture = "riscv64" }
  }
  expect_failures = [var.inference]
}

run "too_much_memory_is_refused" {
  command = plan
  variables {
    inference = { memory_mb = 10241 }
  }
  expect_failures = [var.inference]
}

run "too_long_a_timeout_is_refused" {
  command = plan
  variables {
    inference = { timeout_seconds = 901 }
  }
  expect_failures = [var.inference]
}

run "no_pause_between_retries_is_refused" {
  command = plan
  variables {
    inference = { retry_seconds = 0 }
  }
  expect_failures = [var.inference]
}

run "an_unknown_retention_is_refused" {
  command = plan
  variables {
    operations = { log_retention_days = 31 }
  }
  expect_failures = [var.operations]
}

run "aborting_uploads_at_a_part_of_a_day_is_refused" {
  command = plan
  variables {
    storage = { abort_uploads_after_days = 0.5 }
  }
  expect_failures = [var.storage]
}

run "no_concurrency_is_refused" {
  command = plan
  variables {
    inference = { max_concurrency = 0 }
  }
  expect_failures = [var.inference]
}

run "a_rendezvous_address_without_a_port_is_refused" {
  command = plan
  variables {
    rendezvous = { address = "example.org" }
  }
  expect_failures = [var.rendezvous]
}

run "a_privileged_rendezvous_port_is_refused" {
  command = plan
  variables {
    rendezvous = { port = 22 }
  }
  expect_failures = [var.rendezvous]
}

run "a_rendezvous_host_that_never_idles_is_refused" {
  command = plan
  variables {
    rendezvous = { idle_minutes = 0 }
  }
  expect_failures = [var.rendezvous]
}

run "a_rendezvous_host_without_relays_is_refused" {
  command = plan
  variables {
    rendezvous = { limits = { relays = 0 } }
  }
  expect_failures = [var.rendezvous]
}

run "no_wait_for_the_rendezvous_host_is_refused" {
  command = plan
  variables {
    rendezvous = { wait_seconds = 0 }
  }
  expect_failures = [var.rendezvous]
}

run "a_redis_password_is_refused" {
  command = plan
  variables {
    redis_host = "user:password@redis:6379"
  }
  expect_failures = [var.redis_host]
}

run "a_ready_prefix_with_a_slash_is_refused" {
  command = plan
  variables {
    operations = { start_on_ready = "incoming/" }
  }
  expect_failures = [var.operations]
}

run "catalogues_without_runs_that_start_automatically_are_refused" {
  command = plan
  variables {
    operations = { ready_catalogues = "catalogues" }
  }
  expect_failures = [var.operations]
}

run "catalogues_with_a_slash_are_refused" {
  command = plan
  variables {
    operations = { start_on_ready = "incoming", ready_catalogues = "/catalogues" }
  }
  expect_failures = [var.operations]
}

run "catalogues_among_the_results_are_refused" {
  command = plan
  variables {
    operations = { start_on_ready = "incoming", ready_catalogues = "results" }
  }
  expect_failures = [var.operations]
}

run "an_alarm_without_an_address_is_refused" {
  command = plan
  variables {
    operations = { alarm_email = "operator" }
  }
  expect_failures = [var.operations]
}

run "an_alias_for_a_key_is_refused" {
  command = plan
  variables {
    storage = { kms_key_arn = "arn:aws:kms:us-east-1:123456789012:alias/ours" }
  }
  expect_failures = [var.storage]
}

run "reserving_nothing_is_refused" {
  command = plan
  variables {
    inference = { reserved_concurrency = 0 }
  }
  expect_failures = [var.inference]
}

run "a_boundary_that_is_no_policy_is_refused" {
  command = plan
  variables {
    permissions_boundary = "boundary"
  }
  expect_failures = [var.permissions_boundary]
}
