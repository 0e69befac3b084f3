# --- where ---

variable "project_id" {
  description = "Project that everything is made in."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{4,28}[a-z0-9]$", var.project_id))
    error_message = "project_id: 6 to 30 lower-case letters, digits and hyphens, a letter first, no hyphen last."
  }
}

variable "region" {
  description = "Region of buckets, repository, workflow, schedule and jobs. One region for all: traffic between regions costs."
  type        = string

  validation {
    condition     = can(regex("^[a-z]+-[a-z]+[0-9]+$", var.region))
    error_message = "region: for example europe-west1."
  }
}

variable "name" {
  description = "Name of this environment; resources and jobs are called NAME-..."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,18}[a-z0-9]$", var.name))
    error_message = "name: 3 to 20 lower-case letters, digits and hyphens, a letter first, no hyphen last."
  }
}

variable "labels" {
  description = "Labels of buckets, repository, workflows and jobs."
  type        = map(string)
  default     = {}

  validation {
    condition     = alltrue([for key, value in var.labels : can(regex("^[a-z][a-z0-9_-]{0,62}$", key)) && can(regex("^[a-z0-9_-]{0,63}$", value))])
    error_message = "labels: lower-case letters, digits, _ and -; 63 at most; keys begin with a letter."
  }
}

variable "subnetwork" {
  description = "Subnetwork of the workers, as regions/REGION/subnetworks/NAME or a full path. It needs Private Google Access: workers have no public address."
  type        = string

  validation {
    condition     = can(regex("(^|/)regions/[a-z0-9-]+/subnetworks/[a-z0-9-]+$", var.subnetwork))
    error_message = "subnetwork: regions/REGION/subnetworks/NAME."
  }
}

# --- what is stored ---

variable "root_prefix" {
  description = "Folder in the root bucket that is simpipe's root."
  type        = string
  default     = "root"

  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9_-]*(/[a-z0-9][a-z0-9_-]*)*$", var.root_prefix))
    error_message = "root_prefix: names of lower-case letters, digits, _ and -, with / between them."
  }
}

variable "noncurrent_days" {
  description = "Days for which overwritten and deleted objects of the root can be brought back."
  type        = number
  default     = 14

  validation {
    condition     = var.noncurrent_days >= 1 && floor(var.noncurrent_days) == var.noncurrent_days
    error_message = "noncurrent_days: a whole number, 1 or more."
  }
}

variable "temp_days" {
  description = "Days after which what jobs stage is deleted. Longer than any job runs."
  type        = number
  default     = 7

  validation {
    condition     = var.temp_days >= 2 && floor(var.temp_days) == var.temp_days
    error_message = "temp_days: a whole number, 2 or more; a job's staged files must outlive it."
  }
}

variable "delete_contents" {
  description = "Whether `terraform destroy` may delete buckets that are not empty. For trials only."
  type        = bool
  default     = false
}

variable "kms_key" {
  description = "Cloud KMS key (projects/.../cryptoKeys/NAME, in the region) for buckets, repository, workflows and workers; null: Google's own keys."
  type        = string
  default     = null

  validation {
    condition     = var.kms_key == null || can(regex("^projects/[^/]+/locations/[^/]+/keyRings/[^/]+/cryptoKeys/[^/]+$", var.kms_key))
    error_message = "kms_key: projects/P/locations/L/keyRings/R/cryptoKeys/K."
  }
}

# --- who ---

variable "source_buckets" {
  description = "Names of the buckets that hold the sources, which the worker may read."
  type        = set(string)
  default     = []

  validation {
    condition     = alltrue([for bucket in var.source_buckets : can(regex("^[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]$", bucket))])
    error_message = "source_buckets: names of buckets, without gs://."
  }
}

variable "image_writers" {
  description = "Members that may push images, for example the CI's service account as serviceAccount:...; all by name."
  type        = set(string)
  default     = []

  validation {
    condition     = alltrue([for member in var.image_writers : can(regex("^(serviceAccount|user|group|principal):[^*]+$", member))])
    error_message = "image_writers: serviceAccount:..., user:..., group:... or principal:...; nothing public, no wildcard."
  }
}

variable "readers" {
  description = "Members that may act as the reader account, for example a serving workload's principal; all by name."
  type        = set(string)
  default     = []

  validation {
    condition     = alltrue([for member in var.readers : can(regex("^(serviceAccount|user|group|principal):[^*]+$", member))])
    error_message = "readers: serviceAccount:..., user:..., group:... or principal:...; nothing public, no wildcard."
  }
}

# --- what runs ---

variable "image" {
  description = "Image of launcher and workers, by digest: REGION-docker.pkg.dev/PROJECT/NAME-images/simpipe@sha256:..."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9./_-]*@sha256:[0-9a-f]{64}$", var.image))
    error_message = "image: by digest (...@sha256: and 64 hex digits), not by tag: a tag can move between launch and workers."
  }
}

variable "template_metadata_file" {
  description = "Metadata of the Flex Template (its parameters); null: templates/dataflow/metadata.json of this repository."
  type        = string
  default     = null
}

variable "config" {
  description = "Text of the line's configuration (YAML). Jobs are given the root made here."
  type        = string

  validation {
    condition     = can(yamldecode(var.config).source)
    error_message = "config: YAML with a key `source`; see docs/configuration.md."
  }
}

variable "template_parameters" {
  description = "More parameters of the template, for every launch."
  type        = map(string)
  default     = {}
}

variable "machine_type" {
  description = "Machine type of the one worker that drives a verb. Training runs there; with jobs_on local everything does."
  type        = string
  default     = "n2-standard-8"
}

variable "max_workers" {
  description = "Most workers of each of a verb's own jobs, the limit of what a run can cost; null: as the configuration's runner.workers say."
  type        = number
  default     = null

  validation {
    condition     = try(var.max_workers >= 1 && floor(var.max_workers) == var.max_workers, var.max_workers == null)
    error_message = "max_workers: a whole number, 1 or more."
  }
}

variable "disk_gb" {
  description = "Disk of the driving worker in GB."
  type        = number
  default     = 100

  validation {
    condition     = var.disk_gb >= 30
    error_message = "disk_gb: 30 or more: the image alone takes several."
  }
}

variable "jobs_on" {
  description = "Where the jobs of a verb run. dataflow: jobs of their own, with workers by verb; local: in the one worker that drives the verb, for small catalogues."
  type        = string
  default     = "dataflow"

  validation {
    condition     = contains(["dataflow", "local"], var.jobs_on)
    error_message = "jobs_on: dataflow or local."
  }
}

# --- when ---

variable "schedule" {
  description = "When to re-index, as cron."
  type        = string
  default     = "15 3 * * *"

  validation {
    condition     = can(regex("^\\S+( \\S+){4}$", var.schedule))
    error_message = "schedule: five fields of cron, for example 15 3 * * *"
  }
}

variable "time_zone" {
  description = "Time zone of the schedule."
  type        = string
  default     = "Etc/UTC"
}

variable "paused" {
  description = "Whether the schedule stands still; for the first days, and after a rollback."
  type        = bool
  default     = false
}

variable "schedule_mode" {
  description = "workflow: a workflow launches, waits, judges and reports. direct: the schedule launches the job, and nobody waits for it."
  type        = string
  default     = "workflow"

  validation {
    condition     = contains(["workflow", "direct"], var.schedule_mode)
    error_message = "schedule_mode: workflow or direct."
  }
}

variable "promote" {
  description = "reindex: the re-index publishes what passes its gates. workflow: it stops before, and the workflow publishes by a second launch."
  type        = string
  default     = "reindex"

  validation {
    condition     = contains(["reindex", "workflow"], var.promote)
    error_message = "promote: reindex or workflow."
  }

  validation {
    condition     = var.promote == "reindex" || var.schedule_mode == "workflow"
    error_message = "promote: workflow needs schedule_mode workflow; nobody else would publish."
  }
}

variable "max_run_hours" {
  description = "Hours after which a run's job is cancelled by the workflow."
  type        = number
  default     = 12

  validation {
    condition     = var.max_run_hours > 0 && var.max_run_hours <= 168
    error_message = "max_run_hours: more than 0, at most 168."
  }
}

# --- what is watched ---

variable "notification_channels" {
  description = "Monitoring's notification channels, as projects/PROJECT/notificationChannels/ID."
  type        = list(string)
  default     = []
}

variable "alert_job_hours" {
  description = "Hours that a job may run before the backlog alert; less than max_run_hours, so that somebody can look."
  type        = number
  default     = 6

  validation {
    condition     = var.alert_job_hours > 0 && var.alert_job_hours <= var.max_run_hours
    error_message = "alert_job_hours: more than 0, at most max_run_hours."
  }
}

variable "alert_release_hours" {
  description = "Hours that the live release may go without being published or found up to date."
  type        = number
  default     = 36

  validation {
    condition     = var.alert_release_hours > 0
    error_message = "alert_release_hours: more than 0."
  }
}
