"""What must be so before a verb changes anything. Each check answers with a problem or nothing.

All that can be asked is asked, and every problem is reported at once.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable

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


def missing_programs(programs: Iterable[str]) -> list[str]:
    """A problem for each program that is not on PATH."""
    return [
        f"{program} is not on PATH; install {_INSTALL[program]}"
        for program in programs
        if shutil.which(program) is None
    ]


def helm_problem(runner: Runner) -> str | None:
    """Why this Helm will not do; older ones lack the options that avoid apply conflicts."""
    said = runner.read(commands.helm_version(), placeholder="v4")
    found = re.match(r"v?(\d+)", (said or "").strip())
    if found is None or int(found[1]) < 4:
        version = (said or "none").strip() or "none"
        return f"Helm {version} is too old: Helm 4 is needed for server-side apply; upgrade it"
    return None


def missing_files(options: Options) -> list[str]:
    """A problem for each part of the checkout that is not where --root says."""
    needed = (options.chart / "Chart.yaml", options.variables)
    return [
        f"{path} is missing; run in a checkout of PlainMed, or pass --root"
        for path in needed
        if not path.is_file()
    ]


def check_before_changes(
    options: Options,
    runner: Runner,
    aws: Aws,
    *,
    programs: Iterable[str],
    model: tuple[str, str] | None,
    gpu_quota: bool,
) -> None:
    """Everything that can be known without a cluster.

    Args:
        options: of the call.
        runner: in a dry run, says what would be checked and checks nothing.
        aws: to ask.
        programs: needed on PATH.
        model: bucket and name of the generator's model, when it has one.
        gpu_quota: whether to ask for the GPU quota, when GPUs are wanted.

    Raises:
        OpsError: listing every problem.
    """
    names = list(programs)
    profile = options.profile if "generator" in options.target.services else None
    node_vcpus = profile.node_vcpus if profile is not None and gpu_quota else 0
    if runner.dry_run:
        parts = [f"{', '.join(names)} on PATH"]
        parts += ["Helm 4"] * ("helm" in names) + ["AWS credentials"]
        if model is not None:
            parts.append(f"model s3://{model[0]}/merged-models/{model[1]}/")
        elif options.model_bucket:
            parts.append(f"bucket {options.model_bucket}")
        if node_vcpus:
            parts.append("GPU quota")
        runner.note(f"would check: {'; '.join(parts)}")
        return
    problems = [*missing_programs(names), *missing_files(options)]
    if "helm" in names and shutil.which("helm") is not None:
        problems += filter(None, [helm_problem(runner)])
    aws.account()  # without credentials no further question makes sense
    if model is not None:
        merged = profile is Profile.VLLM
        problems += filter(None, [aws.model_problem(*model, merged=merged)])
    elif options.model_bucket:
        problems += filter(None, [aws.model_problem(options.model_bucket, None)])
    if node_vcpus:
        problems += filter(None, [aws.gpu_problem(node_vcpus)])
    if problems:
        raise problems_error(problems)
