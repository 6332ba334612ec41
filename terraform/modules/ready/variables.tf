variable "name" {
  description = "Name of the rule and its role."
  type        = string
}

variable "bucket_name" {
  description = "The bucket where partitions arrive."
  type        = string
}

variable "prefix" {
  description = "The prefix below which folders with a _READY object start runs."
  type        = string
}

variable "state_machine_arn" {
  description = "The state machine to start."
  type        = string
}

variable "permissions_boundary" {
  description = "ARN of the policy that bounds the role; null: none."
  type        = string
  default     = null
}
