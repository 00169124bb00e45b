"""Quantities of a text: numbers with what they count or measure, in comparable form.

"Half", "50%", "one in two" and "24 of 48" are equal; so are "2 weeks" and "14 days", and a rounded
number and the exact one. Knows numbers and units; knows nothing of claims.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from serve_app.evidence.words import listed, stem, words_of

_ONES = listed(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen"
)
_TENS = listed("twenty thirty forty fifty sixty seventy eighty ninety")
_NAMED = {name: float(value) for value, name in enumerate(_ONES)} | {
    name: 10.0 * (index + 2) for index, name in enumerate(_TENS)
}
_SCALES = {"hundred": 100.0, "thousand": 1_000.0, "million": 1_000_000.0}
_PARTS = {
    "half": 0.5,
    "third": 1 / 3,
    "thirds": 1 / 3,
    "quarter": 0.25,
    "quarters": 0.25,
    "fifth": 0.2,
    "fifths": 0.2,
    "tenth": 0.1,
}

_DIGITS = (
    r"(?<![\w.,])[-−–]?\d{1,3}(?:[, \u202f]\d{3})+(?:\.\d+)?(?![\w]|[.,]\d)"
    r"|(?<![\w.,])[-−]?\d+(?:[.·]\d+)?"
)
_NAME = r"\b(?:" + "|".join([*_ONES, *_TENS, *_SCALES]) + r")\b"
_NUMBER = re.compile(
    rf"(?P<digits>{_DIGITS})(?:\s(?P<scale>million|thousand|hundred)\b)?(?![.,]?\d)"
    rf"|(?P<names>{_NAME}(?:[\s-](?:and\s)?{_NAME})*)"
    r"|\b(?P<part>half|thirds?|quarters?|fifths?|tenth)\b",
    re.I,
)
_PERCENT = re.compile(r"\s?(?:%|percent\b|per\s?cent\b|percentage points?\b)", re.I)
_OUT_OF = re.compile(
    r"\s(?:(?:\w+\s){0,2}?(?:out\sof|in(?:\severy)?|of(?:\sthe|\severy)?|per(?:\severy)?)|per)"
    r"(?:\severy)?\s$|/$",
    re.I,
)
_UNIT = re.compile(r"\s?-?(?P<unit>[A-Za-zµμ°][A-Za-zµμ°/]*)")

# Unit -> (what it measures, how much of the common unit).
_UNITS: dict[str, tuple[str, float]] = {}
for _kind, _listed in {
    "time": {
        "second": 1 / 86_400, "sec": 1 / 86_400, "minute": 1 / 1_440, "min": 1 / 1_440,
        "hour": 1 / 24, "hr": 1 / 24, "h": 1 / 24, "day": 1.0, "week": 7.0, "wk": 7.0,
        "month": 30.4375, "year": 365.25, "yr": 365.25, "decade": 3_652.5,
    },
    "mass": {"µg": 1e-6, "μg": 1e-6, "mcg": 1e-6, "microgram": 1e-6, "mg": 1e-3,
             "milligram": 1e-3, "g": 1.0, "gram": 1.0, "kg": 1e3, "kilogram": 1e3, "kilo": 1e3},
    "volume": {"ml": 1e-3, "millilitre": 1e-3, "milliliter": 1e-3, "dl": 0.1, "l": 1.0,
               "litre": 1.0, "liter": 1.0},
    "length": {"mm": 1e-3, "millimetre": 1e-3, "millimeter": 1e-3, "cm": 1e-2,
               "centimetre": 1e-2, "centimeter": 1e-2, "m": 1.0, "metre": 1.0, "meter": 1.0,
               "km": 1e3, "kilometre": 1e3, "kilometer": 1e3},
    "pressure": {"mmhg": 1.0}, "temperature": {"°c": 1.0},
}.items():  # fmt: skip
    for _name, _amount in _listed.items():
        _UNITS[_name] = (_kind, _amount)

_PEOPLE = frozenset(
    stem(word) for word in listed("people women men children babies boys girls carers parents")
)
_STUDIES = frozenset(stem(word) for word in listed("study studies trials reports"))
_ABOUT = re.compile(
    r"\b(?:about|around|approximately|roughly|nearly|almost|over|under|some|more than|less than|"
    r"fewer than|at least|at most|up to)\s(?:a\s)?$",
    re.I,
)
_RANGE = re.compile(r"\s?(?:to|or|and|[-–])\s?", re.I)
_MONTHS = listed(
    "january february march april may june july august september october november december"
)


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number at `text[start:end]`.

    Attributes:
        value: in the common unit of its kind (days, grams, litres, metres); a share in percent.
        kind: `share`, `count`, `year`, or what its unit measures.
        step: distance to the next number of as many digits, in the same unit: rounding.
        noun: stem of what is counted, where a noun follows; else empty.
        about: whether the text says that it is not exact.
        named: whether it is written out; "one" often counts nothing.
        whole: of "24 of 100", the 100; else None.
    """

    value: float
    kind: str
    step: float
    noun: str
    about: bool
    named: bool
    start: int
    end: int
    whole: float | None = None

    def equals(self, other: Quantity) -> bool:
        """Whether both say the same, as far as the rounder of the two says it."""
        if self.kind != other.kind:
            return False
        room = max(self.step, other.step) / 2 * (1 + 1e-9)
        if self.kind == "time":
            # Months and years differ in length.
            room = max(room, 0.03 * max(self.value, other.value)) if self.value > 27 else room
        if self.about or other.about:
            room = max(room, 0.1 * abs(other.value))
        return abs(self.value - other.value) <= room

    @property
    def counted(self) -> str:
        """`people` or `studies` where that is what is counted; else empty."""
        if self.kind != "count":
            return ""
        return "people" if self.noun in _PEOPLE else "studies" if self.noun in _STUDIES else ""


def quantities(text: str, start: int = 0, end: int | None = None) -> list[Quantity]:
    """The quantities of `text[start:end]`, in order, with their places in `text`.

    >>> found = quantities("Half of them, 24 of 60 women, took 20 mg for 2 weeks.")
    >>> [(one.value, one.kind) for one in found]
    [(50.0, 'share'), (40.0, 'share'), (0.02, 'mass'), (14.0, 'time')]
    """
    stop = len(text) if end is None else end
    found = [_read(text, match) for match in _NUMBER.finditer(text, start, stop)]
    return list(_joined(text, _ranges(text, [one for one in found if one is not None])))


def _read(text: str, match: re.Match[str]) -> Quantity | None:
    value, step = _value(match)
    at, end = match.span()
    about = _ABOUT.search(text, max(0, at - 20), at) is not None
    named = match["digits"] is None
    if match["part"]:
        return _part(text, match, about)
    if percent := _PERCENT.match(text, end):
        return Quantity(value, "share", step, "", about, named, at, percent.end())
    unit = _UNIT.match(text, end)
    if unit is not None and (named or not text[end].isalpha() or unit["unit"].lower() in _UNITS):
        name = unit["unit"].lower()
        known = _UNITS.get(name) or _UNITS.get(name.split("/")[0]) or _UNITS.get(name.rstrip("s"))
        if known is not None and (len(name) > 1 or text[end] != "-"):
            kind, amount = known
            return Quantity(
                value * amount, kind, step * amount, "", about, named, at, unit.end("unit")
            )
    if not named and 1900 <= value <= 2100 and step == 1 and "," not in match[0]:
        before = words_of(text, max(0, at - 25), at)
        if before and (before[-1].lower in ("in", "since", "until", "to", "of", "from", *_MONTHS)):
            return Quantity(value, "year", 1.0, "", False, False, at, end)
    return Quantity(value, "count", step, _noun(text, end), about, named, at, end)


def _value(match: re.Match[str]) -> tuple[float, float]:
    if match["digits"]:
        digits = re.sub(r"[, \u202f]", "", match["digits"]).replace("·", ".")
        digits = re.sub("^[−–]", "-", digits)
        scale = _SCALES[match["scale"].lower()] if match["scale"] else 1.0
        decimals = len(digits.partition(".")[2])
        return float(digits) * scale, scale * 10.0**-decimals
    total, current = 0.0, 0.0
    for name in re.findall(r"[a-z]+", (match["names"] or "").lower()):
        if name in _SCALES:
            current = max(current, 1.0) * _SCALES[name]
            if name != "hundred":
                total, current = total + current, 0.0
        elif name in _NAMED:
            current += _NAMED[name]
    return total + current, 1.0


def _part(text: str, match: re.Match[str], about: bool) -> Quantity | None:
    """ "Half of", "a third of", "two thirds of"; None for a third time or half an hour."""
    if re.match(r"\s(?:of|the)\b", text[match.end() : match.end() + 5], re.I) is None:
        return None
    before = words_of(text, max(0, match.start() - 12), match.start())
    times = _NAMED.get(before[-1].lower, 1.0) if before else 1.0
    if match["part"].lower() != "half" and not (
        before and before[-1].lower in ("a", "one", *_NAMED)
    ):
        return None
    start = before[-1].start if before and times > 1 else match.start()
    share = 100 * times * _PARTS[match["part"].lower()]
    return Quantity(share, "share", 2.0, "", about, True, start, match.end())


def _noun(text: str, end: int) -> str:
    """What is counted: the first word after the number that names people or studies, else the last
    word before the phrase ends."""
    phrase = re.match(r"(?:\s(?:[^\W\d_]|-)+){1,4}", text[end : end + 60])
    if phrase is None:
        return ""
    stems = [word.stem for word in words_of(phrase[0]) if word.is_content]
    for one in stems[:3]:
        if one in _PEOPLE or one in _STUDIES:
            return one
    return stems[0] if stems else ""


def _ranges(text: str, found: list[Quantity]) -> list[Quantity]:
    """Gives the first number of "12 to 24 months" the unit of the second."""
    for index in range(len(found) - 2, -1, -1):
        one, after = found[index], found[index + 1]
        if one.kind == "count" and not one.noun and _RANGE.fullmatch(text[one.end : after.start]):
            if after.kind == "share" and after.whole is None:
                found[index] = replace(one, kind="share")
            elif after.kind not in ("count", "year", "share"):
                words = text[after.start : after.end].lower().split()
                name = re.sub(r"^[\d.,·]+-?", "", words[-1])
                known = _UNITS.get(name) or _UNITS.get(name.rstrip("s"))
                if known is not None:
                    amount = known[1]
                    found[index] = replace(
                        one, kind=after.kind, value=one.value * amount, step=one.step * amount
                    )
    return found


def _joined(text: str, found: Sequence[Quantity]) -> Iterator[Quantity]:
    """Joins "24 of 100", "one in ten" and "24/100" to a share; drops "two" of "two thirds"."""
    skip = -1
    for index, one in enumerate(found):
        if one.start < skip:
            continue
        after = found[index + 1] if index + 1 < len(found) else None
        if after is not None and after.start < one.end:
            continue
        if (
            after is not None
            and one.kind == after.kind == "count"
            and 0 <= one.value <= after.value
            and after.value > 1
            and _OUT_OF.search(text[one.end : after.start]) is not None
        ):
            share = 100 * one.value / after.value
            yield Quantity(
                share, "share", 100 * one.step / after.value / 10, after.noun, one.about, one.named,
                one.start, after.end, after.value,
            )  # fmt: skip
            skip = after.end
        elif after is not None and after.start == one.start:
            continue
        else:
            yield one
