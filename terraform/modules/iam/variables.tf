variable "name" {
  description = "Name of the role and of its policy."
  type        = string

  validation {
    condition     = length(var.name) <= 64
    error_message = "name must have at most 64 characters (IAM's limit); choose a shorter team name."
  }
}

variable "service" {
  description = "Service principal that may assume the role, such as lambda.amazonaws.com."
  type        = string
}

variable "statements" {
  description = "Permissions by statement name."
  type        = map(object({ actions = list(string), resources = list(string) }))

  validation {
    condition     = alltrue(flatten([for statement in var.statements : [for action in statement.actions : !strcontains(action, "*")]]))
    error_message = "statements must list their actions by name, without wildcards."
  }
}

variable "permissions_boundary" {
  description = "ARN of the policy that is the permissions boundary of the role; null: none."
  type        = string
  default     = null
}
