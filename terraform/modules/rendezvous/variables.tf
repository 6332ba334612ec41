variable "name" {
  description = "Name of the host, its network, role and log group."
  type        = string
}

variable "server" {
  description = "Path of server.py, which the host runs."
  type        = string
}

variable "port" {
  description = "The one open TCP port."
  type        = number
}

variable "static_address" {
  description = "Whether the host keeps its address when it is stopped; an Elastic IP costs 0.005 USD an hour."
  type        = bool
}

variable "idle_minutes" {
  description = "Minutes without a client after which the host stops itself."
  type        = number
}

variable "log_retention_days" {
  description = "Days that the host's logs are kept."
  type        = number
}

variable "permissions_boundary" {
  description = "ARN of the policy that bounds the role; null: none."
  type        = string
  default     = null
}
