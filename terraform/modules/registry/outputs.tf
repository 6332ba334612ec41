output "repository_arn" {
  description = "ARN of the repository."
  value       = aws_ecr_repository.this.arn
}

output "repository_url" {
  description = "Where images are pushed, without a tag."
  value       = aws_ecr_repository.this.repository_url
}
