variable "name" {
  description = "Name of the compute environment, the queue and the job definition; the names of roles, log group and security group contain it."
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
  description = "Whether ranks on Fargate get a public address. For instances with a GPU, the subnet decides."
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
  description = "Maximum number of vCPUs of all running ranks together."
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
  description = "Number of days for which the ranks' logs are kept."
  type        = number
}

variable "statements" {
  description = "Permissions of a rank, by statement name."
  type        = map(object({ actions = list(string), resources = list(string) }))
}

variable "gpu" {
  description = "Types of EC2 instances with GPUs for the ranks, one GPU per rank; null: ranks run on Fargate."
  type        = object({ instance_types = list(string) })
  default     = null
}

variable "permissions_boundary" {
  description = "ARN of the policy that is the permissions boundary of the roles; null: none."
  type        = string
  default     = null
}
