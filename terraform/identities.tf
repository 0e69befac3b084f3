# One account a role; nobody has keys. People and other workloads act as one of them where bindings.tf says so.
locals {
  workflow_mode = var.schedule_mode == "workflow"

  roles = merge(
    {
      launcher = "launches jobs, waits for them and reports"
      worker   = "reads sources, reads and writes the root; runs launcher and workers of a job"
      reader   = "reads releases, to serve them"
    },
    local.workflow_mode ? { scheduler = "starts the workflows at their time" } : {},
  )
}

resource "google_service_account" "role" {
  for_each     = local.roles
  project      = var.project_id
  account_id   = "${var.name}-${each.key}"
  display_name = "simpipe ${var.name}: ${each.key}"
  description  = each.value

  depends_on = [google_project_service.needed]
}
