variable "name" {
  description = "Name of the log group."
  type        = string
}

variable "retention_days" {
  description = "Number of days for which the logs are kept."
  type        = number
}
