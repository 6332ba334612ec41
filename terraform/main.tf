locals {
  name         = "${var.team}-cosmicai"
  bucket_name  = coalesce(var.storage.bucket_name, local.name)
  build_folder = coalesce(var.build_folder, "${path.module}/../build")
  readable     = distinct(concat([module.storage.bucket_arn], [for name in var.storage.data_buckets : "arn:${data.aws_partition.current.partition}:s3:::${name}"]))
  own_image    = var.image_uri == null
  # For every role that reads and writes the bucket: https://docs.aws.amazon.com/AmazonS3/latest/userguide/UsingKMSEncryption.html
  key_use = var.storage.kms_key_arn == null ? {} : { UseKey = { actions = ["kms:Decrypt", "kms:GenerateDataKey"], resources = [var.storage.kms_key_arn] } }
  # For every role that reads partitions.
  read_encrypted = length(var.storage.data_bucket_kms_key_arns) == 0 ? {} : {
    DecryptPartitions = { actions = ["kms:Decrypt"], resources = var.storage.data_bucket_kms_key_arns }
  }
  own_host = var.rendezvous.enabled && var.rendezvous.address == null
  # It has no resource-level permissions: https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazonec2.html
  find_host = local.own_host ? { FindHost = { actions = ["ec2:DescribeInstances"], resources = ["*"] } } : {}
  # Written out because the state machine's own role must name it.
  state_machine_arn = "arn:${data.aws_partition.current.partition}:states:${data.aws_region.current.name}:${data.aws_caller_identity.current.account_id}:stateMachine:${local.name}"
  # What a rank may do, on Lambda and on AWS Batch.
  rank_statements = merge(local.key_use, {
    ReadPartitions       = { actions = ["s3:GetObject"], resources = [for arn in local.readable : "${arn}/*"] }
    ListModelsAndScripts = { actions = ["s3:ListBucket"], resources = [module.storage.bucket_arn] }
    WriteResults = {
      actions = ["s3:PutObject"]
      resources = [
        for path in ["*.json", "*/predictions/*.npz", "*/arrival=*/*.parquet", ".cosmicai/*/messages/*"] : "${module.storage.bucket_arn}/${path}"
      ]
    }
  }, local.read_encrypted)
  # No more ranks than are reserved can run at once.
  concurrency = [for ranks in [var.inference.max_concurrency, var.inference.reserved_concurrency] : ranks if ranks != null]
  image_uri   = local.own_image ? "${one(module.registry[*].repository_url)}:${var.image_tag}-${var.inference.architecture}-${var.image.variant}" : var.image_uri
}

data "aws_partition" "current" {}
data "aws_region" "current" {}
data "aws_caller_identity" "current" {}

module "storage" {
  source = "./modules/storage"

  bucket_name              = local.bucket_name
  abort_uploads_after_days = var.storage.abort_uploads_after_days
  expire_keys_after_days   = var.storage.expire_keys_after_days
  force_destroy            = var.storage.delete_results_on_destroy
  kms_key_arn              = var.storage.kms_key_arn
}

module "registry" {
  source = "./modules/registry"
  count  = local.own_image ? 1 : 0

  name = "${local.name}-inference"
}

module "image_builder" {
  source = "./modules/image_builder"
  count  = local.own_image && var.image_builder == "codebuild" ? 1 : 0

  permissions_boundary = var.permissions_boundary

  name               = "${local.name}-image-builder"
  architecture       = var.inference.architecture
  bucket_arn         = module.storage.bucket_arn
  kms_key_arn        = var.storage.kms_key_arn
  repository_arn     = one(module.registry[*].repository_arn)
  log_retention_days = var.operations.log_retention_days
}

module "initialize" {
  source = "./modules/function"

  permissions_boundary = var.permissions_boundary

  name               = "${local.name}-initialize"
  description        = "Checks a payload, assigns partitions to ranks, writes run.json and manifest.json."
  package            = { zip = "${local.build_folder}/initialize.zip", handler = "initialize.handler.handler" }
  memory_mb          = 1769
  timeout_seconds    = 900
  log_retention_days = var.operations.log_retention_days

  statements = merge(local.key_use, {
    ListPartitions = { actions = ["s3:ListBucket"], resources = local.readable }
    ReadEarlierRun = { actions = ["s3:GetObject"], resources = ["${module.storage.bucket_arn}/*.json"] }
    # What describes them, and the heads of a few.
    ReadPartitions = {
      actions   = ["s3:GetObject"]
      resources = flatten([for arn in local.readable : ["${arn}/*/photometry.json", "${arn}/*.pt"]])
    }
    WritePlan = {
      actions = ["s3:PutObject", "s3:AbortMultipartUpload"]
      resources = concat(
        [for file in ["run", "manifest"] : "${module.storage.bucket_arn}/*/${file}.json"],
        ["${module.storage.bucket_arn}/.cosmicai/*/key"],
        var.inference.allow_scripts ? ["${module.storage.bucket_arn}/payload.json"] : [],
      )
    }
    # It has no resource-level permissions: https://docs.aws.amazon.com/service-authorization/latest/reference/list_awslambda.html
    SeeRunAtResultPath = {
      actions   = ["states:DescribeExecution"]
      resources = ["${replace(local.state_machine_arn, ":stateMachine:", ":execution:")}:*"]
    }
    AskForConcurrency = { actions = ["lambda:GetAccountSettings"], resources = ["*"] }
  }, local.read_encrypted, local.find_host)

  environment = merge(
    {
      ALLOW_SCRIPTS          = tostring(var.inference.allow_scripts)
      INFERENCE_MEMORY_MB    = tostring(var.inference.memory_mb)
      INFERENCE_ARCHITECTURE = var.inference.architecture
      RENDEZVOUS_PORT        = tostring(var.rendezvous.port)
    },
    local.own_host ? { RENDEZVOUS_INSTANCE_ID = one(module.rendezvous_host[*].instance_id) } : {},
    var.rendezvous.address == null ? {} : { RENDEZVOUS_ADDRESS = var.rendezvous.address },
    length(local.concurrency) == 0 ? {} : { MAX_CONCURRENCY = tostring(min(local.concurrency...)) },
    var.rendezvous.enabled ? {} : { RENDEZVOUS = "false" },
    var.batch == null ? {} : { BATCH = "true" },
    var.redis_host == null ? {} : { REDIS_HOST = var.redis_host },
    # The zip says which network the image bundles. An image from elsewhere may bundle another one.
    local.own_image || startswith(coalesce(var.image_uri, "-"), "embedded/") ? {} : { FOREIGN_IMAGE = "true" },
  )
}

module "network" {
  source = "./modules/network"
  count  = var.network == null ? 0 : 1

  name            = "${local.name}-ranks"
  subnet_ids      = var.network.subnet_ids
  route_table_ids = var.network.route_table_ids
  redis_port      = var.redis_host == null ? null : tonumber(try(split(":", var.redis_host)[1], 6379))
}

module "inference" {
  source = "./modules/function"

  permissions_boundary = var.permissions_boundary

  name            = "${local.name}-inference"
  description     = "One rank: reads its partitions, predicts redshifts, writes predictions and its rank info."
  package         = { image = local.image_uri, handler = "inference.handler.handler" }
  architecture    = var.inference.architecture
  memory_mb       = var.inference.memory_mb
  timeout_seconds = var.inference.timeout_seconds

  reserved_concurrency = var.inference.reserved_concurrency

  log_retention_days = var.operations.log_retention_days

  statements = local.rank_statements

  network = var.network == null ? null : {
    subnet_ids         = var.network.subnet_ids
    security_group_ids = module.network[*].security_group_id
  }

  environment = var.redis_host == null ? {} : { REDIS_HOST = var.redis_host }
}

module "batch" {
  source = "./modules/batch"
  count  = var.batch == null ? 0 : 1

  permissions_boundary = var.permissions_boundary

  name               = "${local.name}-batch"
  image_uri          = local.image_uri
  architecture       = var.inference.architecture
  subnet_ids         = var.batch.subnet_ids
  public             = var.batch.public
  vcpus              = var.batch.vcpus
  memory_mb          = var.batch.gpu == null ? var.batch.memory_mb : var.batch.gpu.memory_mb
  gpu                = var.batch.gpu == null ? null : { instance_types = var.batch.gpu.instance_types }
  max_vcpus          = var.batch.max_vcpus
  spot               = var.batch.spot
  timeout_seconds    = var.batch.timeout_seconds
  log_retention_days = var.operations.log_retention_days
  statements         = local.rank_statements
}

resource "aws_lambda_invocation" "warm_up" {
  count = var.inference.warm_up ? 1 : 0

  function_name = module.inference.name
  input         = jsonencode({ warm_up = true })
  triggers      = { image = local.image_uri }
}

module "summarize" {
  source = "./modules/function"

  permissions_boundary = var.permissions_boundary

  name               = "${local.name}-summarize"
  description        = "Collects the ranks' results, writes combined_data.json and summary.json."
  package            = { zip = "${local.build_folder}/summarize.zip", handler = "summarize.handler.handler" }
  memory_mb          = 1769
  timeout_seconds    = 900
  log_retention_days = var.operations.log_retention_days

  statements = merge(local.key_use, {
    ListResults = { actions = ["s3:ListBucket"], resources = [module.storage.bucket_arn] }
    ReadResults = { actions = ["s3:GetObject"], resources = ["${module.storage.bucket_arn}/*.json"] }
    WriteSummary = {
      actions = ["s3:PutObject", "s3:AbortMultipartUpload"]
      resources = concat(
        [for file in ["combined_data.json", "summary.json", "report.html", "_delta_log/*.json"] : "${module.storage.bucket_arn}/*/${file}"],
        ["${module.storage.bucket_arn}/.last-runs/*.json"],
      )
    }
    DeleteKeyAndMessages = { actions = ["s3:DeleteObject"], resources = ["${module.storage.bucket_arn}/.cosmicai/*"] }
    }, var.batch == null ? {} : {
    # It has no resource-level permissions: https://docs.aws.amazon.com/service-authorization/latest/reference/list_awsbatch.html
    SeeWhyJobsFailed = { actions = ["batch:DescribeJobs"], resources = ["*"] }
  })
}

module "rendezvous_host" {
  source = "./modules/rendezvous"
  count  = local.own_host ? 1 : 0

  permissions_boundary = var.permissions_boundary

  name           = "${local.name}-rendezvous-host"
  server         = "${path.module}/../functions/rendezvous/server.py"
  port           = var.rendezvous.port
  subnet_id      = var.rendezvous.subnet_id
  static_address = var.rendezvous.static_address
  idle_minutes   = var.rendezvous.idle_minutes
  limits         = var.rendezvous.limits
  bucket         = { name = module.storage.bucket_name, arn = module.storage.bucket_arn, kms_key_arn = var.storage.kms_key_arn }
}

module "rendezvous" {
  source = "./modules/function"

  permissions_boundary = var.permissions_boundary

  name               = "${local.name}-rendezvous"
  description        = "Starts and watches the host on which ranks find each other."
  package            = { zip = "${local.build_folder}/rendezvous.zip", handler = "rendezvous.handler.handler" }
  memory_mb          = 256
  timeout_seconds    = 30
  log_retention_days = var.operations.log_retention_days

  statements = merge(local.find_host, local.own_host ? {
    StartHost = { actions = ["ec2:StartInstances"], resources = [one(module.rendezvous_host[*].instance_arn)] }
  } : {})

  environment = merge(
    { PORT = tostring(var.rendezvous.port) },
    local.own_host ? { INSTANCE_ID = one(module.rendezvous_host[*].instance_id) } : {},
    var.rendezvous.address == null ? {} : { ADDRESS = var.rendezvous.address },
  )
}

module "state_machine" {
  source = "./modules/state_machine"

  permissions_boundary = var.permissions_boundary

  name               = local.name
  definition         = "${path.module}/../statemachine/cosmicai.asl.json"
  bucket_arn         = module.storage.bucket_arn
  log_retention_days = var.operations.log_retention_days
  retry_seconds      = var.inference.retry_seconds
  arn                = local.state_machine_arn
  statements         = local.key_use

  rendezvous_wait_seconds = var.rendezvous.wait_seconds

  batch = var.batch == null ? null : {
    queue_arn      = one(module.batch[*].queue_arn)
    definition_arn = one(module.batch[*].definition_arn)
  }

  function_arns = {
    initialize = module.initialize.arn
    inference  = module.inference.arn
    rendezvous = module.rendezvous.arn
    summarize  = module.summarize.arn
  }
}

module "ready" {
  source = "./modules/ready"
  count  = var.operations.start_on_ready == null ? 0 : 1

  permissions_boundary = var.permissions_boundary

  name              = "${local.name}-ready"
  bucket_name       = module.storage.bucket_name
  prefix            = var.operations.start_on_ready
  catalogues        = var.operations.ready_catalogues
  state_machine_arn = module.state_machine.arn
}

module "operations" {
  source = "./modules/operations"
  count  = var.operations.dashboard || var.operations.alarm_email != null ? 1 : 0

  name              = local.name
  state_machine_arn = module.state_machine.arn
  function_names    = { inference = module.inference.name }
  host_instance_id  = one(module.rendezvous_host[*].instance_id)
  host_hours        = 3
  dashboard         = var.operations.dashboard
  alarm_email       = var.operations.alarm_email
  budget            = var.operations.monthly_budget_usd == null ? null : { usd = var.operations.monthly_budget_usd, team = var.team }
}
