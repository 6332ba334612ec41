# What AWS answers where a test says nothing else: values of the form that the provider checks.

mock_data "aws_caller_identity" {
  defaults = { account_id = "123456789012" }
}

mock_data "aws_ec2_instance_type_offerings" {
  defaults = { locations = ["us-east-1d", "us-east-1b"] }
}

mock_data "aws_ec2_managed_prefix_list" {
  defaults = { id = "pl-63a5400a" }
}

mock_data "aws_iam_policy_document" {
  defaults = { json = "{}" }
}

mock_data "aws_partition" {
  defaults = { partition = "aws" }
}

mock_data "aws_region" {
  defaults = { name = "us-east-1" }
}

mock_data "aws_ssm_parameter" {
  defaults = { insecure_value = "ami-0123456789abcdef0" }
}

mock_data "aws_subnet" {
  defaults = { vpc_id = "vpc-0123456789abcdef0" }
}

mock_data "aws_vpc" {
  defaults = { cidr_block = "10.1.0.0/16" }
}

mock_resource "aws_iam_instance_profile" {
  defaults = { arn = "arn:aws:iam::123456789012:instance-profile/team3-cosmicai-batch-host" }
}

mock_resource "aws_launch_template" {
  defaults = { id = "lt-0123456789abcdef0", latest_version = 1 }
}

mock_resource "aws_batch_compute_environment" {
  defaults = { arn = "arn:aws:batch:us-east-1:123456789012:compute-environment/team3-cosmicai-batch" }
}

mock_resource "aws_batch_job_definition" {
  defaults = { arn = "arn:aws:batch:us-east-1:123456789012:job-definition/team3-cosmicai-batch:1" }
}

mock_resource "aws_batch_job_queue" {
  defaults = { arn = "arn:aws:batch:us-east-1:123456789012:job-queue/team3-cosmicai-batch" }
}

mock_resource "aws_cloudwatch_log_group" {
  defaults = { arn = "arn:aws:logs:us-east-1:123456789012:log-group:mock" }
}

mock_resource "aws_ecr_repository" {
  defaults = { repository_url = "123456789012.dkr.ecr.us-east-1.amazonaws.com/team3-cosmicai-inference" }
}

mock_resource "aws_iam_role" {
  defaults = { arn = "arn:aws:iam::123456789012:role/mock" }
}

mock_resource "aws_instance" {
  defaults = { id = "i-0123456789abcdef0", arn = "arn:aws:ec2:us-east-1:123456789012:instance/i-0123456789abcdef0" }
}

mock_resource "aws_lambda_function" {
  defaults = { arn = "arn:aws:lambda:us-east-1:123456789012:function:mock" }
}

mock_resource "aws_s3_bucket" {
  defaults = { arn = "arn:aws:s3:::team3-cosmicai" }
}

mock_resource "aws_security_group" {
  defaults = { id = "sg-0123456789abcdef0" }
}

mock_resource "aws_sfn_state_machine" {
  defaults = { arn = "arn:aws:states:us-east-1:123456789012:stateMachine:team3-cosmicai" }
}

mock_resource "aws_sns_topic" {
  defaults = { arn = "arn:aws:sns:us-east-1:123456789012:alarms" }
}
