# Which Terraform and provider this needs, and where state is kept. Knows no resource.
#
# The backend is partial on purpose: bucket, key and region differ by account and environment, and
# `plainmed ops` passes them to `terraform init` (docs/operations.md shows the line). No lock file of provider hashes is
# kept here, because one made on a single platform refuses every other.

terraform {
  required_version = ">= 1.11.0, < 2.0.0"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 5.0"
    }
  }

  backend "s3" {
    encrypt      = true
    use_lockfile = true
  }
}

provider "aws" {
  region = var.region

  default_tags {
    tags = local.tags
  }
}
