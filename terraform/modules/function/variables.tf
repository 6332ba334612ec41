variable "name" {
  description = "Name of the function, its role and its log group."
  type        = string
}

variable "description" {
  description = "What the function does, in a sentence."
  type        = string
}

variable "package" {
  description = "The code: the path of a zip or the URI of an image, and the handler in it."
  type        = object({ zip = optional(string), image = optional(string), handler = string })

  validation {
    condition     = (var.package.zip == null) != (var.package.image == null)
    error_message = "package must have either zip or image."
  }
}

variable "environment" {
  description = "Environment variables of the function."
  type        = map(string)
  default     = {}
}

variable "architecture" {
  description = "Instruction set."
  type        = string
  default     = "arm64"
}

variable "memory_mb" {
  description = "Memory in MB; the function gets one vCPU per 1,769 MB."
  type        = number
}

variable "timeout_seconds" {
  description = "Time limit of one invocation."
  type        = number
}

variable "log_retention_days" {
  description = "Number of days for which the function's logs are kept."
  type        = number
}

variable "statements" {
  description = "Permissions of the function besides writing its logs, by statement name."
  type        = map(object({ actions = list(string), resources = list(string) }))
}

variable "permissions_boundary" {
  description = "ARN of the policy that is the permissions boundary of the role; null: none."
  type        = string
  default     = null
}

variable "reserved_concurrency" {
  description = "Reserved concurrency: this many executions can always run at once, and never more; null: none is reserved."
  type        = number
  default     = null
}

variable "network" {
  description = "Subnets and security groups of a VPC in which the function runs; null: outside of any VPC."
  type        = object({ subnet_ids = list(string), security_group_ids = list(string) })
  default     = null
}
