"""How the numbers and the sentences of a report read, alike on the page and in Markdown."""

from __future__ import annotations

from collections.abc import Mapping

from serve_app.metrics.loss import METRIC_NAMES, METRICS
from serve_app.offline.report.analysis import Comparison, Report, SystemReport
from serve_app.offline.report.examples import SAMPLE, Truncated
from serve_app.offline.report.highlights import UNSUPPORTED
from serve_app.offline.report.reader import SAME_ORIGINAL
from serve_app.offline.report.statistics import Difference, MetricSummary

NAMES = {**METRIC_NAMES, "loss": "Loss"}
TRUNCATION_NAMES = {
    "relevance_original": "original, by relevance",
    "relevance_generated": "summary, by relevance",
    "factuality": "either, by factuality",
}
LENGTH_NAMES = {
    "original": "words of the original",
    "generated": "words of the summary",
    "ratio": "summary / original",
}
EFFECT = (
    "d_z is Cohen's effect size of paired differences, mean(a - b) / sd(a - b) with n - 1 in the "
    "standard deviation (Lakens, Frontiers in Psychology 4:863, 2013)."
)


def number(value: float | None, digits: int = 3) -> str:
    """A number in so many decimals; a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}".replace("-", "−")


def signed(value: float | None, digits: int = 3) -> str:
    """The same with a plus sign above zero."""
    return "–" if value is None else f"{value:+.{digits}f}".replace("-", "−")


def share(value: float) -> str:
    """A share in percent."""
    return f"{100 * value:.0f} %"


def interval(ends: tuple[float, float] | None, plus: bool = False) -> str:
    """Both ends of an interval."""
    show = signed if plus else number
    return "–" if ends is None else f"{show(ends[0])} to {show(ends[1])}"


def mean_sd(found: MetricSummary) -> str:
    """`mean ± standard deviation`."""
    return number(found.mean) if found.sd is None else f"{number(found.mean)} ± {number(found.sd)}"


def clear(found: Difference) -> bool:
    """Whether the interval of a difference leaves out zero."""
    return found.interval is not None and (found.interval[0] > 0 or found.interval[1] < 0)


def failures(found: Mapping[str, int]) -> str:
    """`missing 2, metric_failed 1`, or none."""
    ordered = sorted(found.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{reason} {count}" for reason, count in ordered) or "none"


def by(column: str) -> str:
    """What pairs are matched by, as part of a sentence."""
    return column if column == SAME_ORIGINAL else f"the column {column}"


def paired(one: Comparison) -> str:
    """How many rows of two systems are compared, and where the others are."""
    lines = [f"{one.pairs} pairs, matched by {by(one.column)}."]
    lines.append(
        f"Without a partner: {one.unpaired[0]} rows of {one.one}, {one.unpaired[1]} of {one.other}."
    )
    if one.failed:
        lines.append(f"Left out of {one.failed} matches, since a row of them has no numbers.")
    if any(one.repeated):
        lines.append(
            f"Not matched, since their key is there more than once: {one.repeated[0]} rows of "
            f"{one.one}, {one.repeated[1]} of {one.other}."
        )
    return " ".join(lines)


def unpaired(report: Report) -> str | None:
    """Why nothing is compared; None where something is, or there is one system."""
    if report.column is not None or len(report.systems) < 2:
        return None
    return (
        "The systems are not compared row by row: they have neither a column that identifies a row "
        "(id, doc_id, ...; name one with --id) nor the originals in common."
    )


def truncation(found: Truncated | None, report: Report) -> str:
    """Where the truncation of a system comes from."""
    if found is None:
        return "not known: the file does not say, and no models read it for this report"
    if found.source == "file":
        return f"as the file says, of {found.rows} rows"
    names = ", ".join(report.models.values())
    how = f"of {found.rows} rows"
    if found.rows == SAMPLE:
        how += " drawn at random"
    return f"by the models of the settings ({names}), {how}"


def evidence(report: Report) -> str:
    """Where sentence-level factuality of the examples comes from."""
    sources = {one.source for system in report.systems for one in system.worst}
    said = [f"A sentence is called unsupported where its factuality is below {UNSUPPORTED:.2f}."]
    if "file" in sources:
        said.append("The sentences' factuality is that of the scored file where it carries it.")
    if "models" in sources:
        said.append(
            f"It was computed for this report by {report.models.get('factuality', 'a model')}; "
            "a row's own factuality is that of its file, maybe by another model."
        )
    if "none" in sources:
        said.append(
            "Where no sentence has a number, the file has no texts or no sentences, and no models "
            "read them."
        )
    return " ".join(said)


def other_loss(system: SystemReport) -> str | None:
    """That the file's loss is not the report's."""
    if system.other_loss is None:
        return None
    return (
        f"The file of {system.name} has another loss in {system.other_loss.rows} rows (by up to "
        f"{system.other_loss.largest:.3g}): it was made with other targets or weights. This report "
        "uses its own everywhere."
    )


def remarks(report: Report) -> list[str]:
    """Everything the reader must know besides the numbers."""
    lines = [*report.notes]
    models = ", ".join(f"{metric} {name}" for metric, name in report.targets_models.items())
    if models:
        lines.append(
            f"The targets were made with {models}; metrics by other models are not comparable "
            "with them."
        )
    lines += [text for one in report.systems if (text := other_loss(one)) is not None]
    text = unpaired(report)
    return lines if text is None else [*lines, text]


def target(report: Report, metric: str) -> str:
    """`target ± sigma` of a metric."""
    if metric not in METRICS:
        return ""
    return f"{number(report.targets[metric])} ± {number(report.sigmas[metric])}"
