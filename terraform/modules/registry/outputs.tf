output "repository_arn" {
  description = "ARN of the repository."
  value       = aws_ecr_repository.this.arn
}

output "repository_url" {
  description = "URL for pushing images, without a tag."
  value       = aws_ecr_repository.this.repository_url
}
