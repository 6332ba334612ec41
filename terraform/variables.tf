variable "team" {
  description = "Name of the team; it is part of every resource's name, so that several teams can share an account."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{0,30}[a-z0-9]$", var.team))
    error_message = "team must be 2 to 32 lower-case letters, digits and hyphens, beginning with a letter."
  }
}

variable "region" {
  description = "AWS region of the deployment."
  type        = string
  default     = "us-east-1"

  validation {
    condition     = can(regex("^[a-z]{2}(-[a-z]+)+-[0-9]$", var.region))
    error_message = "region must be an AWS region such as us-east-1."
  }
}

variable "tags" {
  description = "Additional tags for every resource."
  type        = map(string)
  default     = {}
}

variable "permissions_boundary" {
  description = "ARN of the IAM policy that is the permissions boundary of every role, if the account demands one."
  type        = string
  default     = null

  validation {
    condition     = var.permissions_boundary == null || can(regex("^arn:[^:]+:iam::[0-9]{12}:policy/.+$", var.permissions_boundary))
    error_message = "permissions_boundary must be the ARN of an IAM policy."
  }
}

variable "storage" {
  description = <<-EOT
    The bucket for partitions and results, and the buckets that the ranks read.

    - bucket_name: Name of the bucket; null gives TEAM-cosmicai.
    - data_buckets: Names of additional buckets whose partitions the ranks may read.
    - data_bucket_kms_key_arns: ARNs of the KMS keys that encrypt objects in data_buckets; the keys' policies must let the account's roles use them.
    - kms_key_arn: ARN of the team's own KMS key that encrypts the bucket; its policy must let the account's roles use it. null: S3's own keys, which cost nothing.
    - abort_uploads_after_days: Days after which the parts of incomplete uploads are deleted; 0: never.
    - expire_keys_after_days: Days after which the keys and messages of stopped runs are deleted; 0: never (required by the embedded AWS).
    - delete_results_on_destroy: Whether `make destroy` also deletes a bucket that holds objects, with all data and results. Otherwise such a bucket is kept.
  EOT
  type = object({
    bucket_name               = optional(string)
    data_buckets              = optional(list(string), [])
    data_bucket_kms_key_arns  = optional(list(string), [])
    kms_key_arn               = optional(string)
    abort_uploads_after_days  = optional(number, 7)
    expire_keys_after_days    = optional(number, 2)
    delete_results_on_destroy = optional(bool, false)
  })
  default = {}

  validation {
    condition     = var.storage.bucket_name == null || can(regex("^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$", var.storage.bucket_name))
    error_message = "storage.bucket_name must be a valid S3 bucket name: 3 to 63 lower-case letters, digits, dots and hyphens."
  }

  validation {
    condition     = alltrue([for name in var.storage.data_buckets : can(regex("^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$", name))])
    error_message = "storage.data_buckets must be valid S3 bucket names."
  }

  validation {
    condition     = alltrue([for arn in var.storage.data_bucket_kms_key_arns : can(regex("^arn:[^:]+:kms:[^:]+:[0-9]{12}:key/.+$", arn))])
    error_message = "storage.data_bucket_kms_key_arns must be ARNs of KMS keys (not of aliases)."
  }

  validation {
    condition     = var.storage.kms_key_arn == null || can(regex("^arn:[^:]+:kms:[^:]+:[0-9]{12}:key/.+$", var.storage.kms_key_arn))
    error_message = "storage.kms_key_arn must be the ARN of a KMS key (not of an alias)."
  }

  validation {
    condition     = alltrue([for days in [var.storage.abort_uploads_after_days, var.storage.expire_keys_after_days] : days >= 0 && floor(days) == days])
    error_message = "storage.abort_uploads_after_days and storage.expire_keys_after_days must be whole numbers from 1, or 0 for never."
  }
}

variable "image" {
  description = <<-EOT
    What is in the inference image that `make deploy` builds.

    - variant: lean, torch or cuda. lean has only onnxruntime, which is the faster engine. torch adds torch, for users' own scripts and for the engine torch; the image is larger and the cold start slower. cuda adds torch for GPUs (batch.gpu).
    - extra_packages: Packages from PyPI for users' own scripts, such as timm==0.4.12. `make deploy` installs them into the image with their dependencies, or without them if --no-deps follows the version. With --hash=sha256:…, once per file, pip installs only these files.
  EOT
  type = object({
    variant        = optional(string, "lean")
    extra_packages = optional(list(string), [])
  })
  default = {}

  validation {
    condition     = contains(["lean", "torch", "cuda"], var.image.variant)
    error_message = "image.variant must be lean, torch or cuda."
  }

  validation {
    condition     = var.image.variant != "cuda" || var.inference.architecture == "x86_64"
    error_message = "image.variant = \"cuda\" needs inference.architecture = \"x86_64\": its packages exist only for x86_64."
  }

  validation {
    condition     = alltrue([for package in var.image.extra_packages : can(regex("^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?==[0-9][A-Za-z0-9.!+_-]*( --no-deps)?( --hash=sha256:[0-9a-f]{64})*$", package))])
    error_message = "image.extra_packages must be names with one version each, such as timm==0.4.12; --no-deps and --hash=sha256:… may follow the version."
  }

  validation {
    condition     = length(var.image.extra_packages) == 0 || var.image_uri == null
    error_message = "image.extra_packages and image_uri exclude each other: the packages go into the image that `make deploy` builds, and image_uri names an image that exists. Leave one of them out."
  }
}

variable "image_uri" {
  description = "URI of an existing inference image; null: the deployment makes an ECR repository and uses the image with the tag image_tag in it."
  type        = string
  default     = null

  validation {
    condition     = var.image_uri != null || var.image_tag != null
    error_message = "The inference image is missing: run `make deploy TEAM=…`, which builds and pushes it and sets image_tag, or set image_uri to the URI of an existing image."
  }
}

variable "image_tag" {
  description = "Tag of the inference image in the deployment's own repository, without architecture and variant; `make deploy` sets it."
  type        = string
  default     = null

  validation {
    condition     = var.image_tag == null || can(regex("^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$", var.image_tag))
    error_message = "image_tag must be a valid image tag of at most 128 characters."
  }
}

variable "image_builder" {
  description = "How `make deploy` builds the image: docker uses Docker on the deployer's machine; codebuild uses an AWS CodeBuild project and needs no Docker. BUILD=codebuild sets it for one call of make."
  type        = string
  default     = "docker"

  validation {
    condition     = contains(["docker", "codebuild"], var.image_builder)
    error_message = "image_builder must be docker or codebuild."
  }
}

variable "inference" {
  description = <<-EOT
    The ranks.

    - architecture: Instruction set, arm64 or x86_64. arm64 costs 20 % less per GB-second.
    - memory_mb: Memory of a rank in MB; a rank gets one vCPU per 1,769 MB. New accounts allow at most 3,008 MB.
    - timeout_seconds: Time limit of one rank.
    - max_concurrency: Number of ranks that may run at once; null: the account's quota. A run with more ranks reduces its metrics over S3.
    - reserved_concurrency: This many ranks can always run at once, and never more. The account's other functions cannot use this capacity. null: none is reserved.
    - retry_seconds: Seconds before the first retry of a failed rank; each further pause is twice as long, with jitter.
    - warm_up: Whether an apply calls the inference function once after its image has changed, so that the image is loaded before the first run.
    - allow_scripts: Whether payloads may name a user's own script, which then runs with a rank's permissions.
  EOT
  type = object({
    architecture         = optional(string, "arm64")
    memory_mb            = optional(number, 3008)
    timeout_seconds      = optional(number, 900)
    max_concurrency      = optional(number)
    reserved_concurrency = optional(number)
    retry_seconds        = optional(number, 2)
    warm_up              = optional(bool, false)
    allow_scripts        = optional(bool, false)
  })
  default = {}

  validation {
    condition     = contains(["arm64", "x86_64"], var.inference.architecture)
    error_message = "inference.architecture must be arm64 or x86_64."
  }

  validation {
    condition     = var.inference.memory_mb >= 128 && var.inference.memory_mb <= 10240 && floor(var.inference.memory_mb) == var.inference.memory_mb
    error_message = "inference.memory_mb must be a whole number from 128 to 10240 (Lambda's limits)."
  }

  validation {
    condition     = var.inference.timeout_seconds >= 1 && var.inference.timeout_seconds <= 900
    error_message = "inference.timeout_seconds must be from 1 to 900 (Lambda's limit)."
  }

  validation {
    condition     = var.inference.max_concurrency == null || try(var.inference.max_concurrency >= 1 && floor(var.inference.max_concurrency) == var.inference.max_concurrency, false)
    error_message = "inference.max_concurrency must be a whole number from 1, or null."
  }

  validation {
    condition     = var.inference.reserved_concurrency == null || try(var.inference.reserved_concurrency >= 1 && floor(var.inference.reserved_concurrency) == var.inference.reserved_concurrency, false)
    error_message = "inference.reserved_concurrency must be a whole number from 1, or null."
  }

  validation {
    condition     = var.inference.retry_seconds >= 1 && var.inference.retry_seconds <= 60 && floor(var.inference.retry_seconds) == var.inference.retry_seconds
    error_message = "inference.retry_seconds must be a whole number from 1 to 60."
  }
}

variable "rendezvous" {
  description = <<-EOT
    The rendezvous host, which connects ranks to each other.

    - enabled: Whether ranks use a rendezvous host. If not, the deployment has neither an EC2 instance nor a network, and metrics go through S3.
    - subnet_id: Public subnet for the deployment's own host, in a zone that offers t4g.nano; null: the deployment makes a network with such a subnet.
    - address: HOST:PORT of another deployment's rendezvous host; null: the deployment makes its own.
    - port: TCP port of the deployment's own host.
    - static_address: Whether the deployment's own host keeps its address while it is stopped (an Elastic IP, 0.005 USD per hour).
    - idle_minutes: Minutes without connected ranks after which the deployment's own host stops itself.
    - wait_seconds: Number of seconds for which a run waits for the host before its ranks' messages go through S3.
    - limits: Limits of the relays of the deployment's own host. relays: relays at once. relays_per_address: relays at once for one address. relay_bytes: bytes through one relay in one direction. relay_bytes_per_hour: bytes through all relays in an hour. relay_idle_seconds: seconds without bytes after which a relay ends. relay_stall_seconds: seconds for which bytes may wait for their reader.
  EOT
  type = object({
    enabled        = optional(bool, true)
    subnet_id      = optional(string)
    address        = optional(string)
    port           = optional(number, 10000)
    static_address = optional(bool, false)
    idle_minutes   = optional(number, 15)
    wait_seconds   = optional(number, 120)
    limits = optional(object({
      relays               = optional(number, 256)
      relays_per_address   = optional(number, 64)
      relay_bytes          = optional(number, 4194304)
      relay_bytes_per_hour = optional(number, 268435456)
      relay_idle_seconds   = optional(number, 900)
      relay_stall_seconds  = optional(number, 20)
    }), {})
  })
  default = {}

  validation {
    condition     = var.rendezvous.subnet_id == null || can(regex("^subnet-[0-9a-f]+$", var.rendezvous.subnet_id))
    error_message = "rendezvous.subnet_id must be the id of a subnet, such as subnet-0123456789abcdef0."
  }

  validation {
    condition     = var.rendezvous.address == null || can(regex("^[A-Za-z0-9.-]+:[0-9]{1,5}$", var.rendezvous.address))
    error_message = "rendezvous.address must be HOST:PORT, such as rendezvous.example.org:10000."
  }

  validation {
    condition     = var.rendezvous.port >= 1024 && var.rendezvous.port <= 65535
    error_message = "rendezvous.port must be from 1024 to 65535."
  }

  validation {
    condition     = var.rendezvous.idle_minutes >= 1 && var.rendezvous.idle_minutes <= 1440
    error_message = "rendezvous.idle_minutes must be from 1 to 1440."
  }

  validation {
    condition     = var.rendezvous.wait_seconds >= 2 && var.rendezvous.wait_seconds <= 600
    error_message = "rendezvous.wait_seconds must be from 2 to 600."
  }

  validation {
    condition     = alltrue([for limit in values(var.rendezvous.limits) : limit >= 1 && floor(limit) == limit])
    error_message = "rendezvous.limits must be whole numbers from 1."
  }
}

variable "batch" {
  description = <<-EOT
    AWS Batch for runs with `"backend": "batch"`, whose ranks may use more than 15 minutes or 10 GB; null: no runs on AWS Batch. It costs nothing while no rank runs.

    - subnet_ids: Subnets where the ranks run. They must reach S3, the image's registry and CloudWatch Logs.
    - public: Whether ranks get a public address. Ranks in a public subnet need one. Use false if the subnets have a NAT gateway, or endpoints for the three services.
    - vcpus: vCPUs of a rank: 1, 2, 4, 8 or 16.
    - memory_mb: Memory of a rank in MB. Fargate allows 2 to 8 GB for 1 vCPU, 4 to 16 for 2, 8 to 30 for 4, 16 to 60 in steps of 4 for 8, 32 to 120 in steps of 8 for 16.
    - max_vcpus: Maximum number of vCPUs of all running ranks together.
    - spot: Whether ranks run on Spot capacity, which on Fargate costs up to 70 % less. AWS may interrupt a rank there; the rank is then started again.
    - timeout_seconds: Time limit of one rank.
    - gpu: Instances with an NVIDIA GPU for the ranks, instead of Fargate; null: Fargate. It needs image.variant = "cuda". Each rank has a GPU of its own. instance_types: types of EC2 instances, such as g6.xlarge, among which AWS Batch chooses. memory_mb: memory of a rank in MB, instead of batch.memory_mb; Amazon ECS needs some of an instance's memory for itself, and 14336 fits into 16 GB.
  EOT
  type = object({
    subnet_ids      = list(string)
    public          = optional(bool, true)
    vcpus           = optional(number, 4)
    memory_mb       = optional(number, 16384)
    max_vcpus       = optional(number, 256)
    spot            = optional(bool, true)
    timeout_seconds = optional(number, 14400)
    gpu = optional(object({
      instance_types = list(string)
      memory_mb      = optional(number, 14336)
    }))
  })
  default = null

  validation {
    condition     = var.batch == null || try(length(var.batch.subnet_ids) >= 1 && alltrue([for id in var.batch.subnet_ids : can(regex("^subnet-[0-9a-f]+$", id))]), false)
    error_message = "batch.subnet_ids must be one or more ids of subnets, such as subnet-0123456789abcdef0."
  }

  validation {
    condition = try(var.batch.gpu, null) != null || var.batch == null || try(contains(
      { 1 = range(2, 9), 2 = range(4, 17), 4 = range(8, 31), 8 = range(16, 61, 4), 16 = range(32, 121, 8) }[var.batch.vcpus],
      var.batch.memory_mb / 1024
    ), false)
    error_message = "batch.vcpus and batch.memory_mb must be a size that Fargate offers, such as 4 and 16384: 2 to 8 GB for 1 vCPU, 4 to 16 for 2, 8 to 30 for 4, 16 to 60 in steps of 4 for 8, 32 to 120 in steps of 8 for 16."
  }

  validation {
    condition     = var.batch == null || try(var.batch.max_vcpus >= var.batch.vcpus && floor(var.batch.max_vcpus) == var.batch.max_vcpus, false)
    error_message = "batch.max_vcpus must be a whole number, at least batch.vcpus."
  }

  validation {
    condition     = var.batch == null || try(var.batch.timeout_seconds >= 60 && floor(var.batch.timeout_seconds) == var.batch.timeout_seconds, false)
    error_message = "batch.timeout_seconds must be a whole number of at least 60 (AWS Batch's minimum)."
  }

  validation {
    condition     = try(var.batch.gpu, null) == null || try(length(var.batch.gpu.instance_types) >= 1 && alltrue([for type in var.batch.gpu.instance_types : can(regex("^(g4dn|g5|g6|g6e|gr6|p4d|p4de|p5|p5e|p5en)\\.[0-9a-z]+$", type))]), false)
    error_message = "batch.gpu.instance_types must be one or more types of instances for x86_64 with NVIDIA GPUs that torch for CUDA 12.8 supports: g4dn, g5, g6, g6e, gr6, p4d, p4de, p5, p5e or p5en, such as g6.xlarge."
  }

  validation {
    condition     = try(var.batch.gpu, null) == null || try(var.batch.vcpus >= 1 && floor(var.batch.vcpus) == var.batch.vcpus && var.batch.gpu.memory_mb >= 2048 && floor(var.batch.gpu.memory_mb) == var.batch.gpu.memory_mb, false)
    error_message = "batch.vcpus must be a whole number from 1 and batch.gpu.memory_mb a whole number from 2048."
  }

  validation {
    condition     = try(var.batch.gpu, null) == null || (var.inference.architecture == "x86_64" && (var.image_uri != null || var.image.variant == "cuda"))
    error_message = "batch.gpu needs image.variant = \"cuda\" with inference.architecture = \"x86_64\": other images have no torch for GPUs, and these instances are for x86_64."
  }
}

variable "network" {
  description = <<-EOT
    The team's private subnets, for ranks on Lambda; null: ranks run outside of any VPC. Ranks in these subnets reach only S3 in their own region and redis_host in the same VPC. They need no NAT gateway and no public address, and reduce their metrics over S3.

    - subnet_ids: The private subnets, all of one VPC.
    - route_table_ids: Route tables of these subnets, which get a gateway endpoint for S3 (free of charge); empty if they have one already.
  EOT
  type = object({
    subnet_ids      = list(string)
    route_table_ids = optional(list(string), [])
  })
  default = null

  validation {
    condition     = var.network == null || try(length(var.network.subnet_ids) >= 1 && alltrue([for id in var.network.subnet_ids : can(regex("^subnet-[0-9a-f]+$", id))]), false)
    error_message = "network.subnet_ids must be one or more ids of subnets, such as subnet-0123456789abcdef0."
  }

  validation {
    condition     = var.network == null || try(alltrue([for id in var.network.route_table_ids : can(regex("^rtb-[0-9a-f]+$", id))]), false)
    error_message = "network.route_table_ids must be ids of route tables, such as rtb-0123456789abcdef0."
  }

  validation {
    condition     = var.network == null || !var.rendezvous.enabled
    error_message = "network puts the ranks into private subnets, where they cannot reach a rendezvous host or each other: set rendezvous = { enabled = false }. Metrics then go through S3."
  }
}

variable "redis_host" {
  description = "HOST or HOST:PORT of a Redis server without a password that the ranks can reach; null: payloads may not choose `redis` for their collectives."
  type        = string
  default     = null

  validation {
    condition     = var.redis_host == null || can(regex("^[A-Za-z0-9.-]+(:[0-9]{1,5})?$", var.redis_host))
    error_message = "redis_host must be HOST or HOST:PORT, without a password, because Terraform's state would contain it."
  }
}

variable "operations" {
  description = <<-EOT
    Logs, alarms, costs, and runs that start automatically.

    - log_retention_days: Number of days for which CloudWatch keeps the logs.
    - dashboard: Whether to make a CloudWatch dashboard; the account's first three cost nothing.
    - alarm_email: Address for alarms about failed runs, failing or throttled ranks, and a rendezvous host that does not stop; four alarms at 0.10 USD per month. null: no alarms.
    - monthly_budget_usd: Monthly budget for the resources with the team's tag. AWS writes to alarm_email when costs reach 80 % of it, and when the forecast exceeds it. The tag Team must be a cost allocation tag of the account. null: no budget.
    - start_on_ready: Prefix in the bucket. An object PREFIX/FOLDER/_READY starts a run over that folder, which writes below results/. null: runs do not start automatically.
    - ready_catalogues: Prefix in the bucket. The galaxies of PREFIX/NIGHT/VISIT/_READY become part of the catalogue READY_CATALOGUES/PREFIX/NIGHT: all folders that are next to each other share one catalogue. null: no catalogues.
  EOT
  type = object({
    log_retention_days = optional(number, 30)
    dashboard          = optional(bool, false)
    alarm_email        = optional(string)
    monthly_budget_usd = optional(number)
    start_on_ready     = optional(string)
    ready_catalogues   = optional(string)
  })
  default = {}

  validation {
    condition     = contains([1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653], var.operations.log_retention_days)
    error_message = "operations.log_retention_days must be a period that CloudWatch offers: 1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288 or 3653."
  }

  validation {
    condition     = var.operations.alarm_email == null || can(regex("^[^@ ]+@[^@ ]+$", var.operations.alarm_email))
    error_message = "operations.alarm_email must be an e-mail address."
  }

  validation {
    condition     = var.operations.monthly_budget_usd == null || try(var.operations.monthly_budget_usd > 0, false)
    error_message = "operations.monthly_budget_usd must be above 0, or null."
  }

  validation {
    condition     = var.operations.monthly_budget_usd == null || var.operations.alarm_email != null
    error_message = "operations.monthly_budget_usd needs an address for its notifications: set operations.alarm_email."
  }

  validation {
    condition     = var.operations.start_on_ready == null || can(regex("^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*$", var.operations.start_on_ready))
    error_message = "operations.start_on_ready must be a prefix without a slash at its beginning or end, such as incoming."
  }

  validation {
    condition     = var.operations.ready_catalogues == null || can(regex("^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*$", var.operations.ready_catalogues))
    error_message = "operations.ready_catalogues must be a prefix without a slash at its beginning or end, such as catalogues."
  }

  validation {
    condition     = var.operations.ready_catalogues == null || var.operations.start_on_ready != null
    error_message = "operations.ready_catalogues is for runs that start automatically: set operations.start_on_ready."
  }

  validation {
    condition     = var.operations.ready_catalogues == null || !contains(["results", var.operations.start_on_ready], coalesce(var.operations.ready_catalogues, "-"))
    error_message = "operations.ready_catalogues must be neither results nor operations.start_on_ready: catalogues have folders of their own."
  }
}

variable "build_folder" {
  description = "Folder with the zips of `make package`; null: build/ next to terraform/."
  type        = string
  default     = null
}

variable "s3_use_path_style" {
  description = "Whether to use path-style S3 addresses, which the embedded AWS needs."
  type        = bool
  default     = false
}
