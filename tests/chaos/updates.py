"""What answers may be while an update changes them: wholly the old one, or wholly the new one.

Knows answers and times, and nothing of what is updated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tests.chaos.load import Answer, Case, same
from tests.chaos.patience import numbers


def either(
    answers: Sequence[Answer], old: Sequence[Case], new: Sequence[Case], whole: float
) -> list[Answer]:
    """The answers, judged again: each must be the old one or the new one, and from `whole` on,
    when everything was replaced, the new one.

    Args:
        answers: as judged by the old ones, with `got`.
        old: what was asked, with the answers before the update.
        new: the same with those after it.
        whole: when the update was, in the time of `Answer.asked`.
    """

    def again(one: Answer) -> Answer:
        if one.outcome not in ("right", "wrong"):
            return one
        if same(one.got, numbers(new[one.case].expected)):
            return replace(one, outcome="right", detail="")
        if one.outcome == "right" and one.asked >= whole:
            detail = f"the old answer, after the update was whole: {old[one.case].path}"
            return replace(one, outcome="wrong", detail=detail)
        return one

    return [again(one) for one in answers]


def unchanged(old: Sequence[Case], new: Sequence[Case], path: str) -> int:
    """How many answers of this route the update has left as they were."""
    return sum(
        before.path == path and same(after.expected, before.expected)
        for before, after in zip(old, new, strict=True)
    )
