# Builds the inference image on AWS, on a machine of the image's architecture, from a context that `make deploy` uploads.

module "logs" {
  source = "../logs"

  name           = "/aws/codebuild/${var.name}"
  retention_days = var.log_retention_days
}

module "iam" {
  source = "../iam"

  permissions_boundary = var.permissions_boundary

  name    = var.name
  service = "codebuild.amazonaws.com"

  statements = merge({
    ReadContext = { actions = ["s3:GetObject"], resources = ["${var.bucket_arn}/${local.contexts}/*"] }
    # It has no resource-level permissions: https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazonelasticcontainerregistry.html
    SignInToRegistry = { actions = ["ecr:GetAuthorizationToken"], resources = ["*"] }
    # https://docs.aws.amazon.com/AmazonECR/latest/userguide/image-push-iam.html
    PushImage = {
      actions = [
        "ecr:BatchCheckLayerAvailability",
        "ecr:BatchGetImage",
        "ecr:CompleteLayerUpload",
        "ecr:InitiateLayerUpload",
        "ecr:PutImage",
        "ecr:UploadLayerPart",
      ]
      resources = [var.repository_arn]
    }
    WriteLogs = { actions = ["logs:CreateLogStream", "logs:PutLogEvents"], resources = ["${module.logs.arn}:*"] }
    }, var.kms_key_arn == null ? {} : {
    DecryptContext = { actions = ["kms:Decrypt"], resources = [var.kms_key_arn] }
  })
}

resource "aws_codebuild_project" "this" {
  #checkov:skip=CKV_AWS_316:Docker runs only in privileged environments; its role reads one folder and pushes to one repository
  #checkov:skip=CKV_AWS_147:It keeps no artifacts that a key would encrypt
  name          = var.name
  description   = "Builds the inference image and pushes it to its repository."
  service_role  = module.iam.role_arn
  build_timeout = 30 # minutes

  artifacts {
    type = "NO_ARTIFACTS"
  }

  environment {
    type                        = local.environment.type
    image                       = local.environment.image
    image_pull_credentials_type = "CODEBUILD"
    compute_type                = "BUILD_GENERAL1_SMALL"
    privileged_mode             = true
  }

  source {
    type      = "NO_SOURCE"
    buildspec = file("${path.module}/buildspec.yaml")
  }

  logs_config {
    cloudwatch_logs {
      group_name = module.logs.name
    }
  }
}

locals {
  contexts = ".cosmicai/build" # as cosmicai/deploy/codebuild.py has it
  # CodeBuild's images provide only Docker and the AWS command line; the Dockerfile pins the content of the inference image.
  # CodeBuild patches and caches a version such as 5.0, but not versions that end in a date.
  environment = {
    arm64  = { type = "ARM_CONTAINER", image = "aws/codebuild/amazonlinux-aarch64-standard:3.0" }
    x86_64 = { type = "LINUX_CONTAINER", image = "aws/codebuild/amazonlinux-x86_64-standard:5.0" }
  }[var.architecture]
}
