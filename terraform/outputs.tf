output "root" {
  description = "simpipe's root: gs://BUCKET/PREFIX."
  value       = local.root_uri
}

output "temp" {
  description = "Bucket for what jobs stage."
  value       = "gs://${google_storage_bucket.temp.name}"
}

output "config" {
  description = "The configuration as jobs read it, with the root made here."
  value       = local.config_uri
}

output "template" {
  description = "Spec of the Flex Template, for launches by hand."
  value       = local.template_uri
}

output "images" {
  description = "Where to push the image: HOST/PROJECT/REPOSITORY."
  value       = "${var.region}-docker.pkg.dev/${var.project_id}/${google_artifact_registry_repository.images.repository_id}"
}

output "service_accounts" {
  description = "Email of each role's account: launcher, worker, reader and, with workflows, scheduler."
  value       = { for role, account in google_service_account.role : role => account.email }
}

output "workflow" {
  description = "Name of the nightly workflow, to start it by hand; null in direct mode."
  value       = one(google_workflows_workflow.nightly[*].name)
}

output "launch_url" {
  description = "Where launches are posted."
  value       = local.launch_url
}

output "first_launch" {
  description = "Body of the launch that builds and publishes the first release (verb run), as JSON: the schedule only re-indexes."
  value = jsonencode({
    launchParameter = {
      jobName              = local.job_name
      containerSpecGcsPath = local.template_uri
      parameters           = merge(local.parameters, { verb = "run", run_id = "first" })
      environment          = local.environment
    }
  })
}

output "dashboard" {
  description = "Id of the dashboard."
  value       = google_monitoring_dashboard.line.id
}
