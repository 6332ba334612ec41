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

variable "catalogues" {
  description = "The prefix of the catalogues that grow by these runs, one for each folder that folders with a _READY object are in; null: none."
  type        = string
  default     = null
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
