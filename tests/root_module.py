"""A root module for the scripts of make: it has the variables that they read, and needs no AWS."""

ROOT_MODULE = """
variable "team" { type = string }
variable "region" { default = "us-east-1" }
variable "inference" {
  type    = object({ architecture = optional(string, "arm64") })
  default = {}
}
variable "image" {
  type    = object({ variant = optional(string, "lean"), extra_packages = optional(list(string), []) })
  default = {}
}
variable "storage" {
  type    = object({ delete_results_on_destroy = optional(bool, false) })
  default = {}
}
variable "image_tag" { default = null }
variable "image_uri" { default = null }
variable "image_builder" { default = "docker" }
resource "terraform_data" "it" { input = var.team }
"""
