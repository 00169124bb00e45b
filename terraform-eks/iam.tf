# Every role, and no more than each needs. Pods get theirs from EKS Pod Identity: no keys, no
# annotations, and the trust is bound to this cluster.

# --- control plane and nodes -----------------------------------------------------------------

data "aws_iam_policy_document" "cluster_trust" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["eks.amazonaws.com"]
    }
  }
}

resource "aws_iam_role" "cluster" {
  name               = "${local.cluster_name}-cluster"
  assume_role_policy = data.aws_iam_policy_document.cluster_trust.json
}

resource "aws_iam_role_policy_attachment" "cluster" {
  role       = aws_iam_role.cluster.name
  policy_arn = "arn:${local.partition}:iam::aws:policy/AmazonEKSClusterPolicy"
}

data "aws_iam_policy_document" "node_trust" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["ec2.amazonaws.com"]
    }
  }
}

resource "aws_iam_role" "node" {
  name               = "${local.cluster_name}-node"
  assume_role_policy = data.aws_iam_policy_document.node_trust.json
}

resource "aws_iam_role_policy_attachment" "node" {
  for_each = toset([
    "AmazonEKSWorkerNodePolicy",
    "AmazonEC2ContainerRegistryPullOnly",
    "AmazonEKS_CNI_Policy",
  ])

  role       = aws_iam_role.node.name
  policy_arn = "arn:${local.partition}:iam::aws:policy/${each.value}"
}

# --- pods ------------------------------------------------------------------------------------

locals {
  # Role -> which service account of which namespace takes it.
  pods = merge(
    { for service, release in local.releases : service => { namespace = var.namespace, account = release } },
    {
      "cluster-autoscaler"       = { namespace = "kube-system", account = "cluster-autoscaler" }
      "load-balancer-controller" = { namespace = "kube-system", account = "aws-load-balancer-controller" }
      # Its add-on makes the association itself (addons.tf).
      "ebs-csi" = { namespace = "kube-system", account = "ebs-csi-controller-sa" }
    }
  )
}

data "aws_iam_policy_document" "pod_trust" {
  statement {
    actions = ["sts:AssumeRole", "sts:TagSession"]

    principals {
      type        = "Service"
      identifiers = ["pods.eks.amazonaws.com"]
    }

    condition {
      test     = "StringEquals"
      variable = "aws:SourceAccount"
      values   = [local.account_id]
    }

    condition {
      test     = "ArnEquals"
      variable = "aws:SourceArn"
      values   = [aws_eks_cluster.this.arn]
    }
  }
}

resource "aws_iam_role" "pod" {
  for_each = local.pods

  name               = "${local.cluster_name}-${each.key}"
  assume_role_policy = data.aws_iam_policy_document.pod_trust.json
}

resource "aws_eks_pod_identity_association" "pod" {
  for_each = { for name, pod in local.pods : name => pod if name != "ebs-csi" }

  cluster_name    = aws_eks_cluster.this.name
  namespace       = each.value.namespace
  service_account = each.value.account
  role_arn        = aws_iam_role.pod[each.key].arn
}

resource "aws_iam_role_policy_attachment" "ebs_csi" {
  role       = aws_iam_role.pod["ebs-csi"].name
  policy_arn = "arn:${local.partition}:iam::aws:policy/service-role/AmazonEBSCSIDriverPolicy"
}

# --- models: each service reads its own prefixes of one bucket, and writes nothing --------------

locals {
  model_bucket_arn = "arn:${local.partition}:s3:::${var.model_bucket}"
}

data "aws_iam_policy_document" "models" {
  for_each = local.releases

  statement {
    sid       = "ListOwnPrefixes"
    actions   = ["s3:ListBucket"]
    resources = [local.model_bucket_arn]

    condition {
      test     = "StringLike"
      variable = "s3:prefix"
      values   = [for prefix in var.model_prefixes[each.key] : "${prefix}*"]
    }
  }

  statement {
    sid       = "ReadOwnPrefixes"
    actions   = ["s3:GetObject"]
    resources = [for prefix in var.model_prefixes[each.key] : "${local.model_bucket_arn}/${prefix}*"]
  }

  dynamic "statement" {
    for_each = var.model_bucket_kms_key_arn == null ? [] : [var.model_bucket_kms_key_arn]

    content {
      sid       = "DecryptModels"
      actions   = ["kms:Decrypt"]
      resources = [statement.value]

      condition {
        test     = "StringEquals"
        variable = "kms:ViaService"
        values   = ["s3.${var.region}.amazonaws.com"]
      }
    }
  }
}

resource "aws_iam_role_policy" "models" {
  for_each = local.releases

  name   = "read-models"
  role   = aws_iam_role.pod[each.key].id
  policy = data.aws_iam_policy_document.models[each.key].json
}
