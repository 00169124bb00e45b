# What holds in an environment, with a mocked AWS: run it once for each file in environments/,
#   terraform test -var-file=environments/dev.tfvars
# (tests/deploy/test_terraform.py runs every one). Expected numbers are written here, not computed from the
# configuration under test.

mock_provider "aws" {
  source = "./tests/mocks"
}

variables {
  model_bucket = "models-of-the-test"
}

run "network" {
  assert {
    condition     = length(aws_subnet.private) == (var.environment == "prod" ? 3 : 2) && length(aws_subnet.public) == length(aws_subnet.private)
    error_message = "dev spans two zones, prod three, each with a public and a private subnet"
  }
  assert {
    condition     = length(aws_nat_gateway.this) == (var.environment == "prod" ? 3 : 1)
    error_message = "dev has one NAT gateway, prod one a zone"
  }
  assert {
    condition     = length(distinct(concat(aws_subnet.private[*].cidr_block, aws_subnet.public[*].cidr_block))) == 2 * length(aws_subnet.private)
    error_message = "no two subnets may overlap"
  }
  assert {
    condition     = length(distinct(aws_subnet.private[*].availability_zone)) == length(aws_subnet.private)
    error_message = "each private subnet lies in a zone of its own"
  }
  assert {
    condition     = alltrue([for subnet in concat(aws_subnet.public, aws_subnet.private) : coalesce(subnet.map_public_ip_on_launch, false) == false])
    error_message = "no subnet gives machines public addresses"
  }
  assert {
    condition     = aws_vpc_endpoint.s3.vpc_endpoint_type == "Gateway" && length(aws_vpc_endpoint.s3.route_table_ids) == length(aws_route_table.private)
    error_message = "every private subnet reaches S3 without NAT"
  }
  assert {
    condition     = length(aws_default_security_group.this.ingress) == 0
    error_message = "the default security group lets nothing in"
  }
}

run "cluster" {
  assert {
    condition     = aws_eks_cluster.this.vpc_config[0].endpoint_private_access && !aws_eks_cluster.this.vpc_config[0].endpoint_public_access
    error_message = "without public_access_cidrs the Kubernetes API (and through it every dashboard) is private"
  }
  assert {
    condition     = alltrue([for id in aws_eks_cluster.this.vpc_config[0].subnet_ids : !contains(aws_subnet.public[*].id, id)])
    error_message = "the control plane uses private subnets only"
  }
  assert {
    condition     = toset(aws_eks_cluster.this.enabled_cluster_log_types) == toset(["api", "audit", "authenticator", "controllerManager", "scheduler"])
    error_message = "every control-plane log is on"
  }
  assert {
    condition     = aws_eks_cluster.this.encryption_config[0].resources == toset(["secrets"]) && aws_kms_key.this.enable_key_rotation
    error_message = "secrets are encrypted with a key that rotates"
  }
  assert {
    condition     = aws_eks_cluster.this.access_config[0].authentication_mode == "API"
    error_message = "access is by access entries, not by the aws-auth map"
  }
  assert {
    condition     = toset(keys(aws_eks_addon.before_nodes)) == toset(["vpc-cni", "kube-proxy", "eks-pod-identity-agent"]) && aws_eks_addon.coredns.addon_name == "coredns" && aws_eks_addon.ebs_csi.addon_name == "aws-ebs-csi-driver"
    error_message = "the five add-ons are there"
  }
  assert {
    condition     = jsondecode(aws_eks_addon.before_nodes["vpc-cni"].configuration_values).enableNetworkPolicy == "true"
    error_message = "the chart's NetworkPolicy objects are enforced"
  }
  assert {
    condition = alltrue([
      for selector in [
        jsondecode(aws_eks_addon.coredns.configuration_values).nodeSelector,
        jsondecode(aws_eks_addon.ebs_csi.configuration_values).controller.nodeSelector,
      ] : selector["plainmed.io/pool"] == "system"
    ])
    error_message = "no add-on holds a node of the other pools up"
  }
}

run "public_access_only_for_named_addresses" {
  command = plan

  variables {
    public_access_cidrs = ["198.51.100.7/32"]
  }

  assert {
    condition     = aws_eks_cluster.this.vpc_config[0].endpoint_public_access && aws_eks_cluster.this.vpc_config[0].public_access_cidrs == toset(["198.51.100.7/32"])
    error_message = "the API answers the named addresses and no other"
  }
}

run "nodes" {
  assert {
    condition     = toset(keys(aws_eks_node_group.pool)) == toset(["system", "cpu", "cpu-max", "gpu", "gpu-multi"])
    error_message = "there are five pools"
  }
  assert {
    condition     = alltrue([for type in aws_eks_node_group.pool["cpu"].instance_types : can(regex("^m[0-9][a-z]*\\.xlarge$", type))])
    error_message = "the normal size is 4 vCPU and 16 GB (an m *.xlarge)"
  }
  assert {
    condition     = alltrue([for type in aws_eks_node_group.pool["cpu-max"].instance_types : can(regex("^m[0-9][a-z]*\\.4xlarge$", type))])
    error_message = "the max size is 16 vCPU and 64 GB (an m *.4xlarge)"
  }
  assert {
    condition     = alltrue([for pool in ["cpu", "cpu-max", "gpu", "gpu-multi"] : aws_eks_node_group.pool[pool].scaling_config[0].min_size == 0 && aws_eks_node_group.pool[pool].scaling_config[0].desired_size == 0])
    error_message = "every pool but system starts from zero nodes, so that a stopped service costs none"
  }
  assert {
    condition     = aws_eks_node_group.pool["system"].scaling_config[0].min_size == (var.environment == "prod" ? 2 : 1)
    error_message = "prod survives the loss of a system node"
  }
  assert {
    condition     = alltrue([for name, pool in aws_eks_node_group.pool : pool.labels["plainmed.io/pool"] == name])
    error_message = "nodes carry the label the chart's profiles select"
  }
  assert {
    condition     = alltrue([for pool in ["gpu", "gpu-multi"] : one(aws_eks_node_group.pool[pool].taint).key == "nvidia.com/gpu" && one(aws_eks_node_group.pool[pool].taint).effect == "NO_SCHEDULE" && aws_eks_node_group.pool[pool].ami_type == "AL2023_x86_64_NVIDIA"])
    error_message = "GPU nodes have drivers and take only pods that ask for a GPU"
  }
  assert {
    condition     = alltrue([for name, pool in aws_eks_node_group.pool : length(pool.taint) == 0 if !contains(["gpu", "gpu-multi"], name)])
    error_message = "other nodes are not tainted"
  }
  assert {
    condition     = alltrue([for pool in aws_eks_node_group.pool : toset(pool.subnet_ids) == toset(aws_subnet.private[*].id)])
    error_message = "nodes are in private subnets"
  }
  assert {
    condition     = alltrue([for template in aws_launch_template.pool : template.metadata_options[0].http_tokens == "required" && template.metadata_options[0].http_put_response_hop_limit == 1])
    error_message = "pods cannot take the node's credentials"
  }
  assert {
    condition     = alltrue([for template in aws_launch_template.pool : tobool(template.block_device_mappings[0].ebs[0].encrypted)])
    error_message = "disks are encrypted"
  }
}

run "permissions" {
  assert {
    condition = alltrue(flatten([
      for document in data.aws_iam_policy_document.models : [
        for statement in document.statement : [for action in statement.actions : !strcontains(action, "*")]
      ]
    ]))
    error_message = "no wildcard action on data"
  }
  assert {
    condition = alltrue(flatten([
      for document in data.aws_iam_policy_document.models : [
        for statement in document.statement : [for action in statement.actions : contains(["s3:GetObject", "s3:ListBucket", "kms:Decrypt"], action)]
      ]
    ]))
    error_message = "services read models and write nothing"
  }
  assert {
    condition = alltrue(flatten([
      for document in data.aws_iam_policy_document.models : [
        for statement in document.statement : [for resource in statement.resources : startswith(resource, "arn:aws:s3:::models-of-the-test")]
      ]
    ]))
    error_message = "services read one bucket and no other"
  }
  assert {
    condition = toset(flatten([
      for statement in data.aws_iam_policy_document.models["generator"].statement : statement.resources
    ])) == toset(["arn:aws:s3:::models-of-the-test", "arn:aws:s3:::models-of-the-test/merged-models/*"])
    error_message = "the generator reads merged-models/ only"
  }
  assert {
    condition = alltrue(flatten([
      for document in [data.aws_iam_policy_document.cluster_autoscaler, data.aws_iam_policy_document.load_balancer_controller] : [
        for statement in document.statement : [
          for action in statement.actions : !strcontains(action, "*") && (statement.resources != toset(["*"]) || can(regex(":(Describe|Get)", action)))
        ]
      ]
    ]))
    error_message = "controllers change only what an ARN names; on * they only look"
  }
  assert {
    condition = alltrue([
      for statement in concat(data.aws_iam_policy_document.cluster_autoscaler.statement, data.aws_iam_policy_document.load_balancer_controller.statement) :
      length(statement.condition) > 0 || startswith(statement.sid, "Look") || statement.sid == "MakeSecurityGroupsInOwnVpc"
    ])
    error_message = "whatever changes something is bound by a condition to this cluster"
  }
  assert {
    condition     = { for name, association in aws_eks_pod_identity_association.pod : association.service_account => association.namespace } == { "plainmed-metrics" = "plainmed", "plainmed-generator" = "plainmed", "cluster-autoscaler" = "kube-system", "aws-load-balancer-controller" = "kube-system" }
    error_message = "each role is bound to one service account"
  }
  assert {
    condition     = toset([for attachment in aws_iam_role_policy_attachment.node : basename(attachment.policy_arn)]) == toset(["AmazonEKSWorkerNodePolicy", "AmazonEC2ContainerRegistryPullOnly", "AmazonEKS_CNI_Policy"])
    error_message = "nodes may join, pull and network, no more"
  }
}

run "models_are_only_read" {
  assert {
    condition     = length(aws_s3_bucket.models) == 0 && length(data.aws_s3_bucket.models) == 1
    error_message = "the bucket is neither created nor managed unless asked"
  }
  assert {
    condition     = output.model_bucket == "models-of-the-test"
    error_message = "the ops commands learn the bucket"
  }
}

run "what_the_ops_commands_read" {
  assert {
    condition     = output.cluster_name == "plainmed-${var.environment}"
    error_message = "the cluster has the name the ops commands expect of the environment"
  }
  assert {
    condition     = output.vpc_id == aws_vpc.this.id
    error_message = "the load balancer controller learns its VPC"
  }
  assert {
    condition     = output.namespace == "plainmed" && output.service_accounts == { metrics = "plainmed-metrics", generator = "plainmed-generator" }
    error_message = "roles are bound to the namespace and service accounts of the releases"
  }
}

run "images" {
  assert {
    condition     = toset(keys(output.image_repositories)) == toset(["cpu", "gpu", "vllm"])
    error_message = "one repository an image target"
  }
  assert {
    condition     = alltrue([for repository in aws_ecr_repository.image : repository.image_scanning_configuration[0].scan_on_push && repository.image_tag_mutability == "IMMUTABLE"])
    error_message = "images are scanned, and a tag never moves"
  }
  assert {
    condition     = alltrue([for policy in aws_ecr_lifecycle_policy.image : length(jsondecode(policy.policy).rules) == 2])
    error_message = "old images expire"
  }
}
