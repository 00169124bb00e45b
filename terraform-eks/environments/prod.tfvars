# Survives the loss of a zone: three zones and a NAT gateway in each.
environment        = "prod"
region             = "us-east-1"
zones              = ["us-east-1a", "us-east-1b", "us-east-1c"]
nat                = "per_az"
log_retention_days = 365

node_pools = {
  # Operators, DNS and the Ray heads.
  system = { instance_types = ["m6i.large", "m5.large"], min = 2, max = 6 }
  # The earlier system's normal size: 4 vCPU, 16 GB. A NewCluster upgrade needs room for both clusters at once.
  cpu = { instance_types = ["m6i.xlarge", "m5.xlarge"], min = 0, max = 12 }
  # Its "max" size: 16 vCPU, 64 GB.
  cpu-max = { instance_types = ["m6i.4xlarge", "m5.4xlarge"], min = 0, max = 6 }
  # One NVIDIA A10G, 4 vCPU, 16 GB.
  gpu = { instance_types = ["g5.xlarge"], min = 0, max = 4 }
  # Four NVIDIA A10G, 48 vCPU, 192 GB: two workers of the vllm profile.
  gpu-multi = { instance_types = ["g5.12xlarge"], min = 0, max = 2, disk_gib = 200 }
}
