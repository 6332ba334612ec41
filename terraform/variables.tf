variable "team" {
  description = "Name of the team; every resource carries it, so that several teams share an account."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{0,30}[a-z0-9]$", var.team))
    error_message = "team must be 2 to 32 lower-case letters, digits and hyphens, beginning with a letter."
  }
}

variable "region" {
  description = "AWS region of everything."
  type        = string
  default     = "us-east-1"

  validation {
    condition     = can(regex("^[a-z]{2}(-[a-z]+)+-[0-9]$", var.region))
    error_message = "region must be an AWS region such as us-east-1."
  }
}

variable "bucket_name" {
  description = "Name of the bucket for partitions and results; null gives TEAM-cosmicai."
  type        = string
  default     = null

  validation {
    condition     = var.bucket_name == null || can(regex("^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$", var.bucket_name))
    error_message = "bucket_name must be a valid S3 bucket name: 3 to 63 lower-case letters, digits, dots and hyphens."
  }
}

variable "data_buckets" {
  description = "Names of further buckets whose partitions the ranks may read."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for name in var.data_buckets : can(regex("^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$", name))])
    error_message = "data_buckets must be valid S3 bucket names."
  }
}

variable "data_bucket_kms_key_arns" {
  description = "ARNs of the KMS keys that encrypt objects in data_buckets; the keys' policies must let the account's roles use them."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for arn in var.data_bucket_kms_key_arns : can(regex("^arn:[^:]+:kms:[^:]+:[0-9]{12}:key/.+$", arn))])
    error_message = "data_bucket_kms_key_arns must be ARNs of KMS keys (not of aliases)."
  }
}

variable "inference_image" {
  description = "URI of an inference image that exists already; null makes an ECR repository and uses image_tag in it."
  type        = string
  default     = null

  validation {
    condition     = var.inference_image != null || var.image_tag != null
    error_message = "The inference image is missing: run `make deploy TEAM=…`, which builds and pushes it and sets image_tag, or set inference_image to one that exists."
  }
}

variable "image_tag" {
  description = "Tag of the inference images in the module's own repository, without architecture and variant; `make deploy` sets it."
  type        = string
  default     = null

  validation {
    condition     = var.image_tag == null || can(regex("^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$", var.image_tag))
    error_message = "image_tag must be a valid image tag of at most 128 characters."
  }
}

variable "image_variant" {
  description = "lean: onnxruntime alone, the fast path. torch: with torch too, for users' own scripts that need it and engine torch; a larger image and a slower cold start."
  type        = string
  default     = "lean"

  validation {
    condition     = contains(["lean", "torch"], var.image_variant)
    error_message = "image_variant must be lean or torch."
  }
}

variable "extra_packages" {
  description = "Packages of PyPI for users' own scripts that `make deploy` installs into the image, such as timm==0.4.12; what they depend on is installed with them, unless --no-deps follows the version. With --hash=sha256:…, once per file, pip takes these files only."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for package in var.extra_packages : can(regex("^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?==[0-9][A-Za-z0-9.!+_-]*( --no-deps)?( --hash=sha256:[0-9a-f]{64})*$", package))])
    error_message = "extra_packages must be names with one version each, such as timm==0.4.12, followed by --no-deps and --hash=sha256:… if you like."
  }

  validation {
    condition     = length(var.extra_packages) == 0 || var.inference_image == null
    error_message = "extra_packages are installed into the image that `make deploy` builds; inference_image names one that is built already: leave one of the two out."
  }
}

variable "architecture" {
  description = "Instruction set of the inference function: arm64 costs 20 % less, x86_64 is what a plain laptop builds."
  type        = string
  default     = "arm64"

  validation {
    condition     = contains(["arm64", "x86_64"], var.architecture)
    error_message = "architecture must be arm64 or x86_64."
  }
}

variable "inference_memory_mb" {
  description = "Memory of a rank in MB; 1,769 MB buy one vCPU. New accounts get 3,008 MB at most."
  type        = number
  default     = 3008

  validation {
    condition     = var.inference_memory_mb >= 128 && var.inference_memory_mb <= 10240 && floor(var.inference_memory_mb) == var.inference_memory_mb
    error_message = "inference_memory_mb must be a whole number from 128 to 10240 (Lambda's limits)."
  }
}

variable "inference_timeout_seconds" {
  description = "Time limit of one rank."
  type        = number
  default     = 900

  validation {
    condition     = var.inference_timeout_seconds >= 1 && var.inference_timeout_seconds <= 900
    error_message = "inference_timeout_seconds must be from 1 to 900 (Lambda's limit)."
  }
}

variable "allow_scripts" {
  description = "Whether payloads may name a user's own script, which then runs with a rank's permissions."
  type        = bool
  default     = false
}

variable "max_concurrency" {
  description = "Ranks that may run at once; null asks Lambda for the account's quota. More ranks than that reduce over S3."
  type        = number
  default     = null

  validation {
    condition     = var.max_concurrency == null || try(var.max_concurrency >= 1 && floor(var.max_concurrency) == var.max_concurrency, false)
    error_message = "max_concurrency must be a whole number from 1, or null."
  }
}

variable "rendezvous_enabled" {
  description = "Whether ranks may meet on a rendezvous host. Without one, the deployment has neither an EC2 instance nor a network, and metrics go through S3."
  type        = bool
  default     = true
}

variable "rendezvous_subnet_id" {
  description = "Public subnet for the deployment's own rendezvous host, in a zone that offers t4g.nano; null makes a network with one."
  type        = string
  default     = null

  validation {
    condition     = var.rendezvous_subnet_id == null || can(regex("^subnet-[0-9a-f]+$", var.rendezvous_subnet_id))
    error_message = "rendezvous_subnet_id must be the id of a subnet, such as subnet-0123456789abcdef0."
  }
}

variable "rendezvous_address" {
  description = "HOST:PORT of a rendezvous host that somebody else runs; null makes one of the deployment's own."
  type        = string
  default     = null

  validation {
    condition     = var.rendezvous_address == null || can(regex("^[A-Za-z0-9.-]+:[0-9]{1,5}$", var.rendezvous_address))
    error_message = "rendezvous_address must be HOST:PORT, such as rendezvous.example.org:10000."
  }
}

variable "rendezvous_port" {
  description = "TCP port of the deployment's own rendezvous host."
  type        = number
  default     = 10000

  validation {
    condition     = var.rendezvous_port >= 1024 && var.rendezvous_port <= 65535
    error_message = "rendezvous_port must be from 1024 to 65535."
  }
}

variable "rendezvous_static_address" {
  description = "Whether the deployment's own rendezvous host keeps its address (an Elastic IP, 0.005 USD per hour)."
  type        = bool
  default     = false
}

variable "rendezvous_idle_minutes" {
  description = "Minutes without ranks that meet after which the deployment's own rendezvous host stops itself."
  type        = number
  default     = 15

  validation {
    condition     = var.rendezvous_idle_minutes >= 1 && var.rendezvous_idle_minutes <= 1440
    error_message = "rendezvous_idle_minutes must be from 1 to 1440."
  }
}

variable "rendezvous_limits" {
  description = "Limits of the relays of the deployment's own rendezvous host. Relays at once (relays), of those with one address (relays_per_address). Bytes through one relay in one direction (relay_bytes), bytes through all relays in an hour (relay_bytes_per_hour). Seconds that a relay may carry nothing (relay_idle_seconds), seconds that bytes may wait for their reader (relay_stall_seconds)."
  type = object({
    relays               = optional(number, 256)
    relays_per_address   = optional(number, 64)
    relay_bytes          = optional(number, 4194304)
    relay_bytes_per_hour = optional(number, 268435456)
    relay_idle_seconds   = optional(number, 900)
    relay_stall_seconds  = optional(number, 20)
  })
  default = {}

  validation {
    condition     = alltrue([for limit in values(var.rendezvous_limits) : try(limit >= 1 && floor(limit) == limit, false)])
    error_message = "rendezvous_limits must be whole numbers from 1."
  }
}

variable "rendezvous_wait_seconds" {
  description = "How long a run waits for the rendezvous host before its ranks' messages go through S3."
  type        = number
  default     = 120

  validation {
    condition     = var.rendezvous_wait_seconds >= 2 && var.rendezvous_wait_seconds <= 600
    error_message = "rendezvous_wait_seconds must be from 2 to 600."
  }
}

variable "redis_host" {
  description = "HOST or HOST:PORT of a Redis without a password that the ranks reach; null: payloads may not ask for it."
  type        = string
  default     = null

  validation {
    condition     = var.redis_host == null || can(regex("^[A-Za-z0-9.-]+(:[0-9]{1,5})?$", var.redis_host))
    error_message = "redis_host must be HOST or HOST:PORT; a password would stand in Terraform's state."
  }
}

variable "retry_seconds" {
  description = "First pause before a failed rank is tried again; it doubles, with jitter."
  type        = number
  default     = 2

  validation {
    condition     = var.retry_seconds >= 1 && var.retry_seconds <= 60 && floor(var.retry_seconds) == var.retry_seconds
    error_message = "retry_seconds must be a whole number from 1 to 60."
  }
}

variable "log_retention_days" {
  description = "Days that CloudWatch keeps the logs."
  type        = number
  default     = 30

  validation {
    condition     = contains([1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653], var.log_retention_days)
    error_message = "log_retention_days must be a period that CloudWatch knows: 1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288 or 3653."
  }
}

variable "start_on_ready" {
  description = "Prefix in the bucket below which an object FOLDER/_READY starts a run over that folder, into results/; null: none does."
  type        = string
  default     = null

  validation {
    condition     = var.start_on_ready == null || can(regex("^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*$", var.start_on_ready))
    error_message = "start_on_ready must be a prefix without leading or closing slash, such as incoming."
  }
}

variable "dashboard" {
  description = "Whether to make a CloudWatch dashboard; the account's first three cost nothing."
  type        = bool
  default     = false
}

variable "alarm_email" {
  description = "Address that is told of failed runs, failing or throttled ranks, and a rendezvous host that does not stop; four alarms of 0.10 USD per month. null: none."
  type        = string
  default     = null

  validation {
    condition     = var.alarm_email == null || can(regex("^[^@ ]+@[^@ ]+$", var.alarm_email))
    error_message = "alarm_email must be an address of electronic mail."
  }
}

variable "reserved_concurrency" {
  description = "Ranks that are guaranteed to run at once, and never exceeded; they are taken from the account's other functions. null: none are reserved."
  type        = number
  default     = null

  validation {
    condition     = var.reserved_concurrency == null || try(var.reserved_concurrency >= 1 && floor(var.reserved_concurrency) == var.reserved_concurrency, false)
    error_message = "reserved_concurrency must be a whole number from 1, or null."
  }
}

variable "permissions_boundary" {
  description = "ARN of the IAM policy that bounds every role of the deployment, where the account demands one."
  type        = string
  default     = null

  validation {
    condition     = var.permissions_boundary == null || can(regex("^arn:[^:]+:iam::[0-9]{12}:policy/.+$", var.permissions_boundary))
    error_message = "permissions_boundary must be the ARN of an IAM policy."
  }
}

variable "kms_key_arn" {
  description = "ARN of the team's own KMS key that encrypts the bucket; its policy must let the account's roles use it. null: S3's keys, which cost nothing."
  type        = string
  default     = null

  validation {
    condition     = var.kms_key_arn == null || can(regex("^arn:[^:]+:kms:[^:]+:[0-9]{12}:key/.+$", var.kms_key_arn))
    error_message = "kms_key_arn must be the ARN of a KMS key (not of an alias)."
  }
}

variable "monthly_budget_usd" {
  description = "Costs a month of what carries this deployment's tags, at 80 % of which, and when they are forecast, alarm_email is told; the tag Team must be a cost allocation tag of the account. null: no budget."
  type        = number
  default     = null

  validation {
    condition     = var.monthly_budget_usd == null || try(var.monthly_budget_usd > 0, false)
    error_message = "monthly_budget_usd must be above 0, or null."
  }

  validation {
    condition     = var.monthly_budget_usd == null || var.alarm_email != null
    error_message = "monthly_budget_usd needs alarm_email, where it is reported."
  }
}

variable "warm_up" {
  description = "Whether an apply calls the inference function once when its image is new, so that no rank is the first to load it."
  type        = bool
  default     = false
}

variable "abort_uploads_after_days" {
  description = "Days after which parts of broken uploads are deleted; null leaves the rule out (the embedded AWS needs that)."
  type        = number
  default     = 7

  validation {
    condition     = var.abort_uploads_after_days == null || try(var.abort_uploads_after_days >= 1, false)
    error_message = "abort_uploads_after_days must be at least 1, or null."
  }
}

variable "delete_results_on_destroy" {
  description = "Whether `make destroy` deletes the bucket with the data and results in it; otherwise a bucket that holds objects is kept."
  type        = bool
  default     = false
}

variable "build_folder" {
  description = "Folder with the zips of `make package`; null gives build/ beside terraform/."
  type        = string
  default     = null
}

variable "s3_use_path_style" {
  description = "Path-style S3 addresses, which the embedded AWS needs."
  type        = bool
  default     = false
}

variable "tags" {
  description = "Further tags on every resource."
  type        = map(string)
  default     = {}
}
