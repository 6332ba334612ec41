variable "name" {
  description = "Name of the state machine."
  type        = string
}

variable "definition" {
  description = "Path of the state machine's template in Amazon States Language."
  type        = string
}

variable "function_arns" {
  description = "Names of the functions, by their role in a run."
  type        = object({ initialize = string, inference = string, rendezvous = string, summarize = string })
}

variable "bucket_arn" {
  description = "Bucket where runs keep their manifest and failures."
  type        = string
}

variable "retry_seconds" {
  description = "Seconds before the first retry of a failed rank."
  type        = number
}

variable "log_retention_days" {
  description = "Number of days for which the logs of executions are kept."
  type        = number
}

variable "arn" {
  description = "ARN that the state machine will have: its role must name the ARN before the state machine exists."
  type        = string
}

variable "rendezvous_wait_seconds" {
  description = "Number of seconds for which a run waits for the rendezvous host."
  type        = number
}

variable "batch" {
  description = "Job queue and job definition for ranks on AWS Batch; null: no ranks on AWS Batch."
  type        = object({ queue_arn = string, definition_arn = string })
  default     = null
}

variable "permissions_boundary" {
  description = "ARN of the policy that is the permissions boundary of the role; null: none."
  type        = string
  default     = null
}

variable "statements" {
  description = "Additional permissions of the state machine, by statement name: the use of the bucket's KMS key."
  type        = map(object({ actions = list(string), resources = list(string) }))
  default     = {}
}
