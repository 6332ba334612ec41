variable "name" {
  description = "Name of the dashboard, and the beginning of the alarms' names."
  type        = string
}

variable "state_machine_arn" {
  description = "The state machine whose executions are watched."
  type        = string
}

variable "function_names" {
  description = "Names of the functions, by their role in a run."
  type        = map(string)
}

variable "host_instance_id" {
  description = "Id of the rendezvous host's EC2 instance; null if the deployment has no host of its own."
  type        = string
}

variable "host_hours" {
  description = "Hours after which an alarm reports a rendezvous host that is still running."
  type        = number
}

variable "dashboard" {
  description = "Whether to make the dashboard."
  type        = bool
}

variable "alarm_email" {
  description = "Address for alarms; null: no alarms."
  type        = string
}

variable "budget" {
  description = "Monthly budget in USD, and the team whose tag it covers; null: no budget."
  type        = object({ usd = number, team = string })
  default     = null
}
