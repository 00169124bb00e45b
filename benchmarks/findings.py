"""Measures findings on human pairs: edits that are found, true sentences that are flagged.

    python -m benchmarks.findings ../shared/data/cochrane_pls.csv --write

Edits are made to sentences of the source and of its human summary, one each; found means a severe
finding in that sentence. No model is asked. `--write` puts the tables into docs/findings.md.
"""

from __future__ import annotations

import random
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from benchmarks import report
from serve_app.evidence.alignment import Sentence, Source
from serve_app.evidence.findings import SUPPORTED_FROM, find
from serve_app.offline.calibration import read_pairs
from serve_app.text.edits import corruptions, trial_edits
from serve_app.text.sentences import sentence_spans

DOCS = Path(__file__).resolve().parent.parent / "docs" / "findings.md"
SENTENCES = 5  # of each text
Edit = Callable[[str, random.Random], str | None]

_NUMBER = re.compile(r"(?<![\w.,])\d+(?:\.\d+)?%?(?![\w.])")
_ARMS = re.compile(
    r"\b([A-Za-z][a-z-]+(?: [a-z-]+){0,2}) ((?:(?:was|were|is|are|had|showed|reduced|increased|"
    r"improved|led to)\b[^,;.]{0,60}) )?(than|compared with|compared to|versus) "
    r"([a-z-]+(?: [a-z-]+)?)\b(?=[ ,.;(])"
)


def number(text: str, rng: random.Random) -> str | None:
    """Another number in place of one."""
    places = list(_NUMBER.finditer(text))
    if not places:
        return None
    one = rng.choice(places)
    value, percent = one[0].removesuffix("%"), one[0][len(one[0].removesuffix("%")) :]
    new = f"{float(value) * 2 + 1:.1f}" if "." in value else str(int(value) * 2 + 3)
    return text[: one.start()] + new + percent + text[one.end() :]


def numbers_exchanged(text: str, rng: random.Random) -> str | None:
    """Two numbers in each other's place."""
    places = list(_NUMBER.finditer(text))
    if len(places) < 2:
        return None
    first, second = sorted(rng.sample(places, 2), key=lambda one: one.start())
    if first[0] == second[0] or first[0].endswith("%") != second[0].endswith("%"):
        return None
    between = text[first.end() : second.start()]
    return text[: first.start()] + second[0] + between + first[0] + text[second.end() :]


def arms_exchanged(text: str, rng: random.Random) -> str | None:
    """The words before and after "than" or "compared with" in each other's place."""
    found = _ARMS.search(text)
    if found is None:
        return None
    between = text[found.end(1) : found.start(4)]
    return text[: found.start(1)] + found[4] + between + found[1] + text[found.end(4) :]


EDITS: dict[str, Edit] = {
    "number changed": number,
    "two numbers exchanged": numbers_exchanged,
    "direction turned": lambda text, rng: corruptions.flip_direction(text, (), rng),
    "negation turned": lambda text, rng: corruptions.flip_negation(text, (), rng),
    "said more surely": lambda text, rng: trial_edits.make_certain(text, (), rng),
    "sides of a comparison exchanged": arms_exchanged,
}


def severe(source: Source, text: str) -> bool:
    found = find(source, [Sentence(text, 0, len(text))])
    return any(one.severity == "severe" for one in found)


def seeded(pairs: Sequence[tuple[str, str]], rng: random.Random) -> list[str]:
    """The rows of the table of edits."""
    found: Counter[tuple[str, bool]] = Counter()
    made: Counter[tuple[str, bool]] = Counter()
    for original, human in pairs:
        source = Source(original)
        for copied, text in ((True, original), (False, human)):
            spans = sentence_spans(text)
            for start, end in rng.sample(spans, min(SENTENCES, len(spans))):
                said = text[start:end]
                spoken_of = source.align(Sentence(said, 0, len(said))).coverage >= SUPPORTED_FROM
                if not spoken_of or severe(source, said):
                    continue
                for name, edit in EDITS.items():
                    changed = edit(said, rng)
                    if changed is not None and changed != said:
                        made[name, copied] += 1
                        found[name, copied] += severe(source, changed)
    return [
        f"| {name} | {_share(found[name, True], made[name, True])} "
        f"| {_share(found[name, False], made[name, False])} |"
        for name in EDITS
    ]


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.0%} of {whole}" if whole else "-"


def flagged(pairs: Sequence[tuple[str, str]]) -> tuple[str, float]:
    """Sentences of human summaries with a severe finding, and milliseconds a summary."""
    sentences = flags = 0
    started = time.perf_counter()
    for original, human in pairs:
        spans = [Sentence(human, start, end) for start, end in sentence_spans(human)]
        found = find(Source(original), spans)
        sentences += len(spans)
        flags += len({one.sentence for one in found if one.severity == "severe"})
    elapsed = 1000 * (time.perf_counter() - started) / len(pairs)
    return _share(flags, sentences), elapsed


def main(
    path: Annotated[Path, typer.Argument(help="CSV with source_text, target_text, split")],
    split: Annotated[str, typer.Option(help="which part of the file")] = "test",
    seed: int = 7,
    write: Annotated[bool, typer.Option(help="put the tables into docs/findings.md")] = False,
) -> None:
    """Prints both tables."""
    pairs = [(pair.source, pair.target) for pair in read_pairs(path, split)]
    flags, elapsed = flagged(pairs)
    rows = [
        "| edit | found in sentences copied from the source | in human sentences |",
        "| --- | ---: | ---: |",
        *seeded(pairs, random.Random(seed)),
        "",
        f"Flagged among human sentences as they are: {flags}. Time: {elapsed:.0f} ms a summary, "
        "with reading its source.",
    ]
    text = "\n".join(rows)
    print(text)
    if write:
        report.replace(DOCS, "findings", text)


if __name__ == "__main__":
    typer.run(main)
