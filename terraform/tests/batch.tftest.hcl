# Ranks on AWS Batch, in the root module, against a mock provider. Run `make package` first.

mock_provider "aws" {
  source = "./tests/mocks"
}

variables {
  team      = "team3"
  image_tag = "abc123"
}

run "without_batch_there_is_none" {
  assert {
    condition     = length(module.batch) == 0
    error_message = "batch = null must make nothing"
  }
}

run "a_team_gets_batch_under_its_name" {
  variables {
    batch = { subnet_ids = ["subnet-0123456789abcdef0"] }
  }
  assert {
    condition     = endswith(module.batch[0].queue_arn, "/team3-cosmicai-batch")
    error_message = "the queue must carry the team's name"
  }
}

run "without_batch_the_state_machine_does_not_know_it" {
  module {
    source = "./modules/state_machine"
  }
  variables {
    name = "machine"
    arn  = "arn:aws:states:us-east-1:123456789012:stateMachine:machine"

    rendezvous_wait_seconds = 60
    definition              = "../statemachine/cosmicai.asl.json"
    bucket_arn              = "arn:aws:s3:::data"
    retry_seconds           = 2
    log_retention_days      = 14
    function_arns           = { initialize = "i", inference = "r", rendezvous = "m", summarize = "s" }
  }
  assert {
    condition     = !strcontains(aws_sfn_state_machine.this.definition, "submitJob")
    error_message = "without AWS Batch the state machine must not submit jobs"
  }
}

run "the_state_machine_submits_to_the_teams_queue_alone" {
  module {
    source = "./modules/state_machine"
  }
  variables {
    name = "machine"
    arn  = "arn:aws:states:us-east-1:123456789012:stateMachine:machine"

    rendezvous_wait_seconds = 60
    definition              = "../statemachine/cosmicai.asl.json"
    bucket_arn              = "arn:aws:s3:::data"
    retry_seconds           = 2
    log_retention_days      = 14
    function_arns           = { initialize = "i", inference = "r", rendezvous = "m", summarize = "s" }
    batch = {
      queue_arn      = "arn:aws:batch:us-east-1:123456789012:job-queue/q"
      definition_arn = "arn:aws:batch:us-east-1:123456789012:job-definition/d:7"
    }
  }
  assert {
    condition = alltrue([for state in ["BatchJob", "BatchArray"] :
      jsondecode(aws_sfn_state_machine.this.definition).States[state].Parameters.JobQueue == var.batch.queue_arn &&
      jsondecode(aws_sfn_state_machine.this.definition).States[state].Parameters.JobDefinition == var.batch.definition_arn
    ])
    error_message = "both kinds of job must go to the queue"
  }
  assert {
    condition     = local.batch_statements.SubmitJobs.resources == tolist([var.batch.queue_arn, var.batch.definition_arn])
    error_message = "the role must submit to this queue alone"
  }
  assert {
    condition = (
      one(local.batch_statements.StopJobs.resources) == "arn:aws:batch:us-east-1:123456789012:job/*" &&
      one(local.batch_statements.HearOfJobs.resources) == "arn:aws:events:us-east-1:123456789012:rule/StepFunctionsGetEventsForBatchJobsRule"
    )
    error_message = "the role must hear of jobs by Step Functions' own rule, and stop them in this account alone"
  }
}

run "a_rank_is_the_image_with_the_command_rank" {
  module {
    source = "./modules/batch"
  }
  variables {
    name               = "team3-cosmicai-batch"
    image_uri          = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/team3-cosmicai-inference:abc123-arm64-lean"
    architecture       = "arm64"
    subnet_ids         = ["subnet-0123456789abcdef0"]
    public             = false
    vcpus              = 8
    memory_mb          = 32768
    max_vcpus          = 64
    spot               = true
    timeout_seconds    = 7200
    log_retention_days = 30
    statements         = { ReadPartitions = { actions = ["s3:GetObject"], resources = ["arn:aws:s3:::team3-cosmicai/*"] } }
  }
  assert {
    condition = (
      jsondecode(aws_batch_job_definition.this.container_properties).command == ["rank"] &&
      jsondecode(aws_batch_job_definition.this.container_properties).image == var.image_uri &&
      jsondecode(aws_batch_job_definition.this.container_properties).runtimePlatform.cpuArchitecture == "ARM64" &&
      jsondecode(aws_batch_job_definition.this.container_properties).networkConfiguration.assignPublicIp == "DISABLED"
    )
    error_message = "a job must start the image with the command rank, on its architecture, without a public address"
  }
  assert {
    condition = alltrue([for name, value in { VCPUS = "8", MEMORY_MB = "32768", CAPACITY = "fargate_spot", PUBLIC_ADDRESS = "false" } :
      contains(jsondecode(aws_batch_job_definition.this.container_properties).environment, { name = name, value = value })
    ])
    error_message = "a job must get the rank's vCPUs and memory as variables, and what it is billed as"
  }
  assert {
    condition     = local.repository == "arn:aws:ecr:eu-west-1:123456789012:repository/team3-cosmicai-inference"
    error_message = "the image is pulled from its own repository alone"
  }
  assert {
    condition     = one(aws_batch_compute_environment.this.compute_resources).type == "FARGATE_SPOT" && one(aws_batch_compute_environment.this.compute_resources).max_vcpus == 64
    error_message = "spot must choose Fargate Spot"
  }
  assert {
    condition     = aws_vpc_security_group_egress_rule.https.to_port == 443
    error_message = "a rank must reach others by HTTPS alone"
  }
  assert {
    condition = (
      one(aws_batch_job_definition.this.retry_strategy).attempts == 3 &&
      [for rule in one(aws_batch_job_definition.this.retry_strategy).evaluate_on_exit : rule.action][4] == "EXIT"
    )
    error_message = "what is not the service's fault must not be tried again"
  }
}

run "an_image_of_a_public_registry_needs_no_permission" {
  module {
    source = "./modules/batch"
  }
  variables {
    name               = "team3-cosmicai-batch"
    image_uri          = "public.ecr.aws/somebody/inference:1"
    architecture       = "x86_64"
    subnet_ids         = ["subnet-0123456789abcdef0"]
    public             = true
    vcpus              = 4
    memory_mb          = 16384
    max_vcpus          = 64
    spot               = false
    timeout_seconds    = 7200
    log_retention_days = 30
    statements         = {}
  }
  assert {
    condition     = local.repository == null && one(aws_batch_compute_environment.this.compute_resources).type == "FARGATE"
    error_message = "a public registry needs no role to pull from, and spot = false takes plain Fargate"
  }
}

run "ranks_with_a_gpu_run_on_instances" {
  module {
    source = "./modules/batch"
  }
  variables {
    name               = "team3-cosmicai-batch"
    image_uri          = "123456789012.dkr.ecr.us-east-1.amazonaws.com/team3-cosmicai-inference:abc123-x86_64-cuda"
    architecture       = "x86_64"
    subnet_ids         = ["subnet-0123456789abcdef0"]
    public             = true
    vcpus              = 4
    memory_mb          = 14336
    max_vcpus          = 64
    spot               = true
    timeout_seconds    = 7200
    log_retention_days = 30
    statements         = {}
    gpu                = { instance_types = ["g6.xlarge", "g5.xlarge"] }
  }
  assert {
    condition = (
      one(aws_batch_compute_environment.this.compute_resources).type == "SPOT" &&
      one(aws_batch_compute_environment.this.compute_resources).allocation_strategy == "SPOT_PRICE_CAPACITY_OPTIMIZED" &&
      one(aws_batch_compute_environment.this.compute_resources).min_vcpus == 0 &&
      one(one(aws_batch_compute_environment.this.compute_resources).ec2_configuration).image_type == "ECS_AL2023_NVIDIA"
    )
    error_message = "ranks must run on Spot instances with NVIDIA's drivers, of which none waits"
  }
  assert {
    condition = (
      contains(jsondecode(aws_batch_job_definition.this.container_properties).resourceRequirements, { type = "GPU", value = "1" }) &&
      !can(jsondecode(aws_batch_job_definition.this.container_properties).networkConfiguration) &&
      !can(jsondecode(aws_batch_job_definition.this.container_properties).runtimePlatform) &&
      one(aws_batch_job_definition.this.platform_capabilities) == "EC2"
    )
    error_message = "a job must have one GPU, and nothing that only Fargate knows"
  }
  assert {
    condition = alltrue([for name, value in { CAPACITY = "ec2_spot", DEVICE = "auto" } :
      contains(jsondecode(aws_batch_job_definition.this.container_properties).environment, { name = name, value = value })
    ])
    error_message = "a job must take a GPU, and know what it is billed as"
  }
  assert {
    condition = (
      aws_launch_template.host[0].metadata_options[0].http_tokens == "required" &&
      tobool(aws_launch_template.host[0].block_device_mappings[0].ebs[0].encrypted)
    )
    error_message = "an instance must have an encrypted disk, and give its metadata for a token alone"
  }
}

run "a_team_gets_instances_with_a_gpu" {
  variables {
    image     = { variant = "cuda" }
    inference = { architecture = "x86_64" }
    batch     = { subnet_ids = ["subnet-0123456789abcdef0"], spot = false, gpu = { instance_types = ["g6.xlarge"] } }
  }
  assert {
    condition     = endswith(local.image_uri, "-x86_64-cuda")
    error_message = "the image must be the one for CUDA"
  }
}

run "a_gpu_needs_the_image_for_cuda" {
  command = plan
  variables {
    image     = { variant = "torch" }
    inference = { architecture = "x86_64" }
    batch     = { subnet_ids = ["subnet-0123456789abcdef0"], gpu = { instance_types = ["g6.xlarge"] } }
  }
  expect_failures = [var.batch]
}

run "the_image_for_cuda_is_for_x86_64" {
  command = plan
  variables {
    image     = { variant = "cuda" }
    inference = { architecture = "arm64" }
  }
  expect_failures = [var.image]
}

run "instances_without_an_nvidia_gpu_are_refused" {
  command = plan
  variables {
    image     = { variant = "cuda" }
    inference = { architecture = "x86_64" }
    batch     = { subnet_ids = ["subnet-0123456789abcdef0"], gpu = { instance_types = ["g6.xlarge", "g4ad.xlarge"] } }
  }
  expect_failures = [var.batch]
}

run "a_rank_with_a_gpu_has_whole_vcpus_and_memory" {
  command = plan
  variables {
    image     = { variant = "cuda" }
    inference = { architecture = "x86_64" }
    batch     = { subnet_ids = ["subnet-0123456789abcdef0"], gpu = { instance_types = ["g6.xlarge"], memory_mb = 512 } }
  }
  expect_failures = [var.batch]
}

run "subnets_are_ids" {
  command = plan
  variables {
    batch = { subnet_ids = ["10.0.0.0/24"] }
  }
  expect_failures = [var.batch]
}

run "a_size_that_fargate_does_not_have" {
  command = plan
  variables {
    batch = { subnet_ids = ["subnet-0123456789abcdef0"], vcpus = 4, memory_mb = 65536 }
  }
  expect_failures = [var.batch]
}

run "fewer_vcpus_than_a_rank_needs" {
  command = plan
  variables {
    batch = { subnet_ids = ["subnet-0123456789abcdef0"], max_vcpus = 2 }
  }
  expect_failures = [var.batch]
}

run "less_time_than_batch_gives" {
  command = plan
  variables {
    batch = { subnet_ids = ["subnet-0123456789abcdef0"], timeout_seconds = 30 }
  }
  expect_failures = [var.batch]
}
