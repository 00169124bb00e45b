"""Known ways to please the metrics without telling a reader anything stay below a human text."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from serve_app.evidence import Source, check
from serve_app.text.sentences import split_sentences
from serve_app.training.rewards.gaming import gamed_share, honest_share
from serve_app.training.rewards.reward import Reward, local_scorer, loss_reward
from serve_app.training.rewards.scoring import PairScorer

SOURCE = (
    "Hypertension is a major risk factor for stroke. We included 14 randomised controlled trials "
    "with 3120 adults who had hypertension. Compared with placebo, low-dose thiazide diuretics "
    "reduced the incidence of stroke (risk ratio 0.68, 95% CI 0.55 to 0.84; moderate-certainty "
    "evidence) and of coronary events. All-cause mortality did not differ between the groups. "
    "Hypokalaemia was more frequent with treatment, and 6% of participants discontinued because of "
    "adverse events. Most trials had been conducted in high-income countries, so that the results "
    "may not be applicable to other settings. The certainty of the evidence was moderate."
)
HUMAN = (
    "People whose blood pressure is too high have strokes more often than other people. We looked "
    "at 14 studies in which 3120 adults with high blood pressure took either a small dose of a "
    "thiazide, a medicine that makes the kidneys pass more water, or a dummy pill. Fewer people "
    "had a stroke or heart trouble when they took the medicine. About the same number of people "
    "died in both groups. A low level of potassium in the blood was seen more often with the "
    "medicine, and about 6 in 100 people stopped because of side effects. Nearly all studies came "
    "from richer countries, and we do not know whether poorer ones would see the same. We are "
    "moderately sure of these results."
)


def _joined(words: list[str], size: int) -> str:
    return " ".join(
        " ".join(words[start : start + size]) + "." for start in range(0, len(words), size)
    )


def _clipped(sentences: list[str]) -> str:
    return re.sub(r"[A-Za-z]{7,}", lambda found: found[0][:4] + ".", " ".join(sentences))


def _without_long_words(sentences: list[str]) -> str:
    words = " ".join(sentences).split()
    return " ".join(w for w in words if len(re.findall("[aeiouy]+", w.lower())) < 3) + "."


GAMES: dict[str, Callable[[list[str]], str]] = {
    "copies the beginning": lambda s: " ".join(s[: len(s) // 2 + 1]),
    "copies the end": lambda s: " ".join(s[len(s) // 2 :]),
    "copies everything": " ".join,
    "copies in another order": lambda s: " ".join(reversed(s)),
    "one sentence alone": lambda s: s[-1],
    "one sentence again and again": lambda s: " ".join([s[1]] * len(s)),
    "cuts words to abbreviations": _clipped,
    "leaves out the long words": _without_long_words,
    "a full stop after every eighth word": lambda s: _joined(
        " ".join(s).replace(".", "").split(), 8
    ),
    "the key words only": lambda s: _joined(re.findall(r"[A-Za-z]{5,}", " ".join(s)), 6),
    "hedges about nothing": lambda _: (
        "It may help some people. It may not help others. We are not sure of it. "
        "It could be good or bad. We do not know yet what it means."
    ),
    "copies half and adds easy sentences": lambda s: " ".join(
        [*s[: len(s) // 2], *["It is so. We all know it."] * len(s)]
    ),
}


@pytest.fixture(scope="module")
def scorer() -> PairScorer:
    return local_scorer()


@pytest.fixture(scope="module")
def reward(scorer: PairScorer) -> Reward:
    return loss_reward(scorer, penalty=0.1)


def rewards(reward: Reward, source: str, texts: list[str]) -> list[float]:
    found = reward(prompts=[""] * len(texts), completions=texts, original=[source] * len(texts))
    return [one for one in found if one is not None]


def test_every_game_is_below_a_faithful_human_text(reward: Reward) -> None:
    games = [game(split_sentences(SOURCE)) for game in GAMES.values()]
    human, *gamed = rewards(reward, SOURCE, [HUMAN, *games])
    assert {name: found for name, found in zip(GAMES, gamed, strict=True) if found >= human} == {}


def test_the_loss_alone_prefers_a_game(scorer: PairScorer) -> None:
    """Why the penalty looks for gaming: the loss does not."""
    games = [game(split_sentences(SOURCE)) for game in GAMES.values()]
    human, *gamed = rewards(loss_reward(scorer), SOURCE, [HUMAN, *games])
    assert max(gamed) > human


@pytest.mark.parametrize("name", GAMES)
def test_a_game_is_seen_whatever_the_metrics_say(name: str) -> None:
    source = Source(SOURCE)
    assert gamed_share(source, HUMAN) < 0.3
    assert honest_share(source, HUMAN) == 1
    assert honest_share(source, GAMES[name](split_sentences(SOURCE))) < 0.5


def test_of_real_human_texts_nearly_all_are_above_every_game(
    reward: Reward, shared_data: Path
) -> None:
    with (shared_data / "cochrane_pls.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "train"]
    above = compared = 0
    for row in Random(8).sample(rows, 8):
        source, text = row["source_text"], row["target_text"]
        if check(source, text).severe:
            continue  # not faithful to the abstract
        (human,) = rewards(reward, source, [text])
        read = Source(source)
        games = [game(split_sentences(source)) for game in GAMES.values()]
        # No reward is above the honest share, so most games need no model.
        near = [game for game in games if honest_share(read, game) >= human]
        above += len(games) - len(near)
        above += sum(found < human for found in rewards(reward, source, near))
        compared += len(games)
    assert compared >= 24
    assert above >= 0.95 * compared
