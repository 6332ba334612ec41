# The instances with a GPU, which AWS Batch starts for ranks and ends after them.

data "aws_caller_identity" "current" {}

locals {
  # AWS Batch makes a cluster of Amazon ECS for its compute environment, and gives it one of these names.
  ecs         = "arn:${data.aws_partition.current.partition}:ecs:${data.aws_region.current.name}:${data.aws_caller_identity.current.account_id}"
  cluster_ids = ["AWSBatch-${var.name}-*", "${var.name}_Batch_*"]
  clusters    = [for id in local.cluster_ids : "${local.ecs}:cluster/${id}"]
  instances   = [for id in local.cluster_ids : "${local.ecs}:container-instance/${id}"]
}

# What Amazon ECS's agent needs, from the managed policy AmazonEC2ContainerServiceforEC2Role. Pulling the image and
# writing logs are left out: the role that starts a rank does both.
module "host_iam" {
  source = "../iam"
  count  = local.has_gpu ? 1 : 0

  permissions_boundary = var.permissions_boundary

  name    = "${var.name}-host"
  service = "ec2.amazonaws.com"

  statements = {
    # They have no resource-level permissions: https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazonelasticcontainerservice.html
    FindCluster = { actions = ["ecs:DiscoverPollEndpoint", "ec2:DescribeTags"], resources = ["*"] }
    JoinCluster = {
      actions = [
        "ecs:DeregisterContainerInstance", "ecs:RegisterContainerInstance",
        "ecs:SubmitAttachmentStateChanges", "ecs:SubmitContainerStateChange", "ecs:SubmitTaskStateChange",
      ]
      resources = local.clusters
    }
    RunTasks = {
      actions   = ["ecs:Poll", "ecs:StartTelemetrySession", "ecs:UpdateContainerInstancesState", "ecs:TagResource"]
      resources = local.instances
    }
  }
}

resource "aws_iam_instance_profile" "host" {
  count = local.has_gpu ? 1 : 0
  name  = "${var.name}-host"
  role  = module.host_iam[0].role_name
}

resource "aws_launch_template" "host" {
  count = local.has_gpu ? 1 : 0
  name  = "${var.name}-host"

  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
  }

  # The image for CUDA has several gigabytes.
  block_device_mappings {
    device_name = "/dev/xvda"

    ebs {
      volume_size           = 60
      volume_type           = "gp3"
      encrypted             = true
      delete_on_termination = true
    }
  }
}
