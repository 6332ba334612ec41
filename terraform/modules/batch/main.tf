# Ranks beyond Lambda's limits: an array job of AWS Batch, one job per rank, from the same image. Fargate runs them, or
# instances with a GPU.

locals {
  has_gpu  = var.gpu != null
  capacity = local.has_gpu ? (var.spot ? "SPOT" : "EC2") : (var.spot ? "FARGATE_SPOT" : "FARGATE")
  # arn:…:repository/NAME of an image in ECR; a public registry needs no permission.
  in_ecr     = try(regex("^([0-9]{12})\\.dkr\\.ecr\\.([a-z0-9-]+)\\.amazonaws\\.com[a-z.]*/([^:@]+)", var.image_uri), null)
  repository = local.in_ecr == null ? null : "arn:${data.aws_partition.current.partition}:ecr:${local.in_ecr[1]}:${local.in_ecr[0]}:repository/${local.in_ecr[2]}"
}

data "aws_partition" "current" {}
data "aws_region" "current" {}

data "aws_subnet" "first" {
  id = var.subnet_ids[0]
}

module "logs" {
  source = "../logs"

  name           = "/aws/batch/${var.name}"
  retention_days = var.log_retention_days
}

# What the rank itself may do, as on Lambda.
module "rank_iam" {
  source = "../iam"

  permissions_boundary = var.permissions_boundary

  name       = "${var.name}-rank"
  service    = "ecs-tasks.amazonaws.com"
  statements = var.statements
}

# What Fargate needs to start it.
module "start_iam" {
  source = "../iam"

  permissions_boundary = var.permissions_boundary

  name    = "${var.name}-start"
  service = "ecs-tasks.amazonaws.com"

  statements = merge({
    WriteLogs = {
      actions   = ["logs:CreateLogStream", "logs:PutLogEvents"]
      resources = ["${module.logs.arn}:*"]
    }
    }, local.in_ecr == null ? {} : {
    # It has no resource-level permissions: https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazonelasticcontainerregistry.html
    LogInToRegistry = { actions = ["ecr:GetAuthorizationToken"], resources = ["*"] }
    PullImage = {
      actions   = ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
      resources = [local.repository]
    }
  })
}

resource "aws_security_group" "this" {
  name        = var.name
  description = "Ranks on AWS Batch: nobody reaches them"
  vpc_id      = data.aws_subnet.first.vpc_id
}

resource "aws_vpc_security_group_egress_rule" "https" {
  security_group_id = aws_security_group.this.id
  description       = "S3, the registry and CloudWatch's logs"
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
  cidr_ipv4         = "0.0.0.0/0"
}

# AWS Batch uses its service-linked role, and creates it if the account has none.
resource "aws_batch_compute_environment" "this" {
  compute_environment_name = var.name
  type                     = "MANAGED"

  compute_resources {
    type               = local.capacity
    max_vcpus          = var.max_vcpus
    subnets            = var.subnet_ids
    security_group_ids = [aws_security_group.this.id]

    # Of instances alone; there is none while no rank waits.
    min_vcpus           = local.has_gpu ? 0 : null
    instance_type       = local.has_gpu ? var.gpu.instance_types : null
    instance_role       = one(aws_iam_instance_profile.host[*].arn)
    allocation_strategy = local.has_gpu ? (var.spot ? "SPOT_PRICE_CAPACITY_OPTIMIZED" : "BEST_FIT_PROGRESSIVE") : null

    dynamic "ec2_configuration" {
      for_each = local.has_gpu ? ["ECS_AL2023_NVIDIA"] : []

      content {
        image_type = ec2_configuration.value
      }
    }

    dynamic "launch_template" {
      for_each = aws_launch_template.host

      content {
        launch_template_id = launch_template.value.id
        version            = launch_template.value.latest_version
      }
    }
  }
}

resource "aws_batch_job_queue" "this" {
  name     = var.name
  state    = "ENABLED"
  priority = 1

  compute_environment_order {
    order               = 1
    compute_environment = aws_batch_compute_environment.this.arn
  }

  # AWS does not delete a compute environment that a queue still names.
  lifecycle {
    replace_triggered_by = [aws_batch_compute_environment.this.compute_resources[0].type]
  }
}

resource "aws_batch_job_definition" "this" {
  #checkov:skip=CKV_AWS_210:No container property makes it privileged
  name                  = var.name
  type                  = "container"
  platform_capabilities = [local.has_gpu ? "EC2" : "FARGATE"]
  propagate_tags        = true

  container_properties = jsonencode(merge(local.has_gpu ? {} : {
    runtimePlatform = {
      cpuArchitecture       = upper(var.architecture)
      operatingSystemFamily = "LINUX"
    }
    networkConfiguration = { assignPublicIp = var.public ? "ENABLED" : "DISABLED" }
    }, {
    image            = var.image_uri
    command          = ["rank"]
    jobRoleArn       = module.rank_iam.role_arn
    executionRoleArn = module.start_iam.role_arn

    resourceRequirements = concat([
      { type = "VCPU", value = tostring(var.vcpus) },
      { type = "MEMORY", value = tostring(var.memory_mb) },
    ], local.has_gpu ? [{ type = "GPU", value = "1" }] : [])
    environment = [
      { name = "AWS_DEFAULT_REGION", value = data.aws_region.current.name },
      { name = "MEMORY_MB", value = tostring(var.memory_mb) },
      { name = "VCPUS", value = tostring(var.vcpus) },
      # What the rank is billed as, for the run's cost.
      { name = "CAPACITY", value = local.capacity == "SPOT" ? "ec2_spot" : lower(local.capacity) },
      { name = "PUBLIC_ADDRESS", value = tostring(local.has_gpu ? data.aws_subnet.first.map_public_ip_on_launch : var.public) },
      { name = "DEVICE", value = local.has_gpu ? "auto" : "cpu" },
    ]
    logConfiguration = {
      logDriver = "awslogs"
      options   = { awslogs-group = module.logs.name, awslogs-region = data.aws_region.current.name, awslogs-stream-prefix = "rank" }
    }
  }))

  timeout {
    attempt_duration_seconds = var.timeout_seconds
  }

  # As on Lambda, only failures of the service are retried. A rank that ran out of time or memory would do so again, and
  # be billed again. The first condition that matches counts.
  retry_strategy {
    attempts = 3

    evaluate_on_exit {
      action           = "RETRY"
      on_status_reason = "Your Spot Task was interrupted*"
    }
    evaluate_on_exit {
      action    = "RETRY"
      on_reason = "CannotPullContainerError*"
    }
    evaluate_on_exit {
      action    = "RETRY"
      on_reason = "ResourceInitializationError*"
    }
    evaluate_on_exit {
      action       = "RETRY"
      on_exit_code = "75" # TRY_AGAIN of functions/contract/batch_jobs.py
    }
    evaluate_on_exit {
      action    = "EXIT"
      on_reason = "*"
    }
  }
}
