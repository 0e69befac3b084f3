# Scheduled batch jobs are launched by a workflow, not by a job resource: Terraform would launch a finished job again at every apply.
locals {
  job_name = "simpipe-${var.name}-nightly"
  launch_url = join("", [
    "https://dataflow.googleapis.com/v1b3/projects/${var.project_id}",
    "/locations/${var.region}/flexTemplates:launch",
  ])
  stamp = "status/nightly.json"
}

resource "google_workflows_workflow" "nightly" {
  count               = local.workflow_mode ? 1 : 0
  project             = var.project_id
  region              = var.region
  name                = "${var.name}-nightly"
  description         = "Re-index: launch, wait, judge, publish, report"
  labels              = local.labels
  service_account     = google_service_account.role["launcher"].id
  crypto_key_name     = var.kms_key
  call_log_level      = "LOG_ERRORS_ONLY"
  deletion_protection = false
  source_contents     = file("${path.module}/workflows/nightly.yaml")

  user_env_vars = {
    ENVIRONMENT   = jsonencode(local.environment)
    JOB_NAME      = local.job_name
    JOBS_URL      = "https://dataflow.googleapis.com/v1b3/projects/${var.project_id}/locations/${var.region}/jobs/"
    LAUNCH_URL    = local.launch_url
    MAX_RUN_HOURS = tostring(var.max_run_hours)
    PARAMETERS    = jsonencode(local.parameters)
    PROMOTE       = var.promote
    NAME          = var.name
    ROOT_BUCKET   = google_storage_bucket.root.name
    ROOT_PREFIX   = var.root_prefix
    STAMP         = local.stamp
    TEMP_BUCKET   = google_storage_bucket.temp.name
    TEMPLATE      = local.template_uri
  }

  depends_on = [google_project_service.needed, google_kms_crypto_key_iam_member.agents]
}

resource "google_workflows_workflow" "release_age" {
  count               = local.workflow_mode ? 1 : 0
  project             = var.project_id
  region              = var.region
  name                = "${var.name}-release-age"
  description         = "Says how long ago the live release was published or found up to date"
  labels              = local.labels
  service_account     = google_service_account.role["launcher"].id
  crypto_key_name     = var.kms_key
  call_log_level      = "LOG_ERRORS_ONLY"
  deletion_protection = false
  source_contents     = file("${path.module}/workflows/release_age.yaml")

  user_env_vars = {
    NAME        = var.name
    ROOT_BUCKET = google_storage_bucket.root.name
    ROOT_PREFIX = var.root_prefix
    STAMP       = local.stamp
    TEMP_BUCKET = google_storage_bucket.temp.name
  }

  depends_on = [google_project_service.needed, google_kms_crypto_key_iam_member.agents]
}
