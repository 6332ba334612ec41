variable "bucket_name" {
  description = "Name of the bucket."
  type        = string
}

variable "abort_uploads_after_days" {
  description = "Days after which the parts of incomplete uploads are deleted; 0: never."
  type        = number
  default     = 7
}

variable "expire_keys_after_days" {
  description = "Days after which the keys and messages of stopped runs are deleted; 0: never."
  type        = number
  default     = 2
}

variable "force_destroy" {
  description = "Whether Terraform may delete a bucket that holds objects."
  type        = bool
}

variable "kms_key_arn" {
  description = "KMS key that encrypts the objects; null: S3's own keys."
  type        = string
  default     = null
}
