module "logs" {
  source = "../logs"

  name           = "/aws/vendedlogs/states/${var.name}"
  retention_days = var.log_retention_days
}

module "iam" {
  source = "../iam"

  permissions_boundary = var.permissions_boundary

  name    = "${var.name}-state-machine"
  service = "states.amazonaws.com"

  statements = merge(var.statements, local.batch_statements, {
    InvokeFunctions = {
      actions   = ["lambda:InvokeFunction"]
      resources = values(var.function_arns)
    }
    ReadManifest = {
      actions   = ["s3:GetObject"]
      resources = ["${var.bucket_arn}/*/manifest.json"]
    }
    RecordFailures = {
      actions   = ["s3:PutObject"]
      resources = ["${var.bucket_arn}/*/failures/*.json"]
    }
    # https://docs.aws.amazon.com/step-functions/latest/dg/iam-policies-eg-dist-map.html
    WriteAnswersOfMany = {
      actions   = ["s3:PutObject", "s3:GetObject", "s3:ListMultipartUploadParts", "s3:AbortMultipartUpload"]
      resources = ["${var.bucket_arn}/.cosmicai/*/answers/*"]
    }
    # A Distributed Map starts executions of its own state machine.
    RunMap = {
      actions   = ["states:StartExecution"]
      resources = [var.arn]
    }
    WatchMap = {
      actions   = ["states:DescribeExecution", "states:StopExecution", "states:RedriveExecution"]
      resources = ["${replace(var.arn, ":stateMachine:", ":execution:")}/*"]
    }
    # CloudWatch's log delivery has no resource-level permissions:
    # https://docs.aws.amazon.com/step-functions/latest/dg/cw-logs.html
    DeliverLogs = {
      actions = [
        "logs:CreateLogDelivery", "logs:GetLogDelivery", "logs:UpdateLogDelivery", "logs:DeleteLogDelivery",
        "logs:ListLogDeliveries", "logs:PutResourcePolicy", "logs:DescribeResourcePolicies", "logs:DescribeLogGroups",
      ]
      resources = ["*"]
    }
  })
}

data "aws_partition" "current" {}

locals {
  # https://docs.aws.amazon.com/step-functions/latest/dg/connect-batch.html
  batch_statements = var.batch == null ? {} : {
    SubmitJobs = {
      actions   = ["batch:SubmitJob"]
      resources = [var.batch.queue_arn, var.batch.definition_arn]
    }
    # It has no resource-level permissions: https://docs.aws.amazon.com/service-authorization/latest/reference/list_awsbatch.html
    FollowJobs = {
      actions   = ["batch:DescribeJobs"]
      resources = ["*"]
    }
    StopJobs = {
      actions   = ["batch:TerminateJob"]
      resources = ["${local.in_batch}:job/*"]
    }
    HearOfJobs = {
      actions   = ["events:PutTargets", "events:PutRule", "events:DescribeRule"]
      resources = ["${replace(local.in_batch, ":batch:", ":events:")}:rule/StepFunctionsGetEventsForBatchJobsRule"]
    }
  }
  in_batch = var.batch == null ? "" : split(":job-queue/", var.batch.queue_arn)[0] # arn:aws:batch:REGION:ACCOUNT
}

resource "aws_sfn_state_machine" "this" {
  #checkov:skip=CKV_AWS_284:X-Ray is off, see the functions
  #checkov:skip=CKV_AWS_285:Errors are logged; Step Functions itself keeps the history for 90 days
  name     = var.name
  type     = "STANDARD"
  role_arn = module.iam.role_arn

  definition = templatefile(var.definition, {
    partition      = data.aws_partition.current.partition
    initialize_arn = var.function_arns.initialize
    inference_arn  = var.function_arns.inference
    rendezvous_arn = var.function_arns.rendezvous
    summarize_arn  = var.function_arns.summarize
    retry_seconds  = var.retry_seconds
    batch          = var.batch

    express_attempt_seconds = 240 # ATTEMPT_SECONDS of functions/contract/dispatch.py
    # Ranks whose answers, {} each, may be a state's output. It has 256 KiB at most, and States.ALL does not catch the
    # error if it has more: https://docs.aws.amazon.com/step-functions/latest/dg/service-quotas.html
    most_answers = 10000

    rendezvous_attempts = ceil(var.rendezvous_wait_seconds / 2)
  })

  logging_configuration {
    level                  = "ERROR"
    include_execution_data = false
    log_destination        = "${module.logs.arn}:*"
  }
}
