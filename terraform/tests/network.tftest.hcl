# Ranks in a team's private subnets, against a mock provider. Run `make package` first.

mock_provider "aws" {
  source = "./tests/mocks"
}

variables {
  team      = "team3"
  image_tag = "abc123"
}

run "ranks_run_in_the_teams_subnets" {
  variables {
    network    = { subnet_ids = ["subnet-0123456789abcdef0"], route_table_ids = ["rtb-0123456789abcdef0"] }
    rendezvous = { enabled = false }
  }
  assert {
    condition     = length(module.network) == 1 && length(module.rendezvous_host) == 0
    error_message = "network must bring its security group, and no host"
  }
}

run "without_a_network_ranks_are_in_no_vpc" {
  variables {
    rendezvous = { enabled = false }
  }
  assert {
    condition     = length(module.network) == 0
    error_message = "network = null must make nothing"
  }
}

run "a_function_in_subnets" {
  module {
    source = "./modules/function"
  }
  variables {
    name               = "f"
    description        = "f"
    package            = { image = "i", handler = "h" }
    memory_mb          = 128
    timeout_seconds    = 3
    log_retention_days = 1
    statements         = {}
    network            = { subnet_ids = ["subnet-1"], security_group_ids = ["sg-1"] }
  }
  assert {
    condition     = one(aws_lambda_function.this.vpc_config).subnet_ids == toset(["subnet-1"]) && one(aws_lambda_function.this.vpc_config).security_group_ids == toset(["sg-1"])
    error_message = "the function must be in the subnets, behind the security group"
  }
}

run "s3_alone_is_reached" {
  module {
    source = "./modules/network"
  }
  variables {
    name            = "team3-cosmicai-ranks"
    subnet_ids      = ["subnet-0123456789abcdef0"]
    route_table_ids = ["rtb-0123456789abcdef0"]
  }
  assert {
    condition = (
      aws_vpc_security_group_egress_rule.s3.prefix_list_id == "pl-63a5400a" &&
      aws_vpc_security_group_egress_rule.s3.to_port == 443 &&
      length(aws_vpc_security_group_egress_rule.redis) == 0
    )
    error_message = "ranks must reach S3 and nothing else"
  }
  assert {
    condition = (
      aws_vpc_endpoint.s3[0].vpc_endpoint_type == "Gateway" &&
      aws_vpc_endpoint.s3[0].service_name == "com.amazonaws.us-east-1.s3" &&
      aws_vpc_endpoint.s3[0].route_table_ids == toset(["rtb-0123456789abcdef0"])
    )
    error_message = "S3 must be reached by a gateway endpoint, which costs nothing"
  }
}

run "an_endpoint_that_is_there_is_used_and_redis_is_reached" {
  module {
    source = "./modules/network"
  }
  variables {
    name            = "team3-cosmicai-ranks"
    subnet_ids      = ["subnet-0123456789abcdef0"]
    route_table_ids = []
    redis_port      = 6380
  }
  assert {
    condition = (
      length(aws_vpc_endpoint.s3) == 0 &&
      aws_vpc_security_group_egress_rule.redis[0].from_port == 6380 &&
      aws_vpc_security_group_egress_rule.redis[0].cidr_ipv4 == "10.1.0.0/16"
    )
    error_message = "without route tables there must be no second endpoint; Redis is reached in the VPC alone"
  }
}

run "direct_collectives_are_refused" {
  command = plan
  variables {
    network = { subnet_ids = ["subnet-0123456789abcdef0"] }
  }
  expect_failures = [var.network]
}

run "private_subnets_are_needed" {
  command = plan
  variables {
    network    = { subnet_ids = [] }
    rendezvous = { enabled = false }
  }
  expect_failures = [var.network]
}

run "route_tables_are_ids" {
  command = plan
  variables {
    network    = { subnet_ids = ["subnet-0123456789abcdef0"], route_table_ids = ["main"] }
    rendezvous = { enabled = false }
  }
  expect_failures = [var.network]
}
