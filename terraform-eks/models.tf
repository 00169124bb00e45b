# The model bucket. It holds what training made and cannot be remade cheaply, so by default this
# configuration only checks that it is there. Created on request, it refuses to be destroyed:
# `plainmed ops destroy` takes it out of the state and leaves it standing.

data "aws_s3_bucket" "models" {
  count = var.create_model_bucket ? 0 : 1

  bucket = var.model_bucket
}

resource "aws_s3_bucket" "models" {
  #checkov:skip=CKV_AWS_18:Reads are in CloudTrail data events where an account wants them; a log bucket would be a second permanent bucket.
  #checkov:skip=CKV_AWS_144:Models can be merged again from adapter and base; a copy in another region doubles their cost.
  #checkov:skip=CKV_AWS_145:S3's own encryption; a key of this configuration would be destroyed with it and leave the permanent bucket unreadable.
  #checkov:skip=CKV2_AWS_61:Models are kept until somebody deletes them; only old versions expire, below.
  #checkov:skip=CKV2_AWS_62:Nothing reacts to uploads; a service reads its model when it starts.
  count = var.create_model_bucket ? 1 : 0

  bucket        = var.model_bucket
  force_destroy = false

  lifecycle {
    prevent_destroy = true
  }
}

resource "aws_s3_bucket_versioning" "models" {
  count = var.create_model_bucket ? 1 : 0

  bucket = aws_s3_bucket.models[0].id

  versioning_configuration {
    status = "Enabled"
  }
}

resource "aws_s3_bucket_server_side_encryption_configuration" "models" {
  count = var.create_model_bucket ? 1 : 0

  bucket = aws_s3_bucket.models[0].id

  rule {
    apply_server_side_encryption_by_default {
      sse_algorithm = "AES256"
    }
  }
}

resource "aws_s3_bucket_public_access_block" "models" {
  count = var.create_model_bucket ? 1 : 0

  bucket                  = aws_s3_bucket.models[0].id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_lifecycle_configuration" "models" {
  count = var.create_model_bucket ? 1 : 0

  bucket = aws_s3_bucket.models[0].id

  rule {
    id     = "old-versions"
    status = "Enabled"

    filter {}

    noncurrent_version_expiration {
      noncurrent_days = 90
    }

    abort_incomplete_multipart_upload {
      days_after_initiation = 7
    }
  }

  depends_on = [aws_s3_bucket_versioning.models]
}
