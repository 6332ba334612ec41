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
  description = "The prefix of the catalogues to which these runs add their galaxies, one catalogue for each folder that contains folders with a _READY object; null: none."
  type        = string
  default     = null
}

variable "state_machine_arn" {
  description = "The state machine to start."
  type        = string
}

variable "permissions_boundary" {
  description = "ARN of the policy that is the permissions boundary of the role; null: none."
  type        = string
  default     = null
}
