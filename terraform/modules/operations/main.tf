# A dashboard for the operator and, if there is an address to send them to, alarms.

data "aws_region" "current" {}

locals {
  team       = trimsuffix(var.name, "-cosmicai") # as `cosmicai --team` takes it
  executions = { StateMachineArn = var.state_machine_arn }
  inference  = { FunctionName = var.function_names.inference }

  alarms = merge(
    {
      failed-runs = {
        namespace = "AWS/States", metric = "ExecutionsFailed", dimensions = local.executions, statistic = "Sum"
        threshold = 0, periods = 1, period = 300, message = "A run has failed: `cosmicai status --team ${local.team}` says why."
      }
      throttled-ranks = {
        namespace = "AWS/Lambda", metric = "Throttles", dimensions = local.inference, statistic = "Sum"
        threshold = 100, periods = 1, period = 300
        message   = "Lambda throttles the ranks: ask for a higher quota of concurrent executions, or set inference.max_concurrency."
      }
      failing-ranks = {
        namespace = "AWS/Lambda", metric = "Errors", dimensions = local.inference, statistic = "Sum"
        threshold = 10, periods = 1, period = 300, message = "Ranks fail: `cosmicai logs RANK --team ${local.team}` shows the log of one."
      }
    },
    var.host_instance_id == null ? {} : {
      host-still-runs = {
        namespace = "AWS/EC2", metric = "CPUUtilization", dimensions = { InstanceId = var.host_instance_id }
        statistic = "SampleCount", threshold = 0, periods = var.host_hours, period = 3600
        message   = "The rendezvous host has run for ${var.host_hours} hours without a pause; it should stop itself when idle. Stop it in the EC2 console."
      }
    },
  )
}

resource "aws_cloudwatch_dashboard" "this" {
  count          = var.dashboard ? 1 : 0
  dashboard_name = var.name

  dashboard_body = jsonencode({
    widgets = [for place, widget in [
      { title = "Runs", metrics = [for name in ["ExecutionsStarted", "ExecutionsSucceeded", "ExecutionsFailed", "ExecutionsAborted"] : ["AWS/States", name, "StateMachineArn", var.state_machine_arn]] },
      { title = "Ranks", metrics = [for name in ["Invocations", "Errors", "Throttles"] : ["AWS/Lambda", name, "FunctionName", var.function_names.inference]] },
      { title = "Ranks at once", metrics = [["AWS/Lambda", "ConcurrentExecutions", "FunctionName", var.function_names.inference, { stat = "Maximum" }]] },
      { title = "Seconds of a rank", metrics = [for stat in ["p50", "p95", "Maximum"] : ["AWS/Lambda", "Duration", "FunctionName", var.function_names.inference, { stat = stat }]] },
      ] : {
      type = "metric", x = (place % 2) * 12, y = floor(place / 2) * 6, width = 12, height = 6
      properties = {
        title  = widget.title, metrics = widget.metrics, stat = "Sum", period = 60, view = "timeSeries"
        region = data.aws_region.current.name
      }
    }]
  })
}

resource "aws_sns_topic" "alarms" {
  #checkov:skip=CKV_AWS_26:Messages contain only the name and the description of an alarm
  count = var.alarm_email == null ? 0 : 1
  name  = "${var.name}-alarms"
}

resource "aws_sns_topic_subscription" "email" {
  count     = var.alarm_email == null ? 0 : 1
  topic_arn = aws_sns_topic.alarms[0].arn
  protocol  = "email"
  endpoint  = var.alarm_email
}

resource "aws_cloudwatch_metric_alarm" "this" {
  for_each = var.alarm_email == null ? {} : local.alarms

  alarm_name          = "${var.name}-${each.key}"
  alarm_description   = each.value.message
  namespace           = each.value.namespace
  metric_name         = each.value.metric
  dimensions          = each.value.dimensions
  statistic           = each.value.statistic
  comparison_operator = "GreaterThanThreshold"
  threshold           = each.value.threshold
  evaluation_periods  = each.value.periods
  period              = each.value.period
  treat_missing_data  = "notBreaching"
  alarm_actions       = [aws_sns_topic.alarms[0].arn]
}

resource "aws_budgets_budget" "this" {
  count = var.budget == null ? 0 : 1

  name         = var.name
  budget_type  = "COST"
  limit_amount = tostring(var.budget.usd)
  limit_unit   = "USD"
  time_unit    = "MONTHLY"

  cost_filter {
    name   = "TagKeyValue"
    values = [format("user:Team$%s", var.budget.team)]
  }

  dynamic "notification" {
    for_each = { ACTUAL = 80, FORECASTED = 100 }

    content {
      notification_type          = notification.key
      comparison_operator        = "GREATER_THAN"
      threshold                  = notification.value
      threshold_type             = "PERCENTAGE"
      subscriber_email_addresses = [var.alarm_email]
    }
  }
}
