resource "aws_ecr_repository" "this" {
  #checkov:skip=CKV_AWS_136:The image is this repository's public code; AES256 is enough
  name                 = var.name
  image_tag_mutability = "IMMUTABLE"
  force_delete         = true # its images are built from sources

  image_scanning_configuration {
    scan_on_push = true
  }

  encryption_configuration {
    encryption_type = "AES256"
  }
}

resource "aws_ecr_lifecycle_policy" "this" {
  repository = aws_ecr_repository.this.name

  policy = jsonencode({
    rules = [{
      rulePriority = 1
      description  = "Keep the last ${var.keep_images} images."
      selection    = { tagStatus = "any", countType = "imageCountMoreThan", countNumber = var.keep_images }
      action       = { type = "expire" }
    }]
  })
}
