variable "name" {
  description = "Name of the security group and of the endpoint."
  type        = string
}

variable "subnet_ids" {
  description = "Private subnets where the ranks run, all of one VPC."
  type        = list(string)
}

variable "route_table_ids" {
  description = "Route tables that get a gateway endpoint for S3; empty if they have one already."
  type        = list(string)
}

variable "redis_port" {
  description = "Port of a Redis server in the same VPC; null: there is none."
  type        = number
  default     = null
}
