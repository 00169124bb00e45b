"""Trains, tunes and evaluates `alignscore-mini`, the embedded factuality model.

python scripts/train_alignscore.py train ../shared/data --out runs/alignscore
python scripts/train_alignscore.py evaluate embedded:alignscore-mini ../shared/data
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from serve_app.metrics.align_model import AlignModel, CompactConfig, load_compact, save_compact
from serve_app.storage.artifacts import resolve
from serve_app.training.alignscore import development, evaluation, trainer
from serve_app.training.alignscore.data import BASE
from serve_app.training.alignscore.mixture import EASY_ROUNDS, Mixture

app = typer.Typer(add_completion=False, help=__doc__, pretty_exceptions_show_locals=False)
console = Console()
Rank = Annotated[int, typer.Option(help="columns kept of each weight difference")]
RANK = 56
CHUNK_WORDS = (50, 80, 120, 180, 350)
# The regression head's output may leave [0, 1], which is no degree of support to compare.
BOUNDED = ("nli_sp", "bin_sp")
Folder = Annotated[Path, typer.Argument(exists=True, file_okay=False, help="the data folder")]


@app.callback()
def main() -> None:
    """The subcommands say what they do."""


def _save(model: AlignModel, out: Path, rank: int) -> None:
    # What `tune` finds on development data replaces these two afterwards.
    config = CompactConfig("alignscore-mini", BASE, rank, chunk_words=150, eval_mode="nli_sp")
    save_compact(model, out, config)


def _model(reference: str) -> tuple[AlignModel, int, str]:
    """The model with its chunk words and mode; a checkpoint's is its averaged weights."""
    if not reference.endswith(".pt"):
        model, config, _ = load_compact(resolve(reference))
        return model, config.chunk_words, config.eval_mode
    model = trainer.new_model(0)
    trainer.load_average(Path(reference), model)
    return model.eval(), 120, "bin_sp"


@app.command()
def train(
    data_dir: Folder,
    out: Annotated[Path, typer.Option(help="where the model and its checkpoint go")],
    seed: int = 0,
    max_tokens: Annotated[int, typer.Option(help="tokens to train on")] = 5_000_000,
    batch_tokens: int = 4096,
    learning_rate: float = 3e-4,
    decay: Annotated[float, typer.Option(help="share of the run over which the rate falls")] = 1.0,
    average: Annotated[float, typer.Option(help="decay a step of the weights' average")] = 0.999,
    nli_share: Annotated[float, typer.Option(help="share of short pairs")] = 0.4,
    rank: Rank = RANK,
    threads: int = 2,
    save_every: Annotated[int, typer.Option(help="steps between checkpoints")] = 200,
    start: Annotated[
        str, typer.Option(help="a compact model to begin with; empty: the encoder, fresh heads")
    ] = "",
    resume: Annotated[bool, typer.Option(help="go on from OUT/checkpoint.pt")] = False,
) -> None:
    """Train from nli_train.jsonl, cochrane_pls.csv (train rows), reference_metrics.jsonl and the
    files of consistency/ that may be used commercially."""
    torch.set_num_threads(threads)
    out.mkdir(parents=True, exist_ok=True)
    config = trainer.TrainConfig(
        seed=seed,
        tokens=max_tokens,
        batch_tokens=batch_tokens,
        learning_rate=learning_rate,
        decay=decay,
        nli_share=nli_share,
        average=average,
        ahead=16,
    )
    with console.status("reading the data"):
        corpus = Mixture(data_dir, "train", easy_rounds=0 if start else EASY_ROUNDS)
    model = trainer.new_model(seed)
    if start:
        model.load_state_dict(_model(start)[0].state_dict())
    average = 0.0
    with Progress(
        TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(), console=console
    ) as bar:
        task = bar.add_task("training", total=max_tokens)

        def show(progress: trainer.Progress) -> None:
            nonlocal average
            weight = min(0.98, progress.steps / (progress.steps + 1))
            average = (
                progress.loss if average == 0.0 else weight * average + (1 - weight) * progress.loss
            )
            text = f"step {progress.steps} round {progress.round} loss {average:.3f}"
            bar.update(task, completed=progress.tokens, description=text)
            if progress.steps % 50 == 0 and not console.is_terminal:
                console.print(f"{text} tokens {progress.tokens}")

        trainer.run(
            model,
            corpus,
            config,
            checkpoint=out / "checkpoint.pt",
            resume=resume,
            save_every=save_every,
            on_step=show,
        )
    _save(model, out, rank)
    size = (out / "model.safetensors").stat().st_size
    console.print(f"saved {out} ({size / 2**20:.1f} MiB); choose its chunk size with `tune`")


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Argument(exists=True, dir_okay=False)],
    out: Annotated[Path, typer.Option(help="where the compact model goes")],
    rank: Rank = RANK,
) -> None:
    """Write the compact model of a training checkpoint, at any moment of a run."""
    model = trainer.new_model(0)
    progress = trainer.load_average(checkpoint, model)
    _save(model, out, rank)
    console.print(f"saved {out}, as of step {progress.steps} and {progress.tokens} tokens")


@app.command()
def average(
    out: Annotated[Path, typer.Argument(help="where the compact model goes")],
    models: Annotated[list[str], typer.Argument(help="MODEL=SHARE, at least two; shares sum to 1")],
    rank: Rank = RANK,
) -> None:
    """Write the weighted average of compact models, or checkpoints, of one encoder."""
    parts = [one.rpartition("=") for one in models]
    _save(
        trainer.averaged([(_model(name)[0], float(share)) for name, _, share in parts]), out, rank
    )
    console.print(f"saved {out}; choose its chunk size with `tune`")


@app.command()
def tune(
    model_dir: Annotated[str, typer.Argument(help="a compact model, changed in place")],
    data_dir: Folder,
    limit: Annotated[int, typer.Option(help="development claims of each set")] = 200,
    threads: int = 2,
) -> None:
    """Choose chunk_words and eval_mode on development data, and write them to config.json."""
    torch.set_num_threads(threads)
    directory = resolve(model_dir)
    model, config, _ = load_compact(directory)
    # Chunks matter where contexts are longer than one.
    sets = {
        name: claims
        for name, claims in development.development_sets(data_dir, limit).items()
        if sum(len(context.split()) for context in claims.contexts) > 60 * len(claims.contexts)
    }
    scorer = evaluation.ModelScorer(model, dtype="bfloat16")
    table = Table("chunk words", "mode", *sets, "mean", title="development AUC")
    best = (0.0, config.chunk_words, config.eval_mode)
    for words in CHUNK_WORDS:
        columns: dict[str, list[float]] = {}
        for claims in sets.values():
            every = scorer.aligned_all(claims.contexts, claims.claims, chunk_words=words)
            for mode, scores in every.items():
                columns.setdefault(mode, []).append(evaluation.auc(scores, claims.truth))
            scorer.forget()
        for mode, values in columns.items():
            mean = sum(values) / len(values)
            table.add_row(str(words), mode, *(f"{value:.3f}" for value in (*values, mean)))
            if mode in BOUNDED:
                best = max(best, (mean, words, mode))
    Console(width=200).print(table)
    _, words, mode = best
    document = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    document.update(chunk_words=words, eval_mode=mode)
    (directory / "config.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    console.print(f"wrote chunk_words {words}, eval_mode {mode} to {directory}/config.json")


@app.command()
def kinds(
    model_dir: Annotated[
        str, typer.Argument(help="a compact model, embedded:alignscore-mini, or a checkpoint.pt")
    ],
    data_dir: Folder,
    chunk_words: Annotated[int, typer.Option(help="0 takes the model's own")] = 0,
    eval_mode: Annotated[str, typer.Option(help="empty takes the model's own")] = "",
    limit: Annotated[int, typer.Option(help="development claims of each set")] = 400,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON, not a table")] = False,
    threads: int = 2,
) -> None:
    """Print the AUC of every kind of development claim, its interval, and that of word overlap."""
    torch.set_num_threads(threads)
    model, words, mode = _model(model_dir)
    words, mode = chunk_words or words, eval_mode or mode
    sets = development.development_sets(data_dir, limit)
    scorer = evaluation.ModelScorer(model, dtype="bfloat16")
    mine, overlaps = {}, {}
    for name, claims in sets.items():
        every = scorer.aligned_all(claims.contexts, claims.claims, chunk_words=words)
        mine[name] = every[mode]
        scorer.forget()
        overlaps[name] = evaluation.overlap(claims.contexts, claims.claims, size=2)
    rows: dict[str, dict[str, float]] = {}
    other = development.measures(sets, overlaps)
    for name, (scores, truth) in development.measures(sets, mine).items():
        low, high = development.interval(scores, truth)
        rows[name] = {
            "claims": len(truth),
            "AUC": evaluation.auc(scores, list(truth)),
            "from": low,
            "to": high,
            "bigram overlap": evaluation.auc(other[name][0], list(truth)),
        }
    turned = development.TURNED
    rows[f"{turned}, pairwise"] = {
        "claims": len(mine[turned]) // 2,
        "AUC": development.pairwise(mine[turned]),
        "bigram overlap": development.pairwise(overlaps[turned]),
    }
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    names = ("claims", "AUC", "from", "to", "bigram overlap")
    table = Table("claims of", *names, title=f"{words} words, {mode}")
    for name, row in rows.items():
        shown = (f"{row[n]:.3f}" if n in row and n != "claims" else "" for n in names[1:])
        table.add_row(name, str(row["claims"]), *shown)
    console.print(table)


@app.command()
def evaluate(
    model_dir: Annotated[str, typer.Argument(help="a compact model, or embedded:alignscore-mini")],
    data_dir: Folder,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON, not a table")] = False,
    threads: int = 2,
) -> None:
    """Print the model's scores beside every baseline's, on data it was not trained or tuned on."""
    torch.set_num_threads(threads)
    model, config, _ = load_compact(resolve(model_dir))
    with console.status("scoring"):
        rows = evaluation.report(model, config, data_dir)
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    columns = list(next(iter(rows.values())))
    table = Table("measure", *columns, title=f"{config.name}, {config.chunk_words} words")
    for name, values in rows.items():
        best = max(values.values())
        table.add_row(
            name, *(f"[b]{v:.3f}[/b]" if v == best else f"{v:.3f}" for v in values.values())
        )
    console.print(table)


if __name__ == "__main__":
    app()
