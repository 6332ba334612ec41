variable "name" {
  description = "Name of the ECR repository."
  type        = string
}

variable "keep_images" {
  description = "How many images are kept."
  type        = number
  default     = 5
}
