# A Lambda function with its log group, role and code.

module "logs" {
  source = "../logs"

  name           = "/aws/lambda/${var.name}"
  retention_days = var.log_retention_days
}

module "iam" {
  source = "../iam"

  permissions_boundary = var.permissions_boundary

  name    = var.name
  service = "lambda.amazonaws.com"

  statements = merge(var.statements, var.network == null ? {} : {
    # Lambda demands this before it makes a function in a VPC:
    # https://docs.aws.amazon.com/lambda/latest/dg/configuration-vpc.html
    UseNetwork = {
      actions = [
        "ec2:CreateNetworkInterface", "ec2:DescribeNetworkInterfaces", "ec2:DescribeSubnets", "ec2:DeleteNetworkInterface",
        "ec2:AssignPrivateIpAddresses", "ec2:UnassignPrivateIpAddresses",
      ]
      resources = ["*"]
    }
    }, {
    WriteLogs = {
      actions   = ["logs:CreateLogStream", "logs:PutLogEvents"]
      resources = ["${module.logs.arn}:*"]
    }
  })
}

resource "aws_lambda_function" "this" {
  #checkov:skip=CKV_AWS_50:X-Ray is off: ranks measure their phases themselves, and traces would cost more than they are worth
  #checkov:skip=CKV_AWS_115:Reserved concurrency would reduce that of the account's other functions; max_concurrency limits a run
  #checkov:skip=CKV_AWS_116:Step Functions invokes synchronously and handles every failure
  #checkov:skip=CKV_AWS_117:In a VPC ranks can exchange messages only through S3; a team that wants that sets var.network
  #checkov:skip=CKV_AWS_173:The variables hold names and switches, no secret; Lambda encrypts them with its own key
  #checkov:skip=CKV_AWS_272:Code comes from the team's own zips, by hash, and from its own registry
  function_name = var.name
  description   = var.description
  role          = module.iam.role_arn
  architectures = [var.architecture]
  memory_size   = var.memory_mb
  timeout       = var.timeout_seconds

  reserved_concurrent_executions = coalesce(var.reserved_concurrency, -1)

  package_type     = local.zipped ? "Zip" : "Image"
  filename         = var.package.zip
  source_code_hash = local.zipped ? try(filebase64sha256(var.package.zip), null) : null
  handler          = local.zipped ? var.package.handler : null
  runtime          = local.zipped ? "python3.12" : null
  image_uri        = var.package.image

  dynamic "environment" {
    for_each = length(var.environment) > 0 ? [var.environment] : []

    content {
      variables = environment.value
    }
  }

  dynamic "vpc_config" {
    for_each = var.network == null ? [] : [var.network]

    content {
      subnet_ids         = vpc_config.value.subnet_ids
      security_group_ids = vpc_config.value.security_group_ids
    }
  }

  dynamic "image_config" {
    for_each = local.zipped ? [] : [var.package.handler]

    content {
      command = [image_config.value]
    }
  }

  logging_config {
    log_format = "Text"
    log_group  = module.logs.name
  }

  lifecycle {
    precondition {
      condition     = local.zipped ? fileexists(var.package.zip) : true
      error_message = "${coalesce(var.package.zip, "the zip")} is missing: run `make package` first."
    }
  }
}

locals {
  zipped = var.package.zip != null
}
