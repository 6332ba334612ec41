output "security_group_id" {
  description = "Security group of the ranks."
  value       = aws_security_group.this.id

  depends_on = [aws_vpc_security_group_egress_rule.s3, aws_vpc_endpoint.s3]
}
