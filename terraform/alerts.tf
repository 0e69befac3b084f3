locals {
  # The jobs that drive verbs, and the verbs' own.
  jobs = "resource.type=\"dataflow_job\" AND resource.labels.job_name=monitoring.regex.full_match(\"${local.job_name}|simpipe-[a-z]+-${local.line}.*\")"

  # Events that the workflows log (`event` of their entries), as metrics that alerts and dashboard read.
  events = local.workflow_mode ? {
    busy        = { text = "a run found another one at work", filter = "jsonPayload.event=\"busy\"" }
    gate_failed = { text = "a new release did not pass its gates", filter = "jsonPayload.event=\"gate_failed\"" }
    release_age = { text = "looks at the live release's age", filter = "jsonPayload.event=\"release_age\"" }
    release_old = {
      text   = "looks that found the live release too old, or none"
      filter = "jsonPayload.event=\"release_age\" AND jsonPayload.hours>${var.alert_release_hours}"
    }
    run_failed = { text = "a run ended without an answer", filter = "jsonPayload.event=\"run_failed\"" }
  } : {}
}

resource "google_logging_metric" "event" {
  for_each    = local.events
  project     = var.project_id
  name        = "${var.name}/${each.key}"
  description = each.value.text
  filter      = "resource.type=\"workflows.googleapis.com/Workflow\" AND jsonPayload.environment=\"${var.name}\" AND ${each.value.filter}"

  metric_descriptor {
    metric_kind = "DELTA"
    value_type  = "INT64"
    unit        = "1"
  }

  depends_on = [google_project_service.needed]
}

resource "google_logging_metric" "release_hours" {
  count       = local.workflow_mode ? 1 : 0
  project     = var.project_id
  name        = "${var.name}/release_hours"
  description = "hours since the live release was published or found up to date"
  filter      = "resource.type=\"workflows.googleapis.com/Workflow\" AND jsonPayload.environment=\"${var.name}\" AND jsonPayload.event=\"release_age\""

  value_extractor = "EXTRACT(jsonPayload.hours)"

  metric_descriptor {
    metric_kind = "DELTA"
    value_type  = "DISTRIBUTION"
    unit        = "h"
  }

  bucket_options {
    linear_buckets {
      num_finite_buckets = 200
      width              = 2
      offset             = 0
    }
  }

  depends_on = [google_project_service.needed]
}

resource "google_monitoring_alert_policy" "job_failed" {
  project               = var.project_id
  display_name          = "simpipe ${var.name}: a job failed"
  combiner              = "OR"
  severity              = "ERROR"
  notification_channels = var.notification_channels
  user_labels           = local.labels

  conditions {
    display_name = "a Dataflow job failed"
    condition_threshold {
      filter          = "metric.type=\"dataflow.googleapis.com/job/is_failed\" AND ${local.jobs}"
      comparison      = "COMPARISON_GT"
      threshold_value = 0
      duration        = "0s"
      aggregations {
        alignment_period   = "300s"
        per_series_aligner = "ALIGN_MAX"
      }
    }
  }

  # Every end that is no answer, those included that the workflow had no time to log.
  dynamic "conditions" {
    for_each = google_workflows_workflow.nightly[*].name
    content {
      display_name = "an execution of the nightly workflow failed"
      condition_threshold {
        filter          = "metric.type=\"workflows.googleapis.com/finished_execution_count\" AND metric.labels.status=\"FAILED\" AND resource.type=\"workflows.googleapis.com/Workflow\" AND resource.labels.workflow_id=\"${conditions.value}\""
        comparison      = "COMPARISON_GT"
        threshold_value = 0
        duration        = "0s"
        aggregations {
          alignment_period   = "300s"
          per_series_aligner = "ALIGN_SUM"
        }
      }
    }
  }

  documentation {
    mime_type = "text/markdown"
    content   = "The live release is as it was. Look at the job's log and the workflow's last execution, mend, run again: a re-index continues where it was cut off."
  }

  depends_on = [google_project_service.needed]
}

resource "google_monitoring_alert_policy" "gate_failed" {
  count                 = local.workflow_mode ? 1 : 0
  project               = var.project_id
  display_name          = "simpipe ${var.name}: a release did not pass its gates"
  combiner              = "OR"
  severity              = "WARNING"
  notification_channels = var.notification_channels
  user_labels           = local.labels

  conditions {
    display_name = "gate failed"
    condition_threshold {
      filter          = "metric.type=\"logging.googleapis.com/user/${google_logging_metric.event["gate_failed"].name}\" AND resource.type=\"workflows.googleapis.com/Workflow\""
      comparison      = "COMPARISON_GT"
      threshold_value = 0
      duration        = "0s"
      aggregations {
        alignment_period   = "300s"
        per_series_aligner = "ALIGN_SUM"
      }
    }
  }

  documentation {
    mime_type = "text/markdown"
    content   = "The live release is as it was; the new one waits for a look: `simpipe diff live RELEASE`. The workflow's log entry names the release and the gates."
  }
}

resource "google_monitoring_alert_policy" "release_old" {
  count                 = local.workflow_mode ? 1 : 0
  project               = var.project_id
  display_name          = "simpipe ${var.name}: the live release is older than ${var.alert_release_hours} hours"
  combiner              = "OR"
  severity              = "ERROR"
  notification_channels = var.notification_channels
  user_labels           = local.labels

  conditions {
    display_name = "older than ${var.alert_release_hours} hours, or nothing is live"
    condition_threshold {
      filter          = "metric.type=\"logging.googleapis.com/user/${google_logging_metric.event["release_old"].name}\" AND resource.type=\"workflows.googleapis.com/Workflow\""
      comparison      = "COMPARISON_GT"
      threshold_value = 0
      duration        = "0s"
      aggregations {
        alignment_period   = "3600s"
        per_series_aligner = "ALIGN_SUM"
      }
    }
  }

  # Silence is no good news: the hourly look itself may have stopped.
  conditions {
    display_name = "nobody looked for three hours"
    condition_absent {
      filter   = "metric.type=\"logging.googleapis.com/user/${google_logging_metric.event["release_age"].name}\" AND resource.type=\"workflows.googleapis.com/Workflow\""
      duration = "10800s"
      aggregations {
        alignment_period   = "3600s"
        per_series_aligner = "ALIGN_SUM"
      }
    }
  }

  documentation {
    mime_type = "text/markdown"
    content   = "Runs fail, are refused by gates, or do not start. Look at the executions of the nightly workflow and at its schedule (paused?)."
  }
}

resource "google_monitoring_alert_policy" "backlog" {
  project               = var.project_id
  display_name          = "simpipe ${var.name}: changes wait"
  combiner              = "OR"
  severity              = "WARNING"
  notification_channels = var.notification_channels
  user_labels           = local.labels

  conditions {
    display_name = "a job runs for more than ${var.alert_job_hours} hours"
    condition_threshold {
      filter          = "metric.type=\"dataflow.googleapis.com/job/elapsed_time\" AND ${local.jobs}"
      comparison      = "COMPARISON_GT"
      threshold_value = var.alert_job_hours * 3600
      duration        = "0s"
      aggregations {
        alignment_period   = "300s"
        per_series_aligner = "ALIGN_MAX"
      }
    }
  }

  dynamic "conditions" {
    for_each = local.workflow_mode ? ["busy"] : []
    content {
      display_name = "a run found the one before still at work"
      condition_threshold {
        filter          = "metric.type=\"logging.googleapis.com/user/${google_logging_metric.event[conditions.value].name}\" AND resource.type=\"workflows.googleapis.com/Workflow\""
        comparison      = "COMPARISON_GT"
        threshold_value = 0
        duration        = "0s"
        aggregations {
          alignment_period   = "300s"
          per_series_aligner = "ALIGN_SUM"
        }
      }
    }
  }

  documentation {
    mime_type = "text/markdown"
    content   = "More workers (max_workers, or runner.workers of the configuration), larger machines, or a rarer schedule. What the run does is in the job's counters (in-items, out-items, rejected)."
  }

  depends_on = [google_project_service.needed]
}
