"""What must hold before a verb changes anything: programs, files, credentials, model, quota.

Every check runs, and every problem is reported at once.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence

from serve_app.ops import commands
from serve_app.ops.aws import Aws
from serve_app.ops.errors import problems_error
from serve_app.ops.options import Options, Profile
from serve_app.ops.runner import Runner

_INSTALL = {
    "aws": "the AWS CLI v2 (kubeconfig takes its tokens from it)",
    "docker": "Docker, to build images",
    "git": "git, to name images",
    "helm": "Helm 4 (https://helm.sh/docs/intro/install/)",
    "terraform": "Terraform 1.11 or later",
}


def check_before_changes(
    options: Options, runner: Runner, aws: Aws, programs: Sequence[str], *, gpu_quota: bool
) -> None:
    """Checks what can be known without a cluster; a dry run says what would be checked.

    Args:
        options: of the call.
        runner: to ask Helm for its version.
        aws: to ask for credentials, bucket, model and quota.
        programs: needed on PATH.
        gpu_quota: whether to ask for the GPU quota, when GPUs are wanted.

    Raises:
        OpsError: listing every problem.
    """
    generates = "generator" in options.target.services
    bucket = options.bucket if generates and options.model_name else options.model_bucket
    model = options.model_name if generates and bucket else None
    profile = options.profile if generates else None
    node_vcpus = profile.node_vcpus if profile is not None and gpu_quota else 0
    if runner.dry_run:
        parts = [f"{', '.join(programs)} on PATH"]
        parts += ["Helm 4"] * ("helm" in programs) + ["AWS credentials"]
        if bucket:
            shown = f"model s3://{bucket}/merged-models/{model}/"
            parts.append(shown if model else f"bucket {bucket}")
        parts += ["GPU quota"] * bool(node_vcpus)
        runner.note(f"would check: {'; '.join(parts)}")
        return
    problems: list[str | None] = [
        f"{program} is not on PATH; install {_INSTALL[program]}"
        for program in programs
        if shutil.which(program) is None
    ]
    problems += [
        f"{path} is missing; run in a checkout of PlainMed, or pass --root"
        for path in (options.chart / "Chart.yaml", options.variables)
        if not path.is_file()
    ]
    if "helm" in programs and shutil.which("helm") is not None:
        problems.append(_helm_problem(runner))
    aws.account()  # without credentials no further question makes sense
    if bucket:
        problems.append(aws.model_problem(bucket, model, merged=profile is Profile.VLLM))
    if node_vcpus:
        problems.append(aws.gpu_problem(node_vcpus))
    if found := list(filter(None, problems)):
        raise problems_error(found)


def _helm_problem(runner: Runner) -> str | None:
    """Why this Helm will not do; older ones lack the options that avoid apply conflicts."""
    said = (runner.read(commands.helm_version(), placeholder="v4") or "").strip()
    found = re.match(r"v?(\d+)", said)
    if found is None or int(found[1]) < 4:
        return (
            f"Helm {said or 'none'} is too old: Helm 4 is needed for server-side apply; upgrade it"
        )
    return None
