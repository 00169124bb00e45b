# The permanent bucket, where it is asked for: private, versioned, and not to be destroyed by accident.
# (`prevent_destroy` itself is proved against a moto server by tests/deploy/test_terraform.py.)

mock_provider "aws" {
  source = "./tests/mocks"
}

run "created_on_request" {
  command = plan

  variables {
    model_bucket        = "models-of-the-test"
    create_model_bucket = true
  }

  assert {
    condition     = length(aws_s3_bucket.models) == 1 && aws_s3_bucket.models[0].bucket == "models-of-the-test" && length(data.aws_s3_bucket.models) == 0
    error_message = "asked for, the bucket is created"
  }
  assert {
    condition     = aws_s3_bucket.models[0].force_destroy == false
    error_message = "a bucket with models in it cannot be deleted"
  }
  assert {
    condition     = alltrue([aws_s3_bucket_public_access_block.models[0].block_public_acls, aws_s3_bucket_public_access_block.models[0].block_public_policy, aws_s3_bucket_public_access_block.models[0].ignore_public_acls, aws_s3_bucket_public_access_block.models[0].restrict_public_buckets])
    error_message = "models are never public"
  }
  assert {
    condition     = aws_s3_bucket_versioning.models[0].versioning_configuration[0].status == "Enabled"
    error_message = "an overwritten model can be had back"
  }
}
