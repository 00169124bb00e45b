"""A text ends before its stop sequence, whatever pieces it comes in."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serve_app.generation.stop_sequences import StopCutter

LETTERS = st.text("ab", max_size=12)


def first_to_end(text: str, stops: list[str]) -> str:
    """The text that an engine which writes letter by letter would have before it stops."""
    for end in range(len(text) + 1):
        for stop in sorted(stops, key=len, reverse=True):
            if text[:end].endswith(stop):
                return text[: end - len(stop)]
    return text


@given(LETTERS, st.lists(st.text("ab", min_size=1, max_size=4), max_size=4), st.data())
def test_pieces_are_cut_where_a_letter_by_letter_engine_would_stop(
    text: str, stops: list[str], data: st.DataObject
) -> None:
    cutter, sent, left = StopCutter(stops), "", text
    while left and not cutter.found:
        size = data.draw(st.integers(1, len(left)))
        sent += cutter.push(left[:size])
        left = left[size:]
    assert sent + cutter.rest() == first_to_end(text, stops)
    assert cutter.found is any(stop in text for stop in stops)


def test_what_cannot_begin_a_stop_sequence_is_not_held_back() -> None:
    cutter = StopCutter(["\n\n", "END"])
    assert [cutter.push(one) for one in ("One.", "\n", "Two.", " EN")] == [
        "One.",
        "",
        "\nTwo.",
        " ",
    ]
    assert cutter.rest() == "EN"
