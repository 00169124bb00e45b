"""Operating PlainMed on EKS: the verbs of `plainmed ops`.

`commands` says how each external program is called, `runner` calls it (or prints it), `aws` and
`kube` ask the two APIs, `release` knows what a Helm release of ours holds, `preflight` what must be
so before, `steps` are what verbs are made of, `verbs` puts them in order, `report` prints, `cli`
parses. The serving code imports nothing of this.
"""

__all__ = ["aws", "cli", "kube", "release", "runner", "steps", "verbs"]
