"""From references to a served model: find adapter and base, merge, upload. Prints nothing."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from serve_app.core.errors import ConfigError
from serve_app.core.settings import Settings
from serve_app.storage.artifacts import Downloads, resolve
from serve_app.storage.artifacts.cache import cache_root
from serve_app.storage.artifacts.s3_upload import UploadReport, require_bucket, upload_folder
from serve_app.training.merge.lora import PROMPT, MergeReport, merge_adapter, require_adapter
from serve_app.training.merge.naming import derive_model_name, require_model_name

OnProgress = Callable[[str, int, int], None]
"""Called with what is being done, and how much of it is done: bytes of bytes, or 0 of 0."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run will do.

    Attributes:
        adapter: the adapter's directory, here.
        adapter_reference: as it was given.
        base: a directory or reference.
        model_name: MODEL_NAME.
        bucket: MODEL_S3_BUCKET.
        out: where the merged model is written before it is uploaded.
        keep: whether it stays there afterwards.
        present: keys that are at the destination already.
    """

    adapter: Path
    adapter_reference: str
    base: str
    model_name: str
    bucket: str
    out: Path
    keep: bool
    present: tuple[str, ...]

    @property
    def prefix(self) -> str:
        """Where the generator of `MODEL_NAME` is looked for in its bucket."""
        return f"merged-models/{self.model_name}/"

    @property
    def destination(self) -> str:
        """`prefix` with its bucket, as a reference."""
        return f"s3://{self.bucket}/{self.prefix}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run did."""

    plan: Plan
    merge: MergeReport
    upload: UploadReport


def plan_merge(
    settings: Settings,
    adapter: str,
    *,
    base: str | None = None,
    model_name: str | None = None,
    bucket: str | None = None,
    out: Path | None = None,
) -> Plan:
    """Finds the adapter and checks the destination; loads no model and writes nothing there.

    Args:
        settings: MODEL_S3_BUCKET, CACHE_DIR, CACHE_MAX_GB and HF_TOKEN are used.
        adapter: a LoRA adapter, as a reference; fetched if it is remote.
        base: its base, as a reference; unset: as its configuration says.
        model_name: unset: derived from `adapter`.
        bucket: unset: MODEL_S3_BUCKET.
        out: unset: a folder in the cache, removed after the upload.

    Raises:
        ConfigError: no such adapter or bucket, no base is named, or access is denied.
    """
    name = require_model_name(model_name or derive_model_name(adapter))
    bucket = bucket or settings.model_s3_bucket
    if not bucket:
        raise ConfigError("no bucket is named; set MODEL_S3_BUCKET or give --bucket")
    place = out or cache_root(settings.cache_dir) / "merged" / name
    present = require_bucket(bucket, f"merged-models/{name}/")
    directory = resolve(adapter, Downloads.of(settings))
    config = require_adapter(directory)
    named = base or config.get("base_model_name_or_path")
    if not isinstance(named, str) or not named.strip():
        raise ConfigError(f"the adapter {adapter} does not name its base; give --base")
    return Plan(
        adapter=directory,
        adapter_reference=adapter,
        base=named,
        model_name=name,
        bucket=bucket,
        out=place,
        keep=out is not None,
        present=tuple(present),
    )


def merge_and_upload(
    settings: Settings,
    plan: Plan,
    *,
    dtype: str = "auto",
    max_shard_size: str = "5GB",
    prompt: str = PROMPT,
    on_progress: OnProgress | None = None,
) -> Outcome:
    """Merges, checks the logits, uploads. A run that was killed goes on with what it has.

    Args:
        settings: as for `plan_merge`.
        plan: from `plan_merge`.
        dtype: as `merge_adapter`.
        max_shard_size: as `merge_adapter`.
        prompt: as `merge_adapter`.
        on_progress: told what is being done.

    Raises:
        ConfigError: as `merge_adapter` and `upload_folder`; nothing is uploaded unless the
            logits agree.
    """
    tell = on_progress or (lambda stage, done, total: None)
    tell("finding the base", 0, 0)
    base = _base(settings, plan)
    plan.out.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(plan.out.with_name(f"{plan.out.name}.lock")):
        merge = merge_adapter(
            plan.adapter,
            base,
            plan.out,
            dtype=dtype,
            max_shard_size=max_shard_size,
            prompt=prompt,
            source={
                "adapter": _public(plan.adapter_reference),
                "base": _public(plan.base),
                "model_name": plan.model_name,
            },
            on_stage=lambda stage: tell(stage, 0, 0),
        )
        upload = upload_folder(
            plan.out,
            plan.bucket,
            plan.prefix,
            on_bytes=lambda done, total: tell("uploading", done, total),
        )
        if not plan.keep:
            shutil.rmtree(plan.out, ignore_errors=True)
    return Outcome(plan, merge, upload)


def _base(settings: Settings, plan: Plan) -> Path:
    for candidate in (plan.adapter / plan.base, Path(plan.base).expanduser()):
        if candidate.is_dir():
            return candidate
    try:
        return resolve(plan.base, Downloads.of(settings))
    except ConfigError as error:
        hint = "" if "://" in plan.base else f"; if it is on the hub, give hf://{plan.base} as base"
        raise ConfigError(
            f"the base {plan.base!r} of {plan.adapter_reference} is not there: "
            f"{error.message}{hint}"
        ) from error


def _public(reference: str) -> str:
    """A reference as others may see it: of a local path, its last part."""
    return reference if "://" in reference else Path(reference).name
