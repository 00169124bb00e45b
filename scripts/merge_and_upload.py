"""Merges a LoRA adapter into its base and uploads the model for serving.

    python scripts/merge_and_upload.py outputs/org__model-run --base hf://org/model
    python scripts/merge_and_upload.py s3://bucket/adapters/org__model-run --dry-run

The model goes to s3://MODEL_S3_BUCKET/merged-models/MODEL_NAME/, where a server with those two
settings finds it. A killed run resumes when started again. The hub's token comes from HF_TOKEN.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from serve_app.core.errors import PlainMedError
from serve_app.core.settings import load_settings
from serve_app.training.merge import Outcome, Plan, merge_and_upload, plan_merge
from serve_app.training.merge.lora import PROMPT, require_dtype, require_quantize

app = typer.Typer(add_completion=False, help=__doc__, pretty_exceptions_show_locals=False)


@app.command()
def main(
    adapter: Annotated[str, typer.Argument(help="LoRA adapter: directory, hf:// or s3://.")],
    base: Annotated[
        str | None,
        typer.Option(help="Its base, likewise. Default: as the adapter says."),
    ] = None,
    model_name: Annotated[
        str | None, typer.Option(help="MODEL_NAME. Default: from the adapter's path.")
    ] = None,
    bucket: Annotated[str | None, typer.Option(help="Default: MODEL_S3_BUCKET.")] = None,
    dtype: Annotated[str, typer.Option(help="auto (the base's), float32, bfloat16 or float16.")] = (
        "auto"
    ),
    quantize: Annotated[
        str | None, typer.Option(help="int8 or int4, for generating on CPUs. Default: neither.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Keep the merged model in this folder.")] = None,
    max_shard_size: Annotated[str, typer.Option(help="Largest safetensors file.")] = "5GB",
    prompt: Annotated[str, typer.Option(help="Text whose logits are compared.")] = PROMPT,
    dry_run: Annotated[bool, typer.Option(help="Show what would be done, and stop.")] = False,
) -> None:
    """Merge ADAPTER with its base, check that both give the same logits, and upload."""
    console = Console(stderr=True)
    try:
        require_dtype(dtype)
        require_quantize(quantize)
        settings = load_settings()
        plan = plan_merge(
            settings, adapter, base=base, model_name=model_name, bucket=bucket, out=out
        )
        describe(console, plan)
        if dry_run:
            console.print("dry run: nothing was merged or uploaded")
            return
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            console=console,
        ) as bar:
            task = bar.add_task("starting", total=None)
            last = ""

            def show(stage: str, done: int, total: int) -> None:
                nonlocal last
                bar.update(task, description=stage, completed=done, total=total or None)
                if stage != last and not console.is_terminal:
                    console.print(stage)
                last = stage

            outcome = merge_and_upload(
                settings,
                plan,
                dtype=dtype,
                quantize=quantize,
                max_shard_size=max_shard_size,
                prompt=prompt,
                on_progress=show,
            )
    except PlainMedError as error:
        _say(console, f"error: {error.message}", style="red")
        sys.exit(1)
    report(console, outcome)


def describe(console: Console, plan: Plan) -> None:
    there = f" ({len(plan.present)} objects are there)" if plan.present else ""
    _say(console, f"adapter     {plan.adapter_reference}")
    _say(console, f"base        {plan.base}")
    _say(console, f"MODEL_NAME  {plan.model_name}")
    _say(console, f"to          {plan.destination}{there}")


def report(console: Console, outcome: Outcome) -> None:
    merge, upload = outcome.merge, outcome.upload
    _say(
        console,
        f"merged      {merge.dtype}, {merge.shards} shards, {merge.size / 1e9:.3g} GB; largest "
        f"logit difference {merge.merge_error:.2g} merged, {merge.saved_error:.2g} as written, "
        f"of logits up to {merge.scale:.3g}",
    )
    for warning in merge.warnings:
        _say(console, f"warning     {warning}", style="yellow")
    _say(
        console,
        f"uploaded    {upload.sent / 1e9:.3g} of {upload.size / 1e9:.3g} GB in {upload.files} "
        "files; the rest was there",
    )
    if upload.others:
        _say(
            console,
            f"warning     {len(upload.others)} other objects are under the prefix and are not "
            f"part of the model, such as {upload.others[0]}",
            style="yellow",
        )
    _say(console, f"serve it with {outcome.plan.served_by}")


def _say(console: Console, text: str, style: str = "") -> None:
    console.print(text, style=style, markup=False, soft_wrap=True)


if __name__ == "__main__":
    app()
