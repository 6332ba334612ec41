variable "name" {
  description = "Name of the log group."
  type        = string
}

variable "retention_days" {
  description = "Days that the logs are kept."
  type        = number
}
