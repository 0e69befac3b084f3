locals {
  # One row a tile: title, unit of the axis, filter, how points are aligned and put together, by which label.
  job_tiles = [
    ["Failed jobs", "jobs", "dataflow.googleapis.com/job/is_failed", "ALIGN_MAX", "REDUCE_SUM", "resource.label.job_name"],
    ["Elapsed time of running jobs", "s", "dataflow.googleapis.com/job/elapsed_time", "ALIGN_MAX", "REDUCE_MAX", "resource.label.job_name"],
    ["vCPU in use", "vCPU", "dataflow.googleapis.com/job/current_num_vcpus", "ALIGN_MAX", "REDUCE_SUM", "resource.label.job_name"],
    ["vCPU time", "s", "dataflow.googleapis.com/job/total_vcpu_time", "ALIGN_MAX", "REDUCE_SUM", "resource.label.job_name"],
    ["Counters of simpipe", "", "dataflow.googleapis.com/job/user_counter", "ALIGN_MAX", "REDUCE_SUM", "metric.label.metric_name"],
  ]

  event_tiles = [for name, metric in google_logging_metric.event : [
    "Runs: ${name}", "", metric.name, "ALIGN_SUM", "REDUCE_SUM", "resource.label.workflow_id",
  ] if contains(["busy", "gate_failed", "run_failed"], name)]

  age_tiles = [for metric in google_logging_metric.release_hours : [
    "Hours since the live release was published or found up to date", "h", metric.name, "ALIGN_PERCENTILE_99", "REDUCE_MAX", "resource.label.workflow_id",
  ]]

  workflow_tiles = [for tile in concat(local.event_tiles, local.age_tiles) : {
    title  = tile[0], unit = tile[1], align = tile[3], reduce = tile[4], by = tile[5]
    filter = "metric.type=\"logging.googleapis.com/user/${tile[2]}\" resource.type=\"workflows.googleapis.com/Workflow\""
  }]

  tiles = concat(local.workflow_tiles, [for tile in local.job_tiles : {
    title  = tile[0], unit = tile[1], align = tile[3], reduce = tile[4], by = tile[5]
    filter = "metric.type=\"${tile[2]}\" ${replace(local.jobs, " AND ", " ")}"
  }])
}

resource "google_monitoring_dashboard" "line" {
  project = var.project_id

  dashboard_json = jsonencode({
    displayName = "simpipe ${var.name}"
    mosaicLayout = {
      columns = 48
      tiles = [for place, tile in local.tiles : {
        xPos   = 24 * (place % 2)
        yPos   = 16 * floor(place / 2)
        width  = 24
        height = 16
        widget = {
          title = tile.title
          xyChart = {
            dataSets = [{
              plotType       = "LINE"
              legendTemplate = "$${${replace(tile.by, "label", "labels")}}"
              timeSeriesQuery = {
                timeSeriesFilter = {
                  filter = tile.filter
                  aggregation = {
                    alignmentPeriod    = "300s"
                    perSeriesAligner   = tile.align
                    crossSeriesReducer = tile.reduce
                    groupByFields      = [tile.by]
                  }
                }
              }
            }]
            yAxis = { label = tile.unit, scale = "LINEAR" }
          }
        }
      }]
    }
  })

  depends_on = [google_project_service.needed]
}
