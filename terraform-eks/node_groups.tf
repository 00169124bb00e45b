# The nodes: one managed group a pool, in private subnets. Labels and taints here are what the chart's
# profiles select; the autoscaler reads them from EKS, so pools start from zero without further tags.

locals {
  pool_is_gpu = { for name, pool in var.node_pools : name => startswith(name, "gpu") }
}

resource "aws_launch_template" "pool" {
  for_each = var.node_pools

  name_prefix = "${local.cluster_name}-${each.key}-"

  block_device_mappings {
    device_name = "/dev/xvda"

    ebs {
      volume_type           = "gp3"
      volume_size           = each.value.disk_gib
      encrypted             = true
      delete_on_termination = true
    }
  }

  # One hop: a pod that is not on the host's network cannot reach the node's credentials.
  metadata_options {
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
    http_endpoint               = "enabled"
  }

  monitoring {
    enabled = true
  }

  dynamic "tag_specifications" {
    for_each = ["instance", "volume"]

    content {
      resource_type = tag_specifications.value
      tags          = merge(local.tags, { Name = "${local.cluster_name}-${each.key}" })
    }
  }

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_eks_node_group" "pool" {
  for_each = var.node_pools

  cluster_name           = aws_eks_cluster.this.name
  node_group_name_prefix = "${each.key}-"
  node_role_arn          = aws_iam_role.node.arn
  subnet_ids             = aws_subnet.private[*].id
  version                = var.kubernetes_version
  ami_type               = local.pool_is_gpu[each.key] ? "AL2023_x86_64_NVIDIA" : "AL2023_x86_64_STANDARD"
  instance_types         = each.value.instance_types
  capacity_type          = each.value.capacity_type

  scaling_config {
    min_size     = each.value.min
    max_size     = each.value.max
    desired_size = each.value.min
  }

  update_config {
    max_unavailable = 1
  }

  launch_template {
    id      = aws_launch_template.pool[each.key].id
    version = aws_launch_template.pool[each.key].latest_version
  }

  # The second label is where NVIDIA's device plugin looks for GPUs.
  labels = merge(
    { "plainmed.io/pool" = each.key },
    local.pool_is_gpu[each.key] ? { "nvidia.com/gpu.present" = "true" } : {}
  )

  dynamic "taint" {
    for_each = local.pool_is_gpu[each.key] ? [1] : []

    content {
      key    = "nvidia.com/gpu"
      value  = "true"
      effect = "NO_SCHEDULE"
    }
  }

  lifecycle {
    create_before_destroy = true
    # The autoscaler sets it; Terraform would set it back.
    ignore_changes = [scaling_config[0].desired_size]
  }

  # Nodes cannot join without their role's policies, nor become ready without a network plugin.
  depends_on = [
    aws_iam_role_policy_attachment.node,
    aws_eks_addon.before_nodes,
    aws_route.nat,
  ]
}
