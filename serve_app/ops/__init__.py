"""Operating PlainMed on EKS: the verbs of `plainmed ops`.

`cli` parses, `verbs` puts steps in order, `steps` holds what verbs share. `commands` builds
argument lists and `runner` runs or prints them; `aws` and `kube` query the two APIs; `release`
reads and writes Helm releases, `state` reads a RayService.
Knows the chart and the Terraform configuration; nothing of the application's inside.
"""

__all__ = ["aws", "cli", "kube", "release", "runner", "state", "steps", "verbs"]
