# Image repositories, one an image target. Tags never move: a release names exactly one image, and
# rollback finds the one it had.

resource "aws_ecr_repository" "image" {
  for_each = toset(["cpu", "gpu", "vllm"])

  name                 = "${local.cluster_name}/${each.key}"
  image_tag_mutability = "IMMUTABLE"
  # Images are rebuilt from the repository, so `destroy` may take them; models may not go, and are not here.
  force_delete = true

  image_scanning_configuration {
    scan_on_push = true
  }

  encryption_configuration {
    encryption_type = "KMS"
    kms_key         = aws_kms_key.this.arn
  }
}

resource "aws_ecr_lifecycle_policy" "image" {
  for_each = aws_ecr_repository.image

  repository = each.value.name
  policy = jsonencode({
    rules = [
      {
        rulePriority = 1
        description  = "Layers of interrupted pushes"
        selection    = { tagStatus = "untagged", countType = "sinceImagePushed", countUnit = "days", countNumber = 7 }
        action       = { type = "expire" }
      },
      {
        rulePriority = 2
        description  = "All but the last images"
        selection    = { tagStatus = "any", countType = "imageCountMoreThan", countNumber = var.images_kept }
        action       = { type = "expire" }
      },
    ]
  })
}
