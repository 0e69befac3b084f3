# Each binding says why it is needed. On a bucket, repository or account where the API can do that, else on the project.

# --- worker: launcher and workers of a job run as it ---

# Workers lease work items, report progress and write logs; Dataflow has no level below the project.
resource "google_project_iam_member" "worker_dataflow" {
  project = var.project_id
  role    = "roles/dataflow.worker"
  member  = google_service_account.role["worker"].member
}

# The line reads, writes, replaces (pointer, locks) and prunes objects of the root; no rights on the bucket itself.
resource "google_storage_bucket_iam_member" "worker_root" {
  bucket = google_storage_bucket.root.name
  role   = "roles/storage.objectUser"
  member = google_service_account.role["worker"].member
}

# Jobs stage their graph and temporary files, and delete them as they end.
resource "google_storage_bucket_iam_member" "worker_temp" {
  bucket = google_storage_bucket.temp.name
  role   = "roles/storage.objectUser"
  member = google_service_account.role["worker"].member
}

# The launched job reads the configuration; it must not be able to change it.
resource "google_storage_bucket_iam_member" "worker_deploy" {
  bucket = google_storage_bucket.deploy.name
  role   = "roles/storage.objectViewer"
  member = google_service_account.role["worker"].member
}

# Sources are read, never written.
resource "google_storage_bucket_iam_member" "worker_sources" {
  for_each = var.source_buckets
  bucket   = each.value
  role     = "roles/storage.objectViewer"
  member   = google_service_account.role["worker"].member
}

# Launcher and worker machines pull the image.
resource "google_artifact_registry_repository_iam_member" "worker_image" {
  project    = var.project_id
  location   = google_artifact_registry_repository.images.location
  repository = google_artifact_registry_repository.images.name
  role       = "roles/artifactregistry.reader"
  member     = google_service_account.role["worker"].member
}

# A verb is several jobs, one after the other; the job that drives it submits them and waits.
resource "google_project_iam_member" "worker_submits" {
  count   = var.jobs_on == "dataflow" ? 1 : 0
  project = var.project_id
  role    = "roles/dataflow.developer"
  member  = google_service_account.role["worker"].member
}

# Those jobs run as the worker account as well: acting as itself, as nobody else.
resource "google_service_account_iam_member" "worker_as_worker" {
  count              = var.jobs_on == "dataflow" ? 1 : 0
  service_account_id = google_service_account.role["worker"].name
  role               = "roles/iam.serviceAccountUser"
  member             = google_service_account.role["worker"].member
}

# --- launcher: the workflow (or the schedule, in direct mode) runs as it ---

# Launches, looks at and cancels jobs; Dataflow has no level below the project.
resource "google_project_iam_member" "launcher_dataflow" {
  project = var.project_id
  role    = "roles/dataflow.developer"
  member  = google_service_account.role["launcher"].member
}

# Jobs run as the worker account: the launcher may hand over that one account and no other.
resource "google_service_account_iam_member" "launcher_as_worker" {
  service_account_id = google_service_account.role["worker"].name
  role               = "roles/iam.serviceAccountUser"
  member             = google_service_account.role["launcher"].member
}

# A launch reads the template's spec as the caller.
resource "google_storage_bucket_iam_member" "launcher_deploy" {
  bucket = google_storage_bucket.deploy.name
  role   = "roles/storage.objectViewer"
  member = google_service_account.role["launcher"].member
}

# The workflow reads run summaries and the pointer; listing tells a missing object from a forbidden one.
resource "google_storage_bucket_iam_member" "launcher_root" {
  count  = local.workflow_mode ? 1 : 0
  bucket = google_storage_bucket.root.name
  role   = "roles/storage.objectViewer"
  member = google_service_account.role["launcher"].member
}

# The workflow notes its last good run in temp, from which the age of the live release is told.
resource "google_storage_bucket_iam_member" "launcher_temp" {
  count  = local.workflow_mode ? 1 : 0
  bucket = google_storage_bucket.temp.name
  role   = "roles/storage.objectUser"
  member = google_service_account.role["launcher"].member
}

# The workflow writes the log entries that alerts count; logs have no level below the project for writing.
resource "google_project_iam_member" "launcher_logs" {
  count   = local.workflow_mode ? 1 : 0
  project = var.project_id
  role    = "roles/logging.logWriter"
  member  = google_service_account.role["launcher"].member
}

# --- scheduler: the schedules call the workflows as it ---

# Starts executions; workflows have no bindings of their own, so this is on the project. It can start them and nothing else.
resource "google_project_iam_member" "scheduler_workflows" {
  count   = local.workflow_mode ? 1 : 0
  project = var.project_id
  role    = "roles/workflows.invoker"
  member  = google_service_account.role["scheduler"].member
}

# --- reader: searchers and servers run as it ---

# Opens releases and follows the pointer; writes nothing.
resource "google_storage_bucket_iam_member" "reader_root" {
  bucket = google_storage_bucket.root.name
  role   = "roles/storage.objectViewer"
  member = google_service_account.role["reader"].member
}

# Named workloads get the reader's tokens instead of keys.
resource "google_service_account_iam_member" "readers" {
  for_each           = var.readers
  service_account_id = google_service_account.role["reader"].name
  role               = "roles/iam.serviceAccountTokenCreator"
  member             = each.value
}

# --- others ---

# CI pushes images to this one repository.
resource "google_artifact_registry_repository_iam_member" "writers" {
  for_each   = var.image_writers
  project    = var.project_id
  location   = google_artifact_registry_repository.images.location
  repository = google_artifact_registry_repository.images.name
  role       = "roles/artifactregistry.writer"
  member     = each.value
}

locals {
  # Google's own accounts that encrypt with the key in our name.
  agents = {
    artifactregistry = "gcp-sa-artifactregistry"
    compute          = "compute-system"
    dataflow         = "dataflow-service-producer-prod"
    storage          = "gs-project-accounts"
    workflows        = "gcp-sa-workflows"
  }
}

# Services encrypt what they store for us with our key, where one is given.
resource "google_kms_crypto_key_iam_member" "agents" {
  for_each      = var.kms_key == null ? {} : local.agents
  crypto_key_id = var.kms_key
  role          = "roles/cloudkms.cryptoKeyEncrypterDecrypter"
  member        = "serviceAccount:service-${data.google_project.this.number}@${each.value}.iam.gserviceaccount.com"
}
