# One environment: a catalogue that is re-indexed every night.
terraform {
  required_version = ">= 1.9, < 2.0"

  required_providers {
    google = {
      source  = "hashicorp/google"
      version = ">= 6.50, < 7.0"
    }
  }

  # Keep the state in a bucket of its own, made by hand once: terraform init -backend-config=bucket=NAME
  backend "gcs" {
    prefix = "simpipe/nightly"
  }
}

provider "google" {
  project = var.project_id
  region  = var.region
}

module "simpipe" {
  source = "../.."

  project_id            = var.project_id
  region                = var.region
  name                  = "catalogue"
  subnetwork            = var.subnetwork
  image                 = var.image
  config                = templatefile("${path.module}/catalogue.yaml", { source_bucket = var.source_bucket })
  source_buckets        = [var.source_bucket]
  schedule              = "15 3 * * *"
  time_zone             = "Europe/Berlin"
  paused                = var.paused
  max_workers           = 8
  notification_channels = var.notification_channels
  labels                = { team = "search" }
}
