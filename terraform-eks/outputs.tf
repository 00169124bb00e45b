# What people and `plainmed ops` want to know after an apply. The latter reads cluster_name, vpc_id and
# image_repositories (serve_app/ops/steps.py).

output "region" {
  description = "AWS region of the cluster."
  value       = var.region
}

output "environment" {
  description = "Environment these resources belong to."
  value       = var.environment
}

output "cluster_name" {
  description = "EKS cluster, for `aws eks update-kubeconfig`."
  value       = aws_eks_cluster.this.name
}

output "cluster_endpoint_public" {
  description = "Whether the Kubernetes API answers outside the VPC (to public_access_cidrs only)."
  value       = length(var.public_access_cidrs) > 0
}

output "vpc_id" {
  description = "VPC of the cluster; the load balancer controller needs it."
  value       = aws_vpc.this.id
}

output "namespace" {
  description = "Namespace whose service accounts may read the models."
  value       = var.namespace
}

output "service_accounts" {
  description = "Service account each service must run as, by service."
  value       = local.releases
}

output "image_repositories" {
  description = "ECR repository of each image target (cpu, gpu, vllm)."
  value       = { for target, repository in aws_ecr_repository.image : target => repository.repository_url }
}

output "model_bucket" {
  description = "Bucket the generator's models are read from."
  # Through the data source or the resource, so that an apply fails where the bucket does not exist.
  value = var.create_model_bucket ? aws_s3_bucket.models[0].bucket : data.aws_s3_bucket.models[0].bucket
}

output "node_pools" {
  description = "Node pools there are, with the label `plainmed.io/pool` their nodes carry."
  value       = { for name, pool in var.node_pools : name => { min = pool.min, max = pool.max, instance_types = pool.instance_types } }
}
