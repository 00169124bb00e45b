"""Reads who did better at what out of a templated claim, and says it again in many other ways.

The direction claims of `consistency/direction.jsonl` come from a dozen templates. A finding read
from a true one (treatment, comparator, outcome, direction) is said true or false, either way
round, in other words than those. Knows English templates; not contexts or labels of files.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from random import Random

# Groups: i and c are the two treatments, o the outcome, up or down the direction for i.
_EFFECTS = [
    r"Compared with (?P<c>.+), (?P<i>.+?) led to (?:(?P<up>higher)|(?P<down>lower)) (?P<o>.+)",
    r"There was an? (?:(?P<up>increase)|(?P<down>decrease)) in (?P<o>.+?) with (?P<i>.+) in "
    r"comparison with (?P<c>.+)",
    r"People given (?P<i>.+?) had (?:(?P<up>higher)|(?P<down>lower)) (?P<o>.+) than people given "
    r"(?P<c>.+)",
    r"(?P<o>.+) was (?:(?P<up>greater)|(?P<down>smaller)) in the (?P<i>.+) group than in the "
    r"(?P<c>.+) group",
    r"(?P<o>.+) went (?:(?P<up>up)|(?P<down>down)) more with (?P<i>.+) than with (?P<c>.+)",
    r"(?P<i>.+?) (?:(?P<up>raised)|(?P<down>lowered)) (?P<o>.+) relative to (?P<c>.+)",
]
_EQUALS = [
    r"(?P<o>.+) was about the same with (?P<i>.+?) (?:as|and) with (?P<c>.+)",
    r"It made no clear difference to (?P<o>.+) whether people got (?P<i>.+) or (?P<c>.+)",
    r"(?P<i>.+) was no different from (?P<c>.+) for (?P<o>.+)",
    r"(?P<i>.+) had no effect on (?P<o>.+) in comparison with (?P<c>.+)",
]
_EFFECT_PATTERNS = [re.compile(text + "$") for text in _EFFECTS]
_EQUAL_PATTERNS = [re.compile(text + "$") for text in _EQUALS]

_SAY_EFFECT = (
    "{O} was {higher} with {i} than with {c}.",
    "{O} was {higher} in people given {i} than in people given {c}.",
    "Compared with {c}, {i} {increased} {o}.",
    "{I} {increased} {o} compared with {c}.",
    "{I} was associated with {higher} {o} than {c}.",
    "{I} led to {higher} {o} than {c}.",
    "{I} may {increase} {o} compared with {c}.",
    "People who had {i} had {higher} {o} than those who had {c}.",
    "With {i}, {o} was {higher} than with {c}.",
    "There was {more} {o} with {i} than with {c}.",
    "Those in the {i} group had {higher} {o} than those in the {c} group.",
    "The {c} group had {lower} {o} than the {i} group.",
    "{O} {rose} more in the {i} group than in the {c} group.",
    "{O} {increased} with {i} when compared to {c}.",
    "{I} resulted in {higher} {o} when compared with {c}.",
    "{O}: {higher} for {i} than for {c}.",
    "The study found {higher} {o} in people who got {i} rather than {c}.",
    "{O} was {lower} with {c} than with {i}.",
    "{C} led to {lower} {o} than {i}.",
)
_SAY_EQUAL = (
    "{O} was similar with {i} and with {c}.",
    "{O} was not different between {i} and {c}.",
    "There was no clear difference in {o} between {i} and {c}.",
    "{I} made little or no difference to {o} compared with {c}.",
    "{I} did not change {o} compared with {c}.",
    "{I} and {c} had similar {o}.",
    "The study found no evidence of a difference in {o} between people given {i} and people given "
    "{c}.",
    "{I} was not better or worse than {c} in terms of {o}.",
    "{O} did not differ between the {i} group and the {c} group.",
    "With {i}, {o} was about the same as with {c}.",
    "{I} probably makes no difference to {o} when compared to {c}.",
)
_UP = {
    "higher": ("higher", "greater", "larger"),
    "lower": ("lower", "smaller"),
    "increased": ("increased", "raised", "heightened"),
    "increase": ("increase", "raise"),
    "more": ("more",),
    "rose": ("rose", "increased", "went up"),
}
_DOWN = {
    "higher": ("lower", "smaller"),
    "lower": ("higher", "greater", "larger"),
    "increased": ("reduced", "lowered", "decreased"),
    "increase": ("reduce", "lower", "decrease"),
    "more": ("less",),
    "rose": ("fell", "decreased", "went down"),
}

# Outcomes that have a plain sentence: what the outcome's name holds, then more and less of it.
_PLAIN = [
    (re.compile(rf"\b(?:{names})", re.IGNORECASE), more, less)
    for names, more, less in (
        ("mortality|deaths?$|death rate", "more people died", "fewer people died"),
        ("pain$|pain (?:score|intensity|level)s?$", "people had more pain", "people had less pain"),
        ("adverse|side effects?$|complications?$", "there were more unwanted effects",
         "there were fewer unwanted effects"),
        ("nausea|vomiting|PONV", "more people felt sick", "fewer people felt sick"),
        ("blood pressure$", "blood pressure was higher", "blood pressure was lower"),
        ("glucose$|glucose levels?$|HbA1c", "blood sugar was higher", "blood sugar was lower"),
        ("cholesterol$|LDL", "cholesterol was higher", "cholesterol was lower"),
        ("weight$|BMI$|body mass index$", "people ended up heavier", "people ended up lighter"),
        ("hospital stay$|length of stay$", "people stayed in hospital longer",
         "people went home from hospital sooner"),
        ("survival$", "people lived longer", "people died sooner"),
        ("anxiety", "people were more anxious", "people were less anxious"),
        ("depressi", "people were more depressed", "people were less depressed"),
        ("infections?$|infection rates?$", "more people got an infection",
         "fewer people got an infection"),
        ("bleeding$|blood loss$", "people bled more", "people bled less"),
        ("quality of life$", "people's quality of life was better",
         "people's quality of life was worse"),
        ("recurrence|relapse", "the illness came back more often",
         "the illness came back less often"),
        ("remission|response rate|cure", "more people got better", "fewer people got better"),
        ("fatigue$", "people were more tired", "people were less tired"),
        ("falls$|fall rate", "people fell more often", "people fell less often"),
        ("costs?$", "care cost more", "care cost less"),
        ("birth ?weight$", "babies were heavier at birth", "babies were lighter at birth"),
        ("satisf", "people were more satisfied", "people were less satisfied"),
        ("adherence$|compliance$", "people kept to the treatment better",
         "people kept to the treatment less well"),
    )
]  # fmt: skip
_NOT_PLAIN = re.compile(
    r"free|reduc|improv|decreas|increas|relief|without|change|loss of|time to|difference|lower|"
    r"higher|reliev|no ", re.IGNORECASE,
)  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """What a trial found: `outcome` was higher (+1), lower (-1) or not different (0) with
    `treatment` in comparison with `comparator`."""

    treatment: str
    comparator: str
    outcome: str
    direction: int

    def turned(self) -> Finding:
        """The same fact, seen from the comparator."""
        return Finding(self.comparator, self.treatment, self.outcome, -self.direction)


def read_finding(claim: str) -> Finding | None:
    """The finding a templated claim states, or None where no template fits."""
    claim = claim.removesuffix(".")
    for pattern in _EFFECT_PATTERNS:
        if match := pattern.match(claim):
            direction = 1 if match["up"] else -1
            return Finding(match["i"], match["c"], _lower(match["o"]), direction)
    for pattern in _EQUAL_PATTERNS:
        if match := pattern.match(claim):
            return Finding(match["i"], match["c"], _lower(match["o"]), 0)
    return None


def say(finding: Finding, rng: Random) -> str:
    """The finding in a sentence, seen from either treatment."""
    if rng.random() < 0.5:
        finding = finding.turned()
    if finding.direction and rng.random() < 0.6 and (text := _plainly(finding, rng)):
        return text
    words = _UP if finding.direction > 0 else _DOWN
    chosen = {name: rng.choice(options) for name, options in words.items()}
    template = rng.choice(_SAY_EFFECT if finding.direction else _SAY_EQUAL)
    i, c, o = (_lower(text) for text in (finding.treatment, finding.comparator, finding.outcome))
    return template.format(
        i=i,
        c=c,
        o=o,
        I=_upper(i),
        C=_upper(c),
        O=_upper(o),
        **(chosen if finding.direction else {}),
    )


def say_false(finding: Finding, rng: Random) -> str:
    """A sentence that denies the finding: another direction, or the treatments exchanged."""
    others = [direction for direction in (-1, 0, 1) if direction != finding.direction]
    weights = [3.0 if direction else 1.0 for direction in others]
    direction = rng.choices(others, weights)[0]
    return say(Finding(finding.treatment, finding.comparator, finding.outcome, direction), rng)


def _plainly(finding: Finding, rng: Random) -> str | None:
    outcome = finding.outcome
    if len(outcome.split()) > 5 or _NOT_PLAIN.search(outcome):
        return None
    for pattern, more, less in _PLAIN:
        if pattern.search(outcome):
            what = more if finding.direction > 0 else less
            with_i, with_c = _lower(finding.treatment), _lower(finding.comparator)
            if rng.random() < 0.3:
                return f"With {with_i}, {what} than with {with_c}."
            return f"{_upper(what)} with {with_i} than with {with_c}."
    return None


def _lower(text: str) -> str:
    """Without the capital of a sentence's start; abbreviations and names keep theirs."""
    first = text.split(" ", 1)[0]
    return text[0].lower() + text[1:] if first[1:].islower() or len(first) == 1 else text


def _upper(text: str) -> str:
    return text[0].upper() + text[1:]
