resource "aws_s3_bucket" "this" {
  #checkov:skip=CKV_AWS_18:Access logs of every rank's reads would outgrow the results; CloudTrail data events are the account's choice
  #checkov:skip=CKV_AWS_21:Results are written once, under their own path, and partitions are copies; versioning would double the cost
  #checkov:skip=CKV_AWS_144:Partitions can be cut again and redshifts computed again
  #checkov:skip=CKV_AWS_145:SSE-S3 encrypts at rest without a key's price; kms_key_arn names a key of the team's own
  #checkov:skip=CKV2_AWS_62:No service uses notifications of the bucket
  bucket        = var.bucket_name
  force_destroy = var.force_destroy
}

resource "aws_s3_bucket_public_access_block" "this" {
  bucket                  = aws_s3_bucket.this.id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_ownership_controls" "this" {
  bucket = aws_s3_bucket.this.id

  rule {
    object_ownership = "BucketOwnerEnforced"
  }
}

resource "aws_s3_bucket_server_side_encryption_configuration" "this" {
  bucket = aws_s3_bucket.this.id

  rule {
    apply_server_side_encryption_by_default {
      sse_algorithm     = var.kms_key_arn == null ? "AES256" : "aws:kms"
      kms_master_key_id = var.kms_key_arn
    }

    bucket_key_enabled = var.kms_key_arn != null # one request to KMS for many objects
  }
}

resource "aws_s3_bucket_policy" "this" {
  bucket     = aws_s3_bucket.this.id
  policy     = data.aws_iam_policy_document.tls_only.json
  depends_on = [aws_s3_bucket_public_access_block.this]
}

data "aws_iam_policy_document" "tls_only" {
  statement {
    sid       = "DenyPlainHttp"
    effect    = "Deny"
    actions   = ["s3:*"] # a denial: every action
    resources = [aws_s3_bucket.this.arn, "${aws_s3_bucket.this.arn}/*"]

    principals {
      type        = "*"
      identifiers = ["*"]
    }

    condition {
      test     = "Bool"
      variable = "aws:SecureTransport"
      values   = ["false"]
    }
  }
}

resource "aws_s3_bucket_lifecycle_configuration" "this" {
  count  = var.abort_uploads_after_days + var.expire_keys_after_days == 0 ? 0 : 1
  bucket = aws_s3_bucket.this.id

  rule {
    id     = "abort-broken-uploads"
    status = var.abort_uploads_after_days == 0 ? "Disabled" : "Enabled"

    filter {}

    abort_incomplete_multipart_upload {
      days_after_initiation = max(1, var.abort_uploads_after_days)
    }
  }

  rule {
    id     = "expire-keys-and-messages-of-runs-that-were-ended"
    status = var.expire_keys_after_days == 0 ? "Disabled" : "Enabled"

    filter {
      prefix = ".cosmicai/"
    }

    expiration {
      days = max(1, var.expire_keys_after_days)
    }
  }
}
