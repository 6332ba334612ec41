variable "name" {
  description = "Name of the dashboard, and the beginning of the alarms' names."
  type        = string
}

variable "state_machine_arn" {
  description = "The state machine whose executions are watched."
  type        = string
}

variable "function_names" {
  description = "The functions by their part in a run."
  type        = map(string)
}

variable "host_instance_id" {
  description = "The rendezvous host's EC2 instance; null where the deployment has none of its own."
  type        = string
}

variable "host_hours" {
  description = "Hours after which a rendezvous host that still runs is reported."
  type        = number
}

variable "dashboard" {
  description = "Whether to make the dashboard."
  type        = bool
}

variable "alarm_email" {
  description = "Where alarms are sent; null makes none."
  type        = string
}

variable "budget" {
  description = "USD a month, and the team whose tag counts; null: none."
  type        = object({ usd = number, team = string })
  default     = null
}
