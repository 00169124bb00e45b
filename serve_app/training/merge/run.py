"""Finds adapter and base by their references, merges them and uploads the model. Prints nothing."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from serve_app.core.errors import ConfigError
from serve_app.core.settings import Settings
from serve_app.models.causal_lm import check_base, find_base, require_adapter
from serve_app.storage.artifacts import Downloads, cache_root, resolve
from serve_app.storage.artifacts.s3_upload import UploadReport, require_bucket, upload_folder
from serve_app.training.merge.lora import PROMPT, MergeReport, merge_adapter, require_replaceable
from serve_app.training.merge.naming import derive_model_name, require_model_name

OnProgress = Callable[[str, int, int], None]
"""Called with the stage, the bytes done and all bytes (0 and 0 where bytes do not count)."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run will do.

    Attributes:
        adapter: the adapter's local directory.
        adapter_reference: the adapter as it was given.
        base: a directory or reference.
        model_name: MODEL_NAME.
        bucket: MODEL_S3_BUCKET.
        out: where the merged model is written before the upload.
        keep: whether it stays there afterwards.
        present: keys at the destination before the run.
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
        """Where a server looks for MODEL_NAME in the bucket."""
        return f"merged-models/{self.model_name}/"

    @property
    def destination(self) -> str:
        """`prefix` with its bucket, as a reference."""
        return f"s3://{self.bucket}/{self.prefix}"

    @property
    def served_by(self) -> str:
        """The settings of a server of the model, as a shell reads them."""
        return f"MODEL_S3_BUCKET={self.bucket} MODEL_NAME={shlex.quote(self.model_name)}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The plan of a run, and what it did."""

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
        out: where the merged model is kept; unset: in the cache, removed after the upload.

    Raises:
        ConfigError: no such adapter, base or bucket, access is denied, or `out` holds something
            else.
    """
    name = require_model_name(model_name or derive_model_name(adapter))
    bucket = bucket or settings.model_s3_bucket
    if not bucket:
        raise ConfigError("no bucket is named; set MODEL_S3_BUCKET or give --bucket")
    place = out or cache_root(settings.cache_dir) / "merged" / name
    require_replaceable(place)
    present = require_bucket(bucket, f"merged-models/{name}/")
    downloads = Downloads.of(settings)
    directory = resolve(adapter, downloads)
    require_adapter(directory)
    return Plan(
        adapter=directory,
        adapter_reference=adapter,
        base=check_base(directory, base, downloads),
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
    quantize: str | None = None,
    max_shard_size: str = "5GB",
    prompt: str = PROMPT,
    on_progress: OnProgress | None = None,
) -> Outcome:
    """Merges, checks the logits, uploads. A killed run resumes: see `upload_folder`.

    Args:
        settings: as for `plan_merge`.
        plan: from `plan_merge`.
        dtype, quantize, max_shard_size, prompt: as for `merge_adapter`.
        on_progress: called with the progress.

    Raises:
        ConfigError: as `merge_adapter` and `upload_folder`; nothing is uploaded unless the
            logits agree.
    """
    tell = on_progress or (lambda stage, done, total: None)
    tell("finding the base", 0, 0)
    base = find_base(plan.adapter, plan.base, Downloads.of(settings))
    plan.out.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(plan.out.with_name(f"{plan.out.name}.lock")):
        merge = merge_adapter(
            plan.adapter,
            base,
            plan.out,
            dtype=dtype,
            quantize=quantize,
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


def _public(reference: str) -> str:
    """A reference without the folders of a local path, for others to read."""
    return reference if "://" in reference else Path(reference).name
