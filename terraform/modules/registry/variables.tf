variable "name" {
  description = "Name of the ECR repository."
  type        = string
}

variable "force_delete" {
  description = "Whether destroying may delete a repository that holds images."
  type        = bool
}

variable "keep_images" {
  description = "How many images are kept."
  type        = number
  default     = 5
}
