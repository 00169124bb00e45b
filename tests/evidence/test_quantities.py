"""Numbers that say the same are equal, however they are written; others are not."""

from __future__ import annotations

import pytest

from serve_app.evidence.quantities import Quantity, quantities


def one(text: str) -> Quantity:
    [found] = quantities(text)
    return found


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("half of the women", "50% of the women"),
        ("one in ten people", "10 percent of people"),
        ("24 of 100 children", "24% of children"),
        ("24/100", "24 %"),
        ("two thirds of patients", "66.7% of patients"),
        ("1,200 women", "1200 women"),
        ("twelve studies", "12 studies"),
        ("one hundred and twenty people", "120 people"),
        ("two weeks", "14 days"),
        ("6 months", "half a year, that is 183 days"),
        ("500 mg", "0.5 g"),
        ("1.5 litres", "1500 ml"),
        ("about 30%", "31.4%"),
        ("35%", "35.2%"),
        ("1.2 million people", "1,200,000 people"),
        ("0·5%", "0.5 per cent"),
    ],
)
def test_the_same_quantity_in_other_words_is_equal(first: str, second: str) -> None:
    left = one(first)
    assert any(left.equals(right) for right in quantities(second))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("3490 women", "349 women"),
        ("24%", "24 women"),
        ("35%", "36%"),
        ("2 weeks", "2 months"),
        ("5 mg", "5 g"),
        ("0.62", "0.26"),
        ("one in ten", "one in five"),
    ],
)
def test_other_quantities_differ(first: str, second: str) -> None:
    assert not one(first).equals(one(second))


def test_a_range_has_one_unit() -> None:
    assert [(q.value, q.kind) for q in quantities("12 to 24 days")] == [
        (12.0, "time"),
        (24.0, "time"),
    ]


def test_what_is_counted_is_known() -> None:
    found = quantities("We included 28 RCTs with 4507 randomised participants.")
    assert [q.counted for q in found] == ["studies", "people"]


@pytest.mark.parametrize("text", ["", "no number", "half an hour", "the third time", "CD4", "B12"])
def test_what_is_no_quantity_is_left_alone(text: str) -> None:
    assert not quantities(text)
