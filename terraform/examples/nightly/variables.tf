variable "project_id" {
  description = "Project of this environment."
  type        = string
}

variable "region" {
  description = "Region of everything."
  type        = string
  default     = "europe-west1"
}

variable "subnetwork" {
  description = "Subnetwork of the workers, with Private Google Access."
  type        = string
  default     = "regions/europe-west1/subnetworks/default"
}

variable "source_bucket" {
  description = "Bucket that holds the catalogue's Parquet files."
  type        = string
}

variable "image" {
  description = "The image, by digest."
  type        = string

  validation {
    condition     = can(regex("@sha256:[0-9a-f]{64}$", var.image))
    error_message = "image: by digest, ...@sha256: and 64 hex digits."
  }
}

variable "paused" {
  description = "Whether the schedule stands still; true until the first release is live."
  type        = bool
  default     = true
}

variable "notification_channels" {
  description = "Where alerts go."
  type        = list(string)
  default     = []
}
