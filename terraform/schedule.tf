locals {
  execute_url = "https://workflowexecutions.googleapis.com/v1"

  # A fixed job name is a lock: Dataflow refuses a second active job of the name.
  direct_launch = {
    launchParameter = {
      jobName              = local.job_name
      containerSpecGcsPath = local.template_uri
      parameters           = merge(local.parameters, { verb = "reindex" })
      environment          = local.environment
    }
  }
}

resource "google_cloud_scheduler_job" "nightly" {
  count            = local.workflow_mode ? 1 : 0
  project          = var.project_id
  region           = var.region
  name             = "${var.name}-nightly"
  description      = "Starts the re-index workflow"
  schedule         = var.schedule
  time_zone        = var.time_zone
  paused           = var.paused
  attempt_deadline = "60s"

  # A start that was lost is tried again; a second run finds the first one's job and ends as busy.
  retry_config {
    retry_count          = 2
    min_backoff_duration = "60s"
  }

  http_target {
    http_method = "POST"
    uri         = "${local.execute_url}/${google_workflows_workflow.nightly[0].id}/executions"
    body        = base64encode("{}")
    headers     = { "Content-Type" = "application/json" }
    oauth_token {
      service_account_email = google_service_account.role["scheduler"].email
    }
  }

  depends_on = [google_project_service.needed]
}

resource "google_cloud_scheduler_job" "release_age" {
  count            = local.workflow_mode ? 1 : 0
  project          = var.project_id
  region           = var.region
  name             = "${var.name}-release-age"
  description      = "Starts the look at the age of the live release"
  schedule         = "40 * * * *"
  time_zone        = "Etc/UTC"
  attempt_deadline = "60s"

  http_target {
    http_method = "POST"
    uri         = "${local.execute_url}/${google_workflows_workflow.release_age[0].id}/executions"
    body        = base64encode("{}")
    headers     = { "Content-Type" = "application/json" }
    oauth_token {
      service_account_email = google_service_account.role["scheduler"].email
    }
  }

  depends_on = [google_project_service.needed]
}

# The minimal variant: nobody waits for the job; that it failed is told by the alert on jobs.
resource "google_cloud_scheduler_job" "direct" {
  count            = local.workflow_mode ? 0 : 1
  project          = var.project_id
  region           = var.region
  name             = "${var.name}-reindex"
  description      = "Launches the re-index job"
  schedule         = var.schedule
  time_zone        = var.time_zone
  paused           = var.paused
  attempt_deadline = "60s"

  # A launch whose answer was lost is not tried again: the job is there, or the next night starts it.
  retry_config {
    retry_count = 0
  }

  http_target {
    http_method = "POST"
    uri         = local.launch_url
    body        = base64encode(jsonencode(local.direct_launch))
    headers     = { "Content-Type" = "application/json" }
    oauth_token {
      service_account_email = google_service_account.role["launcher"].email
    }
  }

  depends_on = [google_project_service.needed]
}
