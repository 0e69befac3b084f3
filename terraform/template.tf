locals {
  template_metadata = jsondecode(file(coalesce(var.template_metadata_file, "${path.module}/../templates/dataflow/metadata.json")))

  # What `gcloud dataflow flex-template build` would write.
  template_spec = jsonencode({
    image    = var.image
    sdkInfo  = { language = "PYTHON" }
    metadata = local.template_metadata
  })

  # The line's name, as it stands in the names of its jobs (simpipe-VERB-NAME).
  line = trim(replace(lower(try(yamldecode(var.config).name, "")), "/[^a-z0-9]+/", "-"), "-")

  # Environment of every launch: of the job that drives a verb, which hands network, accounts and image on to the verb's own jobs.
  # Launcher and workers have no public address.
  environment = merge(
    {
      additionalUserLabels = local.labels
      diskSizeGb           = var.disk_gb
      ipConfiguration      = "WORKER_IP_PRIVATE"
      machineType          = var.machine_type
      maxWorkers           = 1 # one element: the verb
      serviceAccountEmail  = google_service_account.role["worker"].email
      stagingLocation      = "gs://${google_storage_bucket.temp.name}/staging"
      subnetwork           = var.subnetwork
      tempLocation         = "gs://${google_storage_bucket.temp.name}/temp"
    },
    var.kms_key == null ? {} : { kmsKeyName = var.kms_key },
  )

  # Parameters of every launch.
  parameters = merge(
    var.template_parameters,
    {
      config              = local.config_uri
      jobs_on             = var.jobs_on
      root                = local.root_uri
      sdk_container_image = var.image
    },
    var.max_workers == null ? {} : { max_workers = tostring(var.max_workers) },
  )

  template_uri = "gs://${google_storage_bucket.deploy.name}/${google_storage_bucket_object.template.name}"
  config_uri   = "gs://${google_storage_bucket.deploy.name}/${google_storage_bucket_object.config.name}"
}

# Named by content: a launch that has begun keeps the spec it began with.
resource "google_storage_bucket_object" "template" {
  bucket       = google_storage_bucket.deploy.name
  name         = "templates/simpipe-${substr(sha256(local.template_spec), 0, 12)}.json"
  content      = local.template_spec
  content_type = "application/json"
}

resource "google_storage_bucket_object" "config" {
  bucket       = google_storage_bucket.deploy.name
  name         = "configs/line-${substr(sha256(var.config), 0, 12)}.yaml"
  content      = var.config
  content_type = "application/yaml"
}
