# The module's plan with a provider of made-up answers: `terraform init -backend=false && terraform test`. No cloud, no credentials.

mock_provider "google" {
  mock_data "google_project" {
    defaults = { number = "123456789012" }
  }
  mock_resource "google_service_account" {
    defaults = {
      id     = "projects/test-project/serviceAccounts/one@test-project.iam.gserviceaccount.com"
      name   = "projects/test-project/serviceAccounts/one@test-project.iam.gserviceaccount.com"
      email  = "one@test-project.iam.gserviceaccount.com"
      member = "serviceAccount:one@test-project.iam.gserviceaccount.com"
    }
  }
}

variables {
  project_id             = "test-project"
  region                 = "europe-west1"
  name                   = "small"
  subnetwork             = "regions/europe-west1/subnetworks/default"
  image                  = "europe-west1-docker.pkg.dev/test-project/small-images/simpipe@sha256:0123456789012345678901234567890123456789012345678901234567890123"
  config                 = "name: My Shoes\nsource: digits\n"
  template_metadata_file = "../templates/dataflow/metadata.json"
}

run "workflow_mode" {
  command = apply

  assert {
    condition     = alltrue([for bucket in [google_storage_bucket.root, google_storage_bucket.temp, google_storage_bucket.deploy] : bucket.public_access_prevention == "enforced" && bucket.uniform_bucket_level_access])
    error_message = "every bucket is closed to the public"
  }
  assert {
    condition     = google_storage_bucket.root.versioning[0].enabled && !google_storage_bucket.root.force_destroy
    error_message = "the root keeps old versions and is not destroyed with its contents"
  }
  assert {
    condition     = output.root == "gs://test-project-small-root/root"
    error_message = "root"
  }
  assert {
    condition     = toset(keys(output.service_accounts)) == toset(["launcher", "reader", "scheduler", "worker"])
    error_message = "one account a role"
  }
  assert {
    condition     = jsondecode(google_storage_bucket_object.template.content).image == var.image && length(jsondecode(google_storage_bucket_object.template.content).metadata.parameters) > 3
    error_message = "the template's spec holds the image by digest and the metadata"
  }
  assert {
    condition     = jsondecode(google_workflows_workflow.nightly[0].user_env_vars.ENVIRONMENT).ipConfiguration == "WORKER_IP_PRIVATE" && jsondecode(google_workflows_workflow.nightly[0].user_env_vars.ENVIRONMENT).serviceAccountEmail == google_service_account.role["worker"].email
    error_message = "workers have no public address and run as the worker account"
  }
  assert {
    condition     = jsondecode(google_workflows_workflow.nightly[0].user_env_vars.PARAMETERS) == { config = output.config, jobs_on = "dataflow", root = output.root, sdk_container_image = var.image }
    error_message = "parameters of every launch"
  }
  assert {
    condition     = alltrue([for value in values(google_workflows_workflow.nightly[0].user_env_vars) : length(value) <= 4096]) && length(google_workflows_workflow.nightly[0].user_env_vars) <= 20
    error_message = "within the limits of a workflow's environment"
  }
  assert {
    condition     = length(google_cloud_scheduler_job.direct) == 0 && google_cloud_scheduler_job.nightly[0].http_target[0].oauth_token[0].service_account_email == google_service_account.role["scheduler"].email
    error_message = "the schedule starts the workflow as the scheduler"
  }
  assert {
    condition     = strcontains(google_monitoring_alert_policy.job_failed.conditions[0].condition_threshold[0].filter, "full_match(\"simpipe-small-nightly|simpipe-[a-z]+-my-shoes.*\")")
    error_message = "alerts look at the driving job and at the verbs' own"
  }
  assert {
    condition     = length(google_monitoring_alert_policy.job_failed.conditions) == 2 && length(google_monitoring_alert_policy.gate_failed) == 1 && length(google_monitoring_alert_policy.release_old) == 1
    error_message = "four alerts"
  }
  assert {
    condition     = length(jsondecode(google_monitoring_dashboard.line.dashboard_json).mosaicLayout.tiles) == 9
    error_message = "tiles of the dashboard"
  }
  assert {
    condition     = length(google_kms_crypto_key_iam_member.agents) == 0 && length(google_project_iam_member.worker_submits) == 1
    error_message = "bindings that depend on variables"
  }
}

run "direct_mode" {
  command = apply

  variables {
    schedule_mode = "direct"
    jobs_on       = "local"
    max_workers   = 3
    kms_key       = "projects/test-project/locations/europe-west1/keyRings/ring/cryptoKeys/key"
  }

  assert {
    condition     = length(google_workflows_workflow.nightly) == 0 && length(google_logging_metric.event) == 0 && output.workflow == null
    error_message = "no workflow and nothing that reads its log"
  }
  assert {
    condition     = toset(keys(output.service_accounts)) == toset(["launcher", "reader", "worker"])
    error_message = "no scheduler account"
  }
  assert {
    condition     = jsondecode(base64decode(google_cloud_scheduler_job.direct[0].http_target[0].body)).launchParameter.parameters == { verb = "reindex", config = output.config, root = output.root, jobs_on = "local", max_workers = "3", sdk_container_image = var.image }
    error_message = "the schedule launches the template itself"
  }
  assert {
    condition     = jsondecode(base64decode(google_cloud_scheduler_job.direct[0].http_target[0].body)).launchParameter.environment.kmsKeyName == var.kms_key && google_storage_bucket.root.encryption[0].default_kms_key_name == var.kms_key
    error_message = "the customer's key is used"
  }
  assert {
    condition     = length(google_kms_crypto_key_iam_member.agents) == 5 && length(google_project_iam_member.worker_submits) == 0 && length(google_service_account_iam_member.worker_as_worker) == 0
    error_message = "bindings that depend on variables"
  }
}

run "image_by_tag" {
  command = plan
  variables {
    image = "europe-west1-docker.pkg.dev/test-project/small-images/simpipe:latest"
  }
  expect_failures = [var.image]
}

run "public_reader" {
  command = plan
  variables {
    readers = ["allUsers"]
  }
  expect_failures = [var.readers]
}

run "public_writer" {
  command = plan
  variables {
    image_writers = ["principal://iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/*"]
  }
  expect_failures = [var.image_writers]
}

run "nobody_publishes" {
  command = plan
  variables {
    schedule_mode = "direct"
    promote       = "workflow"
  }
  expect_failures = [var.promote]
}

run "bad_values" {
  command = plan
  variables {
    project_id      = "X"
    region          = "europe"
    name            = "Bad_Name"
    subnetwork      = "default"
    labels          = { Team = "search" }
    root_prefix     = "/root/"
    noncurrent_days = 0
    temp_days       = 0.5
    kms_key         = "key"
    source_buckets  = ["gs://bucket"]
    config          = "name: x"
    disk_gb         = 10
    max_workers     = 0
    jobs_on         = "flink"
    schedule        = "daily"
    max_run_hours   = 0
  }
  expect_failures = [
    var.project_id, var.region, var.name, var.subnetwork, var.labels, var.root_prefix, var.noncurrent_days, var.temp_days, var.kms_key,
    var.source_buckets, var.config, var.disk_gb, var.max_workers, var.jobs_on, var.schedule, var.max_run_hours,
  ]
}

run "alert_after_the_end" {
  command = plan
  variables {
    max_run_hours   = 4
    alert_job_hours = 5
  }
  expect_failures = [var.alert_job_hours]
}
