"""The wording of numbers and sentences in a report, the same on the page and in Markdown."""

from __future__ import annotations

from collections.abc import Mapping

from serve_app.metrics.loss import METRIC_NAMES, METRICS
from serve_app.offline.corpus.scoring import FINDINGS
from serve_app.offline.report.analysis import Comparison, Report, SystemReport
from serve_app.offline.report.examples import SAMPLE, UNSUPPORTED, Truncated
from serve_app.offline.report.findings import MISLEADING, MOST_WORDS, TOPICS
from serve_app.offline.report.statistics import Difference, MetricSummary
from serve_app.offline.report.systems import SAME_ORIGINAL

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
FOUND_NAMES = {
    MISLEADING: "share of summaries with a severe finding",
    "findings_severe": "severe findings",
    "findings_minor": "minor findings",
    **{name: f"findings: {name.removeprefix('findings_')}" for name in FINDINGS[2:-1]},
    "omissions": "omissions",
    **{name: f"omissions: {name.removeprefix('omissions_')}" for name in TOPICS},
}
_TOTALS = (MISLEADING, "findings_severe", "findings_minor", "omissions")
FINDINGS_ARE = (
    "A finding is something that a summary says otherwise than its original, found by rules; a "
    "severe one misleads a reader. Kinds are counted in every severity. Rules miss most turned "
    "directions in paraphrase: the counts compare systems, and certify none."
)
CUT_NAMES = [f"Cut: {name}" for name in TRUNCATION_NAMES.values()]
EFFECT = (
    "d_z is Cohen's effect size of paired differences, mean(a - b) / sd(a - b) with n - 1 in the "
    "standard deviation (Lakens, Frontiers in Psychology 4:863, 2013)."
)


TEXTSTAT = "0.7.4"
"""The version that `serve_app.metrics.readability` equals."""


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


def paired(one: Comparison) -> str:
    """How many rows of two systems are compared, and why the others are not."""
    column = one.column if one.column == SAME_ORIGINAL else f"the column {one.column}"
    lines = [
        f"{one.pairs} pairs, matched by {column}. Without a partner: {one.unpaired[0]} rows of "
        f"{one.one}, {one.unpaired[1]} of {one.other}."
    ]
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
    """The source of a system's truncation."""
    if found is None:
        return "not known: the file does not say, and no models read it for this report"
    if found.source == "file":
        return f"as the file says, of {found.rows} rows"
    names = ", ".join(report.models.values())
    how = f"of {found.rows} rows"
    if found.rows == SAMPLE:
        how += " drawn at random"
    return f"by the models of the settings ({names}), {how}"


def known_findings(report: Report) -> list[str]:
    """What is shown of findings: totals, and kinds and topics that any system has."""

    def has(system: SystemReport, name: str) -> bool:
        return name in system.findings and (name in _TOTALS or system.findings[name].mean > 0)

    return [name for name in FOUND_NAMES if any(has(one, name) for one in report.systems)]


def found(name: str, summary: MetricSummary | None) -> str:
    """A mean count, or a share, with its interval; none where all rows are alike, for then nothing
    is drawn but the same."""
    if summary is None:
        return "–"
    show = share if name == MISLEADING else number
    if summary.interval is None or not summary.sd:
        return show(summary.mean)
    low, high = map(show, summary.interval)
    return f"{show(summary.mean)} ({low} to {high})"


def found_interval(found: Difference) -> str:
    """The interval of a difference of counts; none where all pairs are alike."""
    return interval(found.interval if found.sd else None, True)


def findings(system: SystemReport) -> str:
    """The source of a system's findings."""
    if not system.findings:
        return "not known"
    rows = system.findings[MISLEADING].n
    how = (
        "as the file says" if system.findings_source == "file" else "by the rules, for this report"
    )
    return f"{how}, of {rows} rows"


def unread_findings(system: SystemReport) -> str | None:
    """A remark where findings are not known only since there are many rows, else None."""
    if system.findings_source != "too large":
        return None
    return (
        f"The file of {system.name} counts no findings, and its texts have over {MOST_WORDS:,} "
        "words, too many to look for them here: plainmed score counts them."
    )


def evidence(report: Report) -> str:
    """The source of the examples' sentence-level factuality."""
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
    """A remark where the file's loss is not the report's, else None."""
    if system.other_loss is None:
        return None
    return (
        f"The file of {system.name} has another loss in {system.other_loss.rows} rows (by up to "
        f"{system.other_loss.largest:.3g}): it was made with other targets or weights. This report "
        "uses its own everywhere."
    )


def readability_version(report: Report) -> str:
    """Which version of textstat the readability numbers are of."""
    said = (
        f"FKGL, SMOG and Dale-Chall by PlainMed are those of textstat {TEXTSTAT}; other versions "
        "of textstat differ by up to 6 grades."
    )
    others = ", ".join(one.name for one in report.systems if not one.by_plainmed)
    return f"{said} The files of {others} do not say which they are of." if others else said


def other_languages(system: SystemReport) -> str | None:
    """A warning where summaries are not English, else None."""
    others = {k: n for k, n in system.languages.items() if k not in ("en", "undetermined")}
    if not others:
        return None
    return (
        f"{sum(others.values())} of {sum(system.languages.values())} summaries of {system.name} "
        f"are not English ({failures(others)}, as ISO 639 codes): the metrics are for English "
        "only, and those numbers mean nothing."
    )


def remarks(report: Report) -> list[str]:
    """All remarks beside the numbers."""
    lines = [*report.notes]
    if report.profile is not None:
        lines.append(f"The loss is that of profile {report.profile}.")
    models = ", ".join(f"{metric} {name}" for metric, name in report.targets_models.items())
    if models:
        lines.append(
            f"The targets were made with {models}; metrics by other models are not comparable "
            "with them."
        )
    if report.systems:
        lines.append(readability_version(report))
    for remark in (other_languages, other_loss, unread_findings):
        lines += [text for one in report.systems if (text := remark(one)) is not None]
    text = unpaired(report)
    return lines if text is None else [*lines, text]


def target(report: Report, metric: str) -> str:
    """`target ± sigma` of a metric."""
    if metric not in METRICS:
        return ""
    return f"{number(report.targets[metric])} ± {number(report.sigmas[metric])}"
