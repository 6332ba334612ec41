resource "aws_cloudwatch_log_group" "this" {
  #checkov:skip=CKV_AWS_158:CloudWatch encrypts at rest; logs hold names, times and errors
  #checkov:skip=CKV_AWS_338:How long logs are kept is the team's choice, log_retention_days
  name              = var.name
  retention_in_days = var.retention_days
}
