# Starts a run when an object named _READY appears in a folder below a prefix, to process new observations when they
# arrive. Initialize removes _READY from the key, so that data_prefix is the folder. The catalogue is that of the folder
# above.

locals {
  payload = merge(
    { bucket = "<bucket>", data_prefix = "<key>", result_path = "results/<key>" },
    var.catalogues == null ? {} : { catalogue = "${var.catalogues}/<key>" },
  )
}

resource "aws_s3_bucket_notification" "this" {
  bucket      = var.bucket_name
  eventbridge = true
}

resource "aws_cloudwatch_event_rule" "this" {
  name        = var.name
  description = "An object _READY below ${var.prefix}/ starts a run over its folder."

  event_pattern = jsonencode({
    source      = ["aws.s3"]
    detail-type = ["Object Created"]
    detail = {
      bucket = { name = [var.bucket_name] }
      object = { key = [{ wildcard = "${var.prefix}/*/_READY" }] }
    }
  })
}

module "iam" {
  source = "../iam"

  permissions_boundary = var.permissions_boundary

  name       = var.name
  service    = "events.amazonaws.com"
  statements = { StartRun = { actions = ["states:StartExecution"], resources = [var.state_machine_arn] } }
}

resource "aws_cloudwatch_event_target" "this" {
  rule     = aws_cloudwatch_event_rule.this.name
  arn      = var.state_machine_arn
  role_arn = module.iam.role_arn

  input_transformer {
    input_paths    = { bucket = "$.detail.bucket.name", key = "$.detail.object.key" }
    input_template = "{${join(", ", [for name, value in local.payload : "\"${name}\": \"${value}\""])}}"
  }
}
