output "instance_id" {
  description = "Id of the host's EC2 instance."
  value       = aws_instance.this.id
}

output "instance_arn" {
  description = "ARN of the host's EC2 instance."
  value       = aws_instance.this.arn
}
