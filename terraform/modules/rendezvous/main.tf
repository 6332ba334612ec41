# The host that connects ranks behind NATs: a t4g.nano in a network of its own or in one of the team's subnets.
# Runs that need the host start it, and it stops itself. It stores nothing: a newer image or server.py replaces it.
# There is no SSH: `aws ssm start-session` opens a shell, and `aws ec2 get-console-output` shows the log.

locals {
  instance_type = "t4g.nano"
  own_network   = var.subnet_id == null
  relay_key     = ".cosmicai/relay-key" # where functions/inference/metrics/collectives.py looks for it

  # server.py and its units; EC2 takes 16 KB of user data, compressed by cloud-init's rules.
  user_data = base64gzip(templatefile("${path.module}/cloud-config.yaml", {
    server    = base64gzip(file(var.server))
    port      = var.port
    idle      = var.idle_minutes * 60
    limits    = join(" ", [for name, limit in var.limits : "--${replace(name, "_", "-")} ${format("%d", limit)}"])
    region    = data.aws_region.current.name
    bucket    = var.bucket.name
    relay_key = local.relay_key
  }))
}

data "aws_ssm_parameter" "image" {
  name = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-arm64"
}

data "aws_region" "current" {}

module "iam" {
  source = "../iam"

  permissions_boundary = var.permissions_boundary

  name    = var.name
  service = "ec2.amazonaws.com"

  statements = merge({
    # What Session Manager needs; it has no resource-level permissions:
    # https://docs.aws.amazon.com/systems-manager/latest/userguide/getting-started-create-iam-instance-profile.html
    SessionManager = {
      actions = [
        "ssm:UpdateInstanceInformation", "ssmmessages:CreateControlChannel", "ssmmessages:CreateDataChannel",
        "ssmmessages:OpenControlChannel", "ssmmessages:OpenDataChannel",
      ]
      resources = ["*"]
    }
    PublishRelayKey = { actions = ["s3:PutObject"], resources = ["${var.bucket.arn}/${local.relay_key}"] }
    }, var.bucket.kms_key_arn == null ? {} : {
    EncryptRelayKey = { actions = ["kms:GenerateDataKey"], resources = [var.bucket.kms_key_arn] }
  })
}

resource "aws_iam_instance_profile" "this" {
  name = var.name
  role = module.iam.role_name
}

# Not every zone of a region offers this instance type.
data "aws_ec2_instance_type_offerings" "zones" {
  count         = local.own_network ? 1 : 0
  location_type = "availability-zone"

  filter {
    name   = "instance-type"
    values = [local.instance_type]
  }

  lifecycle {
    postcondition {
      condition     = length(self.locations) > 0
      error_message = "No zone of the region ${data.aws_region.current.name} offers ${local.instance_type}: set rendezvous.address or rendezvous.enabled = false."
    }
  }
}

data "aws_subnet" "given" {
  count = local.own_network ? 0 : 1
  id    = var.subnet_id
}

resource "aws_vpc" "this" {
  #checkov:skip=CKV2_AWS_11:One host with one open port that logs its own clients' counts; flow logs would cost more than the host
  count                = local.own_network ? 1 : 0
  cidr_block           = "10.0.0.0/28"
  enable_dns_hostnames = true
  tags                 = { Name = var.name }
}

# No resource uses the network's default security group, so it allows no traffic.
resource "aws_default_security_group" "closed" {
  count  = local.own_network ? 1 : 0
  vpc_id = aws_vpc.this[0].id
}

resource "aws_subnet" "this" {
  count             = local.own_network ? 1 : 0
  vpc_id            = aws_vpc.this[0].id
  cidr_block        = aws_vpc.this[0].cidr_block
  availability_zone = sort(data.aws_ec2_instance_type_offerings.zones[0].locations)[0]
  tags              = { Name = var.name }

  lifecycle {
    ignore_changes = [availability_zone] # a zone that offers it too is no reason to move
  }
}

resource "aws_internet_gateway" "this" {
  count  = local.own_network ? 1 : 0
  vpc_id = aws_vpc.this[0].id
  tags   = { Name = var.name }
}

resource "aws_route_table" "this" {
  count  = local.own_network ? 1 : 0
  vpc_id = aws_vpc.this[0].id
  tags   = { Name = var.name }

  route {
    cidr_block = "0.0.0.0/0"
    gateway_id = aws_internet_gateway.this[0].id
  }
}

resource "aws_route_table_association" "this" {
  count          = local.own_network ? 1 : 0
  subnet_id      = aws_subnet.this[0].id
  route_table_id = aws_route_table.this[0].id
}

resource "aws_security_group" "this" {
  name        = var.name
  description = "Rendezvous host: one port in, HTTPS out."
  vpc_id      = local.own_network ? aws_vpc.this[0].id : data.aws_subnet.given[0].vpc_id
}

# Lambda functions outside of a VPC have no addresses of their own: the port is open to all, and the server's
# limits, its relay key and the runs' keys protect it (see functions/rendezvous/server.py).
resource "aws_vpc_security_group_ingress_rule" "ranks" {
  security_group_id = aws_security_group.this.id
  description       = "Ranks, from wherever Lambda runs them."
  cidr_ipv4         = "0.0.0.0/0"
  ip_protocol       = "tcp"
  from_port         = var.port
  to_port           = var.port
}

resource "aws_vpc_security_group_egress_rule" "https" {
  security_group_id = aws_security_group.this.id
  description       = "S3 and Session Manager."
  cidr_ipv4         = "0.0.0.0/0"
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
}

resource "aws_instance" "this" {
  #checkov:skip=CKV_AWS_88:Ranks outside of a VPC reach the host by its public address
  #checkov:skip=CKV_AWS_126:The host runs for minutes; its own log has its counters
  ami                                  = data.aws_ssm_parameter.image.insecure_value
  instance_type                        = local.instance_type
  subnet_id                            = local.own_network ? aws_subnet.this[0].id : var.subnet_id
  vpc_security_group_ids               = [aws_security_group.this.id]
  iam_instance_profile                 = aws_iam_instance_profile.this.name
  associate_public_ip_address          = true
  user_data_base64                     = local.user_data
  user_data_replace_on_change          = true
  instance_initiated_shutdown_behavior = "stop"
  ebs_optimized                        = true
  tags                                 = { Name = var.name }

  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
  }

  root_block_device {
    encrypted   = true
    volume_type = "gp3"
    volume_size = 8
  }

  credit_specification {
    cpu_credits = "unlimited" # a host out of credits would lose runs; an hour of full speed costs 0.08 USD
  }

  lifecycle {
    ignore_changes = [associate_public_ip_address] # a stopped host has none

    precondition {
      condition     = length(local.user_data) * 3 / 4 <= 16384
      error_message = "server.py and its units are larger than the 16 KB of user data that EC2 allows: shorten server.py."
    }
  }

  depends_on = [aws_route_table_association.this]
}

resource "aws_eip" "this" {
  count    = var.static_address ? 1 : 0
  instance = aws_instance.this.id
  domain   = "vpc"
  tags     = { Name = var.name }
}
