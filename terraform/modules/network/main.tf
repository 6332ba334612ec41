# What ranks in a team's private subnets need: a security group without ingress, and an endpoint for S3.

data "aws_region" "current" {}

data "aws_subnet" "first" {
  id = var.subnet_ids[0]
}

data "aws_ec2_managed_prefix_list" "s3" {
  name = "com.amazonaws.${data.aws_region.current.name}.s3"
}

resource "aws_security_group" "this" {
  #checkov:skip=CKV2_AWS_5:The inference function is in it, by way of the root module
  name        = var.name
  description = "Ranks on Lambda: nobody reaches them"
  vpc_id      = data.aws_subnet.first.vpc_id
}

resource "aws_vpc_security_group_egress_rule" "s3" {
  security_group_id = aws_security_group.this.id
  description       = "Partitions, models and results"
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
  prefix_list_id    = data.aws_ec2_managed_prefix_list.s3.id
}

data "aws_vpc" "this" {
  count = var.redis_port == null ? 0 : 1

  id = data.aws_subnet.first.vpc_id
}

resource "aws_vpc_security_group_egress_rule" "redis" {
  count = var.redis_port == null ? 0 : 1

  security_group_id = aws_security_group.this.id
  description       = "The ranks' messages"
  ip_protocol       = "tcp"
  from_port         = var.redis_port
  to_port           = var.redis_port
  cidr_ipv4         = data.aws_vpc.this[0].cidr_block
}

# Other clients in these subnets use the endpoint too, so it has no policy of its own: the ranks' role limits the ranks.
resource "aws_vpc_endpoint" "s3" {
  count = length(var.route_table_ids) == 0 ? 0 : 1

  vpc_id            = data.aws_subnet.first.vpc_id
  service_name      = "com.amazonaws.${data.aws_region.current.name}.s3"
  vpc_endpoint_type = "Gateway"
  route_table_ids   = var.route_table_ids

  tags = { Name = var.name }
}
