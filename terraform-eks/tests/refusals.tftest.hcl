# What the variables refuse before anything is planned.

mock_provider "aws" {
  source = "./tests/mocks"
}

variables {
  model_bucket = "models-of-the-test"
}

run "an_api_open_to_the_world" {
  command = plan
  variables {
    public_access_cidrs = ["0.0.0.0/0"]
  }
  expect_failures = [var.public_access_cidrs]
}

run "a_bucket_name_that_is_none" {
  command = plan
  variables {
    model_bucket = "s3://models"
  }
  expect_failures = [var.model_bucket]
}

run "a_prefix_that_is_everything" {
  command = plan
  variables {
    model_prefixes = { metrics = ["*/"], generator = ["merged-models/"] }
  }
  expect_failures = [var.model_prefixes]
}

run "a_cluster_nobody_can_use" {
  command = plan
  variables {
    cluster_creator_is_admin = false
  }
  expect_failures = [var.cluster_creator_is_admin]
}

run "gpu_nodes_that_never_sleep" {
  command = plan
  variables {
    node_pools = {
      system = { instance_types = ["m6i.large"], min = 1, max = 2 }
      cpu    = { instance_types = ["m6i.xlarge"], min = 0, max = 2 }
      gpu    = { instance_types = ["g5.xlarge"], min = 1, max = 2 }
    }
  }
  expect_failures = [var.node_pools]
}

run "no_node_for_the_autoscaler" {
  command = plan
  variables {
    node_pools = {
      system = { instance_types = ["m6i.large"], min = 0, max = 2 }
      cpu    = { instance_types = ["m6i.xlarge"], min = 0, max = 2 }
    }
  }
  expect_failures = [var.node_pools]
}

run "a_pool_nobody_knows" {
  command = plan
  variables {
    node_pools = {
      system = { instance_types = ["m6i.large"], min = 1, max = 2 }
      cpu    = { instance_types = ["m6i.xlarge"], min = 0, max = 2 }
      arm    = { instance_types = ["m7g.xlarge"], min = 0, max = 2 }
    }
  }
  expect_failures = [var.node_pools]
}

run "a_single_zone" {
  command = plan
  variables {
    zones = ["us-east-1a"]
  }
  expect_failures = [var.zones]
}

run "a_kubernetes_nobody_checked" {
  command = plan
  variables {
    kubernetes_version = "1.29"
  }
  expect_failures = [var.kubernetes_version]
}

run "a_zone_of_another_region" {
  command = plan
  variables {
    zones = ["us-east-1a", "eu-west-1a"]
  }
  expect_failures = [var.zones]
}
