variable "name" {
  description = "Name of the ECR repository."
  type        = string
}

variable "keep_images" {
  description = "Number of images that are kept."
  type        = number
  default     = 5
}
