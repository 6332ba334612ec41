# What a deployment is made of beside the run, against a mock provider.

mock_provider "aws" {
  source = "./tests/mocks"
}

variables {
  team      = "team3"
  image_tag = "abc123"
}

run "an_alias_for_a_key_of_a_data_bucket_is_refused" {
  command = plan
  variables {
    storage = { data_bucket_kms_key_arns = ["arn:aws:kms:us-east-1:123456789012:alias/archive"] }
  }
  expect_failures = [var.storage]
}

run "alarms_say_what_to_do" {
  module {
    source = "./modules/operations"
  }
  variables {
    name              = "team3-cosmicai"
    state_machine_arn = "arn:aws:states:us-east-1:123456789012:stateMachine:machine"
    function_names    = { inference = "team3-cosmicai-inference" }
    host_instance_id  = "i-1"
    host_hours        = 3
    dashboard         = false
    alarm_email       = "operator@example.org"
  }
  assert {
    condition     = toset(keys(aws_cloudwatch_metric_alarm.this)) == toset(["failed-runs", "failing-ranks", "throttled-ranks", "host-still-runs"])
    error_message = "four alarms"
  }
  assert {
    condition     = length(aws_cloudwatch_dashboard.this) == 0
    error_message = "alarms need no dashboard"
  }
}

run "a_budget_is_the_teams_own" {
  module {
    source = "./modules/operations"
  }
  variables {
    name              = "team3-cosmicai"
    state_machine_arn = "arn:aws:states:us-east-1:123456789012:stateMachine:machine"
    function_names    = { inference = "team3-cosmicai-inference" }
    host_instance_id  = null
    host_hours        = 3
    dashboard         = true
    alarm_email       = "operator@example.org"
    budget            = { usd = 50, team = "team3" }
  }
  assert {
    condition     = length(jsondecode(aws_cloudwatch_dashboard.this[0].dashboard_body).widgets) == 4
    error_message = "four pictures"
  }
  assert {
    condition     = aws_budgets_budget.this[0].limit_amount == "50" && one(aws_budgets_budget.this[0].cost_filter).values == tolist(["user:Team$team3"])
    error_message = "50 USD a month of what carries the team's tag"
  }
  assert {
    condition     = alltrue([for notice in aws_budgets_budget.this[0].notification : contains(notice.subscriber_email_addresses, "operator@example.org")])
    error_message = "alarm_email must get the notifications"
  }
}

run "a_deployment_without_a_rendezvous_host_has_no_network" {
  command = plan
  variables {
    rendezvous = { enabled = false }
  }
  assert {
    condition     = length(module.rendezvous_host) == 0
    error_message = "rendezvous.enabled = false must leave out the host and its network"
  }
}

run "a_subnet_that_is_none_is_refused" {
  command = plan
  variables {
    rendezvous = { subnet_id = "vpc-0123456789abcdef0" }
  }
  expect_failures = [var.rendezvous]
}

run "a_budget_without_an_address_is_refused" {
  command = plan
  variables {
    operations = { monthly_budget_usd = 50 }
  }
  expect_failures = [var.operations]
}

run "a_budget_of_nothing_is_refused" {
  command = plan
  variables {
    operations = {
      alarm_email        = "operator@example.org"
      monthly_budget_usd = 0
    }
  }
  expect_failures = [var.operations]
}
