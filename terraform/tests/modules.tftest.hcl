# Each module by itself against a mock provider.

mock_provider "aws" {
  source = "./tests/mocks"
}

run "storage_is_private_encrypted_and_tls_only" {
  module {
    source = "./modules/storage"
  }
  variables {
    bucket_name              = "data"
    abort_uploads_after_days = 7
    force_destroy            = false
  }
  assert {
    condition = alltrue([
      aws_s3_bucket_public_access_block.this.block_public_acls,
      aws_s3_bucket_public_access_block.this.block_public_policy,
      aws_s3_bucket_public_access_block.this.ignore_public_acls,
      aws_s3_bucket_public_access_block.this.restrict_public_buckets,
    ])
    error_message = "all public access must be blocked"
  }
  assert {
    condition     = one(one(aws_s3_bucket_server_side_encryption_configuration.this.rule).apply_server_side_encryption_by_default).sse_algorithm == "AES256"
    error_message = "objects must be encrypted"
  }
  assert {
    condition = (
      one(data.aws_iam_policy_document.tls_only.statement).effect == "Deny" &&
      one(one(data.aws_iam_policy_document.tls_only.statement).condition).variable == "aws:SecureTransport"
    )
    error_message = "plain HTTP must be denied"
  }
  assert {
    condition     = length(aws_s3_bucket_lifecycle_configuration.this) == 1
    error_message = "broken uploads must be cleaned up"
  }
  assert {
    condition     = contains([for rule in one(aws_s3_bucket_lifecycle_configuration.this[*].rule) : one(rule.filter).prefix], ".cosmicai/")
    error_message = "keys of runs that were ended must expire"
  }
}

run "storage_leaves_the_lifecycle_out_where_asked" {
  module {
    source = "./modules/storage"
  }
  variables {
    bucket_name              = "data"
    abort_uploads_after_days = 0
    expire_keys_after_days   = 0
    force_destroy            = true
  }
  assert {
    condition     = length(aws_s3_bucket_lifecycle_configuration.this) == 0 && aws_s3_bucket.this.force_destroy
    error_message = "without a rule there is no lifecycle"
  }
}

run "keys_expire_also_where_uploads_are_kept" {
  module {
    source = "./modules/storage"
  }
  variables {
    bucket_name              = "data"
    abort_uploads_after_days = 0
    expire_keys_after_days   = 3
    force_destroy            = true
  }
  assert {
    condition     = [for rule in one(aws_s3_bucket_lifecycle_configuration.this[*].rule) : one(rule.expiration).days if rule.status == "Enabled"] == [3]
    error_message = "one rule must not switch the other off"
  }
}

run "storage_takes_the_teams_own_key" {
  module {
    source = "./modules/storage"
  }
  variables {
    bucket_name              = "data"
    abort_uploads_after_days = 7
    force_destroy            = false
    kms_key_arn              = "arn:aws:kms:us-east-1:123456789012:key/1"
  }
  assert {
    condition = alltrue([for rule in aws_s3_bucket_server_side_encryption_configuration.this.rule : alltrue([
      one(rule.apply_server_side_encryption_by_default).sse_algorithm == "aws:kms",
      one(rule.apply_server_side_encryption_by_default).kms_master_key_id == "arn:aws:kms:us-east-1:123456789012:key/1",
      rule.bucket_key_enabled,
    ])])
    error_message = "the key must encrypt the objects, through a bucket key"
  }
}

run "iam_grants_just_the_named_statements" {
  module {
    source = "./modules/iam"
  }
  variables {
    name       = "role"
    service    = "lambda.amazonaws.com"
    statements = { Read = { actions = ["s3:GetObject"], resources = ["arn:aws:s3:::data/*"] } }
  }
  assert {
    condition     = one(data.aws_iam_policy_document.permissions.statement).actions == toset(["s3:GetObject"])
    error_message = "the policy must hold the statement's actions"
  }
  assert {
    condition     = one(one(data.aws_iam_policy_document.trust.statement).principals).identifiers == toset(["lambda.amazonaws.com"])
    error_message = "only the service may assume the role"
  }
}

run "iam_refuses_wildcard_actions" {
  command = plan
  module {
    source = "./modules/iam"
  }
  variables {
    name       = "role"
    service    = "lambda.amazonaws.com"
    statements = { Everything = { actions = ["s3:*"], resources = ["*"] } }
  }
  expect_failures = [var.statements]
}

run "iam_refuses_names_that_are_too_long" {
  command = plan
  module {
    source = "./modules/iam"
  }
  variables {
    name       = "a123456789b123456789c123456789d123456789e123456789f123456789g1234"
    service    = "lambda.amazonaws.com"
    statements = { Read = { actions = ["s3:GetObject"], resources = ["*"] } }
  }
  expect_failures = [var.name]
}

run "logs_are_kept_as_long_as_asked" {
  module {
    source = "./modules/logs"
  }
  variables {
    name           = "/aws/lambda/f"
    retention_days = 14
  }
  assert {
    condition     = aws_cloudwatch_log_group.this.retention_in_days == 14
    error_message = "retention must be set"
  }
}

run "an_image_function_runs_its_handler_on_its_architecture" {
  module {
    source = "./modules/function"
  }
  variables {
    name               = "f"
    description        = "test"
    package            = { image = "repository/image:tag", handler = "inference.handler.handler" }
    architecture       = "arm64"
    memory_mb          = 512
    timeout_seconds    = 60
    log_retention_days = 14
    statements         = {}
  }
  assert {
    condition     = aws_lambda_function.this.package_type == "Image" && one(aws_lambda_function.this.image_config).command[0] == "inference.handler.handler"
    error_message = "an image function must carry its handler as the command"
  }
  assert {
    condition     = aws_lambda_function.this.architectures == tolist(["arm64"]) && one(aws_lambda_function.this.logging_config).log_group == "/aws/lambda/f"
    error_message = "architecture and log group must be set"
  }
}

run "a_missing_zip_is_refused" {
  command = plan
  module {
    source = "./modules/function"
  }
  variables {
    name               = "f"
    description        = "test"
    package            = { zip = "/nowhere/f.zip", handler = "f.handler.handler" }
    memory_mb          = 512
    timeout_seconds    = 60
    log_retention_days = 14
    statements         = {}
  }
  expect_failures = [aws_lambda_function.this]
}

run "a_function_is_either_zip_or_image" {
  command = plan
  module {
    source = "./modules/function"
  }
  variables {
    name               = "f"
    description        = "test"
    package            = { handler = "f.handler.handler" }
    memory_mb          = 512
    timeout_seconds    = 60
    log_retention_days = 14
    statements         = {}
  }
  expect_failures = [var.package]
}

run "the_image_is_built_on_its_own_architecture" {
  module {
    source = "./modules/image_builder"
  }
  variables {
    name               = "team3-cosmicai-image-builder"
    architecture       = "arm64"
    bucket_arn         = "arn:aws:s3:::data"
    repository_arn     = "arn:aws:ecr:us-east-1:123456789012:repository/images"
    kms_key_arn        = "arn:aws:kms:us-east-1:123456789012:key/1"
    log_retention_days = 7
  }
  assert {
    condition = (
      one(aws_codebuild_project.this.environment).type == "ARM_CONTAINER" &&
      strcontains(one(aws_codebuild_project.this.environment).image, "aarch64")
    )
    error_message = "arm64 must be built on arm64"
  }
  assert {
    condition     = strcontains(one(aws_codebuild_project.this.source).buildspec, "docker/inference.Dockerfile")
    error_message = "the same Dockerfile must be built"
  }
}

run "an_x86_image_is_built_on_x86" {
  module {
    source = "./modules/image_builder"
  }
  variables {
    name               = "team3-cosmicai-image-builder"
    architecture       = "x86_64"
    bucket_arn         = "arn:aws:s3:::data"
    repository_arn     = "arn:aws:ecr:us-east-1:123456789012:repository/images"
    log_retention_days = 7
  }
  assert {
    condition = (
      one(aws_codebuild_project.this.environment).type == "LINUX_CONTAINER" &&
      strcontains(one(aws_codebuild_project.this.environment).image, "x86_64")
    )
    error_message = "x86_64 must be built on x86_64"
  }
}

run "the_registry_scans_and_never_overwrites" {
  module {
    source = "./modules/registry"
  }
  variables {
    name = "inference"
  }
  assert {
    condition     = aws_ecr_repository.this.image_tag_mutability == "IMMUTABLE" && one(aws_ecr_repository.this.image_scanning_configuration).scan_on_push && aws_ecr_repository.this.force_delete
    error_message = "images must be scanned and immutable, and must not stop a destroy"
  }
  assert {
    condition     = jsondecode(aws_ecr_lifecycle_policy.this.policy).rules[0].selection.countNumber == 5
    error_message = "old images must expire"
  }
}

run "the_state_machine_may_invoke_its_functions_alone" {
  module {
    source = "./modules/state_machine"
  }
  variables {
    name = "machine"
    arn  = "arn:aws:states:us-east-1:123456789012:stateMachine:machine"

    rendezvous_wait_seconds = 61
    definition              = "../statemachine/cosmicai.asl.json"
    bucket_arn              = "arn:aws:s3:::data"
    retry_seconds           = 2
    log_retention_days      = 14
    function_arns = {
      initialize = "arn:aws:lambda:us-east-1:123456789012:function:i"
      inference  = "arn:aws:lambda:us-east-1:123456789012:function:r"
      rendezvous = "arn:aws:lambda:us-east-1:123456789012:function:m"
      summarize  = "arn:aws:lambda:us-east-1:123456789012:function:s"
    }
  }
  assert {
    condition     = jsondecode(aws_sfn_state_machine.this.definition).States.StandardRanks.ItemProcessor.States.StandardInfer.Parameters.FunctionName == "arn:aws:lambda:us-east-1:123456789012:function:r"
    error_message = "the ranks must invoke the inference function"
  }
  assert {
    condition     = one(jsondecode(aws_sfn_state_machine.this.definition).States.AwaitRendezvous.Retry).MaxAttempts == 31
    error_message = "the rendezvous host must be asked every two seconds"
  }
}

run "the_rendezvous_host_has_one_open_port_and_no_ssh" {
  module {
    source = "./modules/rendezvous"
  }
  variables {
    name           = "host"
    server         = "../functions/rendezvous/server.py"
    port           = 10000
    static_address = true
    idle_minutes   = 15
    limits         = { relays = 256, relay_bytes = 4194304 }
    bucket         = { name = "data", arn = "arn:aws:s3:::data" }
  }
  assert {
    condition = (
      aws_vpc_security_group_ingress_rule.ranks.from_port == 10000 && aws_vpc_security_group_ingress_rule.ranks.to_port == 10000 &&
      aws_vpc_security_group_egress_rule.https.from_port == 443 && aws_vpc_security_group_egress_rule.https.to_port == 443
    )
    error_message = "one port in, HTTPS out"
  }
  assert {
    condition     = one(aws_instance.this.metadata_options).http_tokens == "required"
    error_message = "IMDSv2 alone"
  }
  assert {
    condition     = one(aws_instance.this.root_block_device).encrypted && aws_instance.this.instance_initiated_shutdown_behavior == "stop"
    error_message = "the disk must be encrypted, and a host that ends must only stop"
  }
  assert {
    condition     = aws_subnet.this[0].availability_zone == "us-east-1b" && one(aws_instance.this.credit_specification).cpu_credits == "unlimited"
    error_message = "a zone that offers the type, and no throttling"
  }
  assert {
    condition     = length(aws_eip.this) == 1
    error_message = "static_address must give an Elastic IP"
  }
}

run "the_rendezvous_host_uses_the_given_subnet" {
  module {
    source = "./modules/rendezvous"
  }
  variables {
    name           = "host"
    server         = "../functions/rendezvous/server.py"
    port           = 10000
    static_address = false
    idle_minutes   = 15
    limits         = {}
    subnet_id      = "subnet-0123456789abcdef0"
    bucket         = { name = "data", arn = "arn:aws:s3:::data" }
  }
  assert {
    condition     = aws_instance.this.subnet_id == "subnet-0123456789abcdef0" && length(aws_vpc.this) + length(aws_subnet.this) + length(aws_internet_gateway.this) == 0
    error_message = "a subnet of the team's needs no network of the deployment's own"
  }
}

run "a_server_too_large_for_user_data_is_refused" {
  command = plan
  module {
    source = "./modules/rendezvous"
  }
  variables {
    name           = "host"
    server         = "../functions/summarize/page/echarts.min.js"
    port           = 10000
    static_address = false
    idle_minutes   = 15
    limits         = {}
    bucket         = { name = "data", arn = "arn:aws:s3:::data" }
  }
  expect_failures = [aws_instance.this]
}

run "every_role_has_the_boundary" {
  module {
    source = "./modules/iam"
  }
  variables {
    name                 = "role"
    service              = "lambda.amazonaws.com"
    statements           = {}
    permissions_boundary = "arn:aws:iam::123456789012:policy/boundary"
  }
  assert {
    condition     = aws_iam_role.this.permissions_boundary == "arn:aws:iam::123456789012:policy/boundary"
    error_message = "the boundary must be set"
  }
}

run "a_ready_object_starts_a_run_over_its_folder" {
  module {
    source = "./modules/ready"
  }
  variables {
    name              = "ready"
    bucket_name       = "data"
    prefix            = "incoming"
    state_machine_arn = "arn:aws:states:us-east-1:123456789012:stateMachine:machine"
  }
  assert {
    condition     = jsondecode(aws_cloudwatch_event_rule.this.event_pattern).detail.object.key[0].wildcard == "incoming/*/_READY"
    error_message = "only _READY objects below the prefix may start runs"
  }
  assert {
    condition     = jsondecode(aws_cloudwatch_event_target.this.input_transformer[0].input_template) == { bucket = "<bucket>", data_prefix = "<key>", result_path = "results/<key>" }
    error_message = "the run must be over the folder, and have no catalogue"
  }
}

run "arrivals_that_are_next_to_each_other_have_one_catalogue" {
  module {
    source = "./modules/ready"
  }
  variables {
    name              = "ready"
    bucket_name       = "data"
    prefix            = "incoming"
    catalogues        = "catalogues"
    state_machine_arn = "arn:aws:states:us-east-1:123456789012:stateMachine:machine"
  }
  assert {
    condition     = jsondecode(aws_cloudwatch_event_target.this.input_transformer[0].input_template).catalogue == "catalogues/<key>"
    error_message = "Initialize makes the catalogue of the object's key"
  }
}
