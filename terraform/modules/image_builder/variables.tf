variable "name" {
  description = "Name of the CodeBuild project, its role and its log group."
  type        = string
}

variable "architecture" {
  description = "Instruction set of the image and of the machine that builds it: arm64 or x86_64."
  type        = string
}

variable "bucket_arn" {
  description = "ARN of the bucket for build contexts, which are uploaded below .cosmicai/build/."
  type        = string
}

variable "kms_key_arn" {
  description = "ARN of the KMS key that encrypts the bucket; null: S3's own keys."
  type        = string
  default     = null
}

variable "repository_arn" {
  description = "ARN of the ECR repository that images are pushed to."
  type        = string
}

variable "log_retention_days" {
  description = "Number of days for which the builds' logs are kept."
  type        = number
}

variable "permissions_boundary" {
  description = "ARN of the policy that is the permissions boundary of the role; null: none."
  type        = string
  default     = null
}
