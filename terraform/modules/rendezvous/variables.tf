variable "name" {
  description = "Name of the host, its network and its role."
  type        = string
}

variable "server" {
  description = "Path of server.py, which the host runs."
  type        = string
}

variable "port" {
  description = "TCP port of the host, the only one that is open."
  type        = number
}

variable "subnet_id" {
  description = "Public subnet for the host, in a zone that offers its instance type; null: the module makes a network with such a subnet."
  type        = string
  default     = null
}

variable "static_address" {
  description = "Whether the host keeps its address when it is stopped; an Elastic IP costs 0.005 USD per hour."
  type        = bool
}

variable "idle_minutes" {
  description = "Minutes without connected ranks after which the host stops itself."
  type        = number
}

variable "bucket" {
  description = "The team's bucket, where the host writes its relay key, and the KMS key that encrypts the bucket; null: S3's own keys."
  type        = object({ name = string, arn = string, kms_key_arn = optional(string) })
}

variable "limits" {
  description = "Limits of the host's relays by name, as options of server.py."
  type        = map(number)
}

variable "permissions_boundary" {
  description = "ARN of the policy that is the permissions boundary of the role; null: none."
  type        = string
  default     = null
}
