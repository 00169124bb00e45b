# Names and lookups that several files share. Makes nothing.

data "aws_caller_identity" "current" {}

data "aws_partition" "current" {}

locals {
  cluster_name = "${var.name}-${var.environment}"
  account_id   = data.aws_caller_identity.current.account_id
  partition    = data.aws_partition.current.partition

  # The releases the chart makes; a release's service account has its name.
  releases = { for service in ["metrics", "generator"] : service => "${var.name}-${service}" }

  tags = {
    Project     = var.name
    Environment = var.environment
    ManagedBy   = "terraform"
  }
}
