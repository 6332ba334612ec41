output "bucket" {
  description = "Bucket for partitions and results."
  value       = module.storage.bucket_name
}

output "state_machine_arn" {
  description = "ARN of the state machine, for `aws stepfunctions start-execution`."
  value       = module.state_machine.arn
}

output "function_names" {
  description = "Names of the Lambda functions, by their role in a run."
  value = {
    initialize = module.initialize.name
    inference  = module.inference.name
    rendezvous = module.rendezvous.name
    summarize  = module.summarize.name
  }
}

output "repository_url" {
  description = "URL of the repository that `make deploy` pushes the inference image to; null if image_uri names an image."
  value       = one(module.registry[*].repository_url)
}

output "next_steps" {
  description = "The commands to run next."
  value       = <<-EOT
    # 1. Upload partitions 1.pt, 2.pt, … (TensorDataset of images, magnitudes, redshift)
    aws s3 sync --region ${var.region} PARTITIONS/ s3://${module.storage.bucket_name}/25MB/
    # 2. Start a run: set bucket, data_prefix and result_path in the payload first
    aws stepfunctions start-execution --region ${var.region} --state-machine-arn ${module.state_machine.arn} --name run-1 --input file://payloads/demo.json
    # 3. Watch it
    aws stepfunctions list-executions --region ${var.region} --state-machine-arn ${module.state_machine.arn} --max-items 1
    aws logs tail --region ${var.region} /aws/lambda/${module.inference.name} --follow
    # 4. Download redshifts and summary
    aws s3 sync --region ${var.region} s3://${module.storage.bucket_name}/results/25MB/demo results/
  EOT
}
