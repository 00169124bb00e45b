"""Operating PlainMed on EKS: the verbs of `plainmed ops`.

`commands` says how each external program is called, `runner` calls it (or prints it), `aws` and
`kube` ask the two APIs, `release` knows what a Helm release of ours holds, `verbs` puts the steps
of each verb in order, `cli` parses. Nothing here is imported by the serving code.
"""
