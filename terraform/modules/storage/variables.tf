variable "bucket_name" {
  description = "Name of the bucket."
  type        = string
}

variable "abort_uploads_after_days" {
  description = "Days after which parts of broken uploads are deleted; null leaves the rule out."
  type        = number
}

variable "force_destroy" {
  description = "Whether destroying may delete a bucket that holds objects."
  type        = bool
}

variable "kms_key_arn" {
  description = "KMS key that encrypts the objects; null: S3's own keys."
  type        = string
  default     = null
}
