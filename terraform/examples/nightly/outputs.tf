output "root" {
  description = "simpipe's root."
  value       = module.simpipe.root
}

output "images" {
  description = "Where to push the image."
  value       = module.simpipe.images
}

output "workflow" {
  description = "The nightly workflow."
  value       = module.simpipe.workflow
}

output "first_run" {
  description = "Body of the launch that builds the first release: POST it as README.md says."
  value       = module.simpipe.first_launch
}
