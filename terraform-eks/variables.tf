# Everything that may differ between environments or accounts, each with its meaning and limits.
# environments/*.tfvars set what belongs to an environment; what belongs to an account
# (model_bucket, public_access_cidrs, admin_principal_arns) comes from account.auto.tfvars, which git ignores.

variable "name" {
  description = "Prefix of every resource's name."
  type        = string
  default     = "plainmed"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,19}$", var.name))
    error_message = "name must be 2 to 20 lower-case letters, digits or hyphens, and begin with a letter."
  }
}

variable "environment" {
  description = "Which environment this is; part of every name, so two can live in one account."
  type        = string

  validation {
    condition     = contains(["dev", "prod"], var.environment)
    error_message = "environment must be dev or prod."
  }
}

variable "region" {
  description = "AWS region of everything, including the model bucket."
  type        = string

  validation {
    condition     = can(regex("^[a-z]{2}(-gov)?-[a-z]+-[0-9]$", var.region))
    error_message = "region must look like eu-west-1."
  }
}

variable "kubernetes_version" {
  description = "Minor version of the EKS control plane and the nodes."
  type        = string
  default     = "1.35"

  validation {
    condition     = can(regex("^1\\.3[1-9]$", var.kubernetes_version))
    error_message = "kubernetes_version must be 1.31 or later, as in \"1.35\": the chart is checked against those."
  }
}

variable "vpc_cidr" {
  description = "Address range of the VPC. Private subnets take a /19 and public ones a /24 each of a /16."
  type        = string
  default     = "10.60.0.0/16"

  validation {
    condition     = can(cidrnetmask(var.vpc_cidr)) && can(regex("/(16|17|18)$", var.vpc_cidr))
    error_message = "vpc_cidr must be an IPv4 range of size /16, /17 or /18."
  }
}

variable "zones" {
  description = "Availability zones the subnets span, by name: adding one to a region must not move a subnet."
  type        = list(string)

  validation {
    condition     = contains([2, 3], length(var.zones)) && length(distinct(var.zones)) == length(var.zones)
    error_message = "zones must name two or three different zones: EKS refuses fewer, and more cost without need."
  }
  validation {
    condition     = alltrue([for zone in var.zones : can(regex("^${var.region}[a-z]$", zone))])
    error_message = "each of zones must lie in region, such as us-east-1a in us-east-1."
  }
}

variable "nat" {
  description = "NAT gateways: single (cheaper; its zone is a single point of failure for pulls and APIs) or per_az."
  type        = string
  default     = "single"

  validation {
    condition     = contains(["single", "per_az"], var.nat)
    error_message = "nat must be single or per_az."
  }
}

variable "public_access_cidrs" {
  description = "Addresses that may reach the Kubernetes API from outside the VPC. Empty: the endpoint is private only."
  type        = list(string)
  default     = []

  validation {
    condition = alltrue([
      for cidr in var.public_access_cidrs : can(cidrnetmask(cidr)) && can(regex("/(2[0-9]|3[0-2])$", cidr))
    ])
    error_message = "public_access_cidrs takes IPv4 ranges of /20 or smaller, such as 198.51.100.7/32; never 0.0.0.0/0."
  }
}

variable "cluster_creator_is_admin" {
  description = "Whether the identity that creates the cluster administers it. It cannot be changed afterwards."
  type        = bool
  default     = true
  nullable    = false

  validation {
    condition     = var.cluster_creator_is_admin || length(var.admin_principal_arns) > 0
    error_message = "without cluster_creator_is_admin, name at least one of admin_principal_arns, or nobody can use the cluster."
  }
}

variable "admin_principal_arns" {
  description = "IAM roles or users that administer the cluster, besides its creator."
  type        = set(string)
  default     = []

  validation {
    condition     = alltrue([for arn in var.admin_principal_arns : can(regex("^arn:aws[a-z-]*:iam::[0-9]{12}:(role|user)/.+$", arn))])
    error_message = "admin_principal_arns takes ARNs of IAM roles or users."
  }
}

variable "viewer_principal_arns" {
  description = "IAM roles or users that may look at the cluster (no secrets), for on-call and dashboards."
  type        = set(string)
  default     = []

  validation {
    condition     = alltrue([for arn in var.viewer_principal_arns : can(regex("^arn:aws[a-z-]*:iam::[0-9]{12}:(role|user)/.+$", arn))])
    error_message = "viewer_principal_arns takes ARNs of IAM roles or users."
  }
}

variable "log_retention_days" {
  description = "How long control-plane and VPC flow logs are kept, in days."
  type        = number
  default     = 365

  validation {
    condition     = contains([30, 60, 90, 180, 365, 400, 731, 1827, 3653], var.log_retention_days)
    error_message = "log_retention_days must be a value CloudWatch takes: 30, 60, 90, 180, 365, 400, 731, 1827 or 3653."
  }
}

variable "node_pools" {
  description = <<-EOT
    Managed node groups by pool. system runs the operators; cpu is the normal size of both services (4 vCPU, 16 GB);
    cpu-max is the size of `max-specs` (16 vCPU, 64 GB); gpu serves a language model, gpu-multi one by vLLM over several
    GPUs of a node. cpu-max, gpu and gpu-multi start from zero nodes and cost nothing until a pod asks for them.
    instance_types: in order of preference, all of one size. min, max: nodes. capacity_type: ON_DEMAND or SPOT.
    disk_gib: root volume; images and model caches lie on it.
  EOT
  type = map(object({
    instance_types = list(string)
    min            = number
    max            = number
    capacity_type  = optional(string, "ON_DEMAND")
    disk_gib       = optional(number, 100)
  }))

  validation {
    condition     = length(setsubtract(keys(var.node_pools), ["system", "cpu", "cpu-max", "gpu", "gpu-multi"])) == 0
    error_message = "node_pools may hold system, cpu, cpu-max, gpu and gpu-multi only."
  }
  validation {
    condition     = alltrue([for pool in ["system", "cpu"] : contains(keys(var.node_pools), pool)])
    error_message = "node_pools needs system and cpu."
  }
  validation {
    condition     = alltrue([for pool in values(var.node_pools) : pool.min >= 0 && pool.max >= 1 && pool.max >= pool.min && pool.max <= 50])
    error_message = "each pool needs 0 <= min <= max and 1 <= max <= 50; leave a pool out to have none."
  }
  validation {
    condition     = try(var.node_pools["system"].min, 0) >= 1
    error_message = "the system pool needs min >= 1: the autoscaler that starts the other pools runs there."
  }
  validation {
    condition     = alltrue([for name, pool in var.node_pools : pool.min == 0 if contains(["cpu-max", "gpu", "gpu-multi"], name)])
    error_message = "cpu-max, gpu and gpu-multi must have min = 0; the autoscaler starts them when a pod asks."
  }
  validation {
    condition     = alltrue([for pool in values(var.node_pools) : contains(["ON_DEMAND", "SPOT"], pool.capacity_type)])
    error_message = "capacity_type must be ON_DEMAND or SPOT."
  }
  validation {
    condition     = alltrue([for pool in values(var.node_pools) : length(pool.instance_types) >= 1])
    error_message = "each pool needs at least one instance type."
  }
  validation {
    condition     = alltrue([for pool in values(var.node_pools) : pool.disk_gib >= 30 && pool.disk_gib <= 1000])
    error_message = "disk_gib must lie between 30 and 1000."
  }
}

variable "namespace" {
  description = "Kubernetes namespace of the releases; their roles are bound to service accounts in it."
  type        = string
  default     = "plainmed"

  validation {
    condition     = can(regex("^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$", var.namespace))
    error_message = "namespace must be a valid Kubernetes namespace name."
  }
}

variable "model_bucket" {
  description = "S3 bucket that holds merged generator models. It is permanent: read, and never deleted, by this configuration."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$", var.model_bucket))
    error_message = "model_bucket must be a valid S3 bucket name (MODEL_S3_BUCKET)."
  }
}

variable "create_model_bucket" {
  description = "Create model_bucket, where it does not exist yet. Once created it is protected from destruction."
  type        = bool
  default     = false
  nullable    = false

  validation {
    condition     = contains([true, false], var.create_model_bucket)
    error_message = "create_model_bucket must be true or false."
  }
}

variable "model_bucket_kms_key_arn" {
  description = "KMS key the model bucket is encrypted with; null when it uses S3's own keys."
  type        = string
  default     = null

  validation {
    condition     = var.model_bucket_kms_key_arn == null || can(regex("^arn:aws[a-z-]*:kms:[a-z0-9-]+:[0-9]{12}:key/.+$", var.model_bucket_kms_key_arn))
    error_message = "model_bucket_kms_key_arn must be the ARN of a KMS key."
  }
}

variable "model_prefixes" {
  description = "What each service may read of the model bucket: key prefixes ending in a slash."
  type = object({
    metrics   = list(string)
    generator = list(string)
  })
  default = {
    metrics   = ["metric-models/"]
    generator = ["merged-models/"]
  }

  validation {
    condition = alltrue([
      for prefix in concat(var.model_prefixes.metrics, var.model_prefixes.generator) : can(regex("^[A-Za-z0-9][A-Za-z0-9._/-]*/$", prefix))
    ])
    error_message = "each of model_prefixes must end in a slash and hold no wildcard; list what the service needs."
  }
  validation {
    condition     = length(var.model_prefixes.metrics) > 0 && length(var.model_prefixes.generator) > 0
    error_message = "each service needs at least one prefix."
  }
}

variable "images_kept" {
  description = "How many tagged images each repository keeps; older ones expire. Rollback reaches as far back."
  type        = number
  default     = 20

  validation {
    condition     = var.images_kept >= 3 && var.images_kept <= 500
    error_message = "images_kept must lie between 3 and 500."
  }
}

variable "addon_versions" {
  description = "Versions of EKS add-ons to pin, by add-on name; one left out gets EKS's default for the cluster version."
  type        = map(string)
  default     = {}

  validation {
    condition = length(setsubtract(
      keys(var.addon_versions),
      ["vpc-cni", "kube-proxy", "coredns", "eks-pod-identity-agent", "aws-ebs-csi-driver"]
    )) == 0
    error_message = "addon_versions may name vpc-cni, kube-proxy, coredns, eks-pod-identity-agent and aws-ebs-csi-driver."
  }
}
