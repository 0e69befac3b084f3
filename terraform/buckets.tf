locals {
  labels   = merge(var.labels, { app = "simpipe", environment = var.name })
  root_uri = "gs://${google_storage_bucket.root.name}/${var.root_prefix}"
}

# What must last: data sets, releases, the pointer.
resource "google_storage_bucket" "root" {
  project                     = var.project_id
  name                        = "${var.project_id}-${var.name}-root"
  location                    = var.region
  labels                      = local.labels
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  force_destroy               = var.delete_contents

  # An object that was overwritten or deleted by mistake comes back from here.
  versioning {
    enabled = true
  }

  # Versions do what soft delete does; both would be paid for twice.
  soft_delete_policy {
    retention_duration_seconds = 0
  }

  lifecycle_rule {
    condition {
      days_since_noncurrent_time = var.noncurrent_days
      with_state                 = "ARCHIVED"
    }
    action {
      type = "Delete"
    }
  }

  # Parts of uploads that a killed worker never finished.
  lifecycle_rule {
    condition {
      age = 2
    }
    action {
      type = "AbortIncompleteMultipartUpload"
    }
  }

  dynamic "encryption" {
    for_each = var.kms_key == null ? [] : [var.kms_key]
    content {
      default_kms_key_name = encryption.value
    }
  }

  depends_on = [google_project_service.needed, google_kms_crypto_key_iam_member.agents]
}

# What jobs stage, and the workflow's note of its last good run. Nothing here lasts.
resource "google_storage_bucket" "temp" {
  project                     = var.project_id
  name                        = "${var.project_id}-${var.name}-temp"
  location                    = var.region
  labels                      = local.labels
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  force_destroy               = true

  # Shuffled and staged files are deleted as jobs end; kept copies would cost more than the job.
  soft_delete_policy {
    retention_duration_seconds = 0
  }

  lifecycle_rule {
    condition {
      age = var.temp_days
    }
    action {
      type = "Delete"
    }
  }

  dynamic "encryption" {
    for_each = var.kms_key == null ? [] : [var.kms_key]
    content {
      default_kms_key_name = encryption.value
    }
  }

  depends_on = [google_project_service.needed, google_kms_crypto_key_iam_member.agents]
}

# Template and configuration. Apart from the root, so that a worker cannot rewrite what is launched next.
resource "google_storage_bucket" "deploy" {
  project                     = var.project_id
  name                        = "${var.project_id}-${var.name}-deploy"
  location                    = var.region
  labels                      = local.labels
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  force_destroy               = true # every object is Terraform's own

  versioning {
    enabled = true
  }

  soft_delete_policy {
    retention_duration_seconds = 0
  }

  lifecycle_rule {
    condition {
      days_since_noncurrent_time = 90
      with_state                 = "ARCHIVED"
    }
    action {
      type = "Delete"
    }
  }

  dynamic "encryption" {
    for_each = var.kms_key == null ? [] : [var.kms_key]
    content {
      default_kms_key_name = encryption.value
    }
  }

  depends_on = [google_project_service.needed, google_kms_crypto_key_iam_member.agents]
}
