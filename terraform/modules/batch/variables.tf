variable "name" {
  description = "Name of the compute environment, the queue and the job definition; roles, log group and security group carry it."
  type        = string
}

variable "image_uri" {
  description = "URI of the inference image."
  type        = string
}

variable "architecture" {
  description = "Instruction set of the image: arm64 or x86_64."
  type        = string
}

variable "subnet_ids" {
  description = "Subnets where the ranks run, all of one VPC."
  type        = list(string)
}

variable "public" {
  description = "Whether ranks on Fargate get a public address. Of instances with a GPU, the subnet decides."
  type        = bool
}

variable "vcpus" {
  description = "vCPUs of a rank."
  type        = number
}

variable "memory_mb" {
  description = "Memory of a rank in MB."
  type        = number
}

variable "max_vcpus" {
  description = "Most vCPUs that all running ranks may use together."
  type        = number
}

variable "spot" {
  description = "Whether ranks run on Spot capacity."
  type        = bool
}

variable "timeout_seconds" {
  description = "Time limit of one rank."
  type        = number
}

variable "log_retention_days" {
  description = "Days that the ranks' logs are kept."
  type        = number
}

variable "statements" {
  description = "Permissions of a rank, by statement name."
  type        = map(object({ actions = list(string), resources = list(string) }))
}

variable "gpu" {
  description = "Types of the instances with a GPU on which ranks run, each with a GPU of its own; null: on Fargate."
  type        = object({ instance_types = list(string) })
  default     = null
}

variable "permissions_boundary" {
  description = "ARN of the policy that bounds the roles; null: none."
  type        = string
  default     = null
}
