"""Pairs made by rule in which neither the claim alone nor word overlap tells true from false.

A sentence of a passage is edited, and four pairs are possible: the passage with the sentence as it
was or as edited, and the claim as it was or as edited. Equal sides make a supported claim,
unequal ones a false one, so an edit's wording is as often true as false. Claims are then reworded,
shortened and put in plain words, true and false alike. Knows edits and passages; not models.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from serve_app.text.edits import corruptions
from serve_app.text.edits.trial_edits import FALSE_EDITS, TRUE_EDITS
from serve_app.training.alignscore.data import Passage, normalised
from serve_app.training.alignscore.pairs import (
    ALIGNED,
    CONTRADICTING,
    NEUTRAL,
    Pair,
    choose,
    support,
    window,
)

# Edits after which the passage leaves the claim open rather than speaks against it.
_OPEN = frozenset({"certainty", "word"})
# How often a claim is reworded, and reworded again: true ones more often, or the words shared with
# the passage would give them away (an edit already costs a false one some).
_REWORDED = {True: (0.9, 0.6), False: (0.4, 0.2)}
_WORDS = {25: 2.0, 50: 3.0, 90: 3.0, 150: 2.0, 250: 0.6}
_EXPLAINS = " is are means refers occurs happens describes "


def mirrored_pair(passage: Passage, rng: Random) -> Pair | None:
    """A pair about one sentence of the passage, true or false with even odds; None where the edit
    that was drawn does not apply."""
    sentences = passage.sentences
    fair = [index for index, text in enumerate(sentences) if 5 <= len(text.split()) <= 45]
    kind = choose({name: weight for name, (_, weight) in FALSE_EDITS.items()}, rng)
    edit = FALSE_EDITS[kind][0]
    rng.shuffle(fair)
    for centre in fair[:8]:
        text = sentences[centre]
        edited = edit(text, sentences, rng)
        if edited is not None and normalised(edited) != normalised(text):
            break
    else:
        return None
    words = rng.choices(list(_WORDS), list(_WORDS.values()))[0]
    start, end = window(sentences, centre, words, rng)
    context = list(sentences[start:end])
    told, said = rng.choice((text, edited)), rng.choice((text, edited))
    context[centre - start] = told
    true = told == said
    if not true and normalised(said) in normalised(" ".join(context)):
        return None
    claim = reworded(said, context, rng, _REWORDED[true])
    three_way = ALIGNED if true else NEUTRAL if kind in _OPEN else CONTRADICTING
    return Pair(" ".join(context), claim, int(true), three_way, float(true), f"mirrored {kind}")


def reworded(claim: str, context: Sequence[str], rng: Random, shares: Sequence[float]) -> str:
    """The claim after edits that leave it true, as many as `shares` has, each with that chance;
    and now and then format noise."""
    for share in shares:
        if rng.random() < share:
            weights = {name: weight for name, (_, weight) in TRUE_EDITS.items()}
            while weights:
                kind = choose(weights, rng)
                if edited := TRUE_EDITS[kind][0](claim, context, rng):
                    claim = edited
                    break
                del weights[kind]
    return corruptions.roughen(claim, rng) if rng.random() < 0.15 else claim


def explanation_pair(passage: Passage, rng: Random) -> Pair | None:
    """A sentence of the human summary that explains what the abstract takes as known, such as a
    definition: neutral. None where the summary has none."""
    known = [
        text
        for text in passage.summary
        if 6 <= len(text.split()) <= 40
        and any(f" {word} " in text for word in _EXPLAINS.split())
        and not any(char.isdigit() for char in text)
        and support(text, passage.sentences) < 0.45
    ]
    if not known or not passage.sentences:
        return None
    centre = rng.randrange(len(passage.sentences))
    start, end = window(passage.sentences, centre, rng.choice((40, 80, 150)), rng)
    context = " ".join(passage.sentences[start:end])
    return Pair(context, rng.choice(known), 0, NEUTRAL, 0.0, "explanation")
