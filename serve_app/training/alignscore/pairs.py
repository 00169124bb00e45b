"""Makes labelled (context, claim) pairs: NLI pairs as they are, and claims against passages.

Knows what each edit of `corruptions` means for the three labels; not tokens or models.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from serve_app.text.edits import corruptions
from serve_app.text.edits.lexicon import STOPWORDS
from serve_app.training.alignscore.data import (
    NliRow,
    Passage,
    PseudoDocuments,
    documents,
    load_abstracts,
    load_cochrane,
    load_nli,
    normalised,
)

ALIGNED, NEUTRAL, CONTRADICTING = 0, 1, 2
NO_LABEL = -100
_TRI = {"entailment": ALIGNED, "neutral": NEUTRAL, "contradiction": CONTRADICTING}
# Corpora whose words are no medical terms.
EVERYDAY = ("mnli", "snli", "rte")
MEDICAL_SOURCES = ("cochrane", "abstract", "summary")
# How often each way of making a claim from a passage is tried; see the model card.
POSITIVE = {"copy": 4.0, "shorten": 4.0, "reword": 2.0, "plain": 1.5, "two": 0.7, "join": 0.7}
NEGATIVE = {
    "fusion": 3.0, "subject": 1.5, "word": 2.0, "name": 2.0, "number": 1.2, "direction": 2.0,
    "negation": 1.8, "pronoun": 0.6, "roles": 2.5, "term": 0.8, "absent": 3.0, "elsewhere": 2.0,
    "half": 0.6,
}  # fmt: skip
# How often a claim about a medical passage starts from a sentence of its human summary, and how
# many of that sentence's content words the passage must have.
SUMMARY_SHARE, SUMMARY_SUPPORT = 0.5, 0.6
# (words in the context, weight): mostly short, for speed, with some near the encoder's limit.
CONTEXT_WORDS = ((25, 3.0), (50, 3.0), (90, 2.5), (150, 1.2), (260, 0.3))


@dataclass(frozen=True)
class Pair:
    """A training or evaluation example. `three_way` is NO_LABEL where only `binary` is known;
    `kind` says how the claim was made."""

    context: str
    claim: str
    binary: int
    three_way: int
    regression: float
    kind: str


def _pair(context: str, claim: str, three_way: int, kind: str, degree: float | None = None) -> Pair:
    aligned = int(three_way == ALIGNED)
    return Pair(
        context, claim, aligned, three_way, float(aligned) if degree is None else degree, kind
    )


def nli_pair(row: NliRow, context: str | None = None, kind: str = "nli") -> Pair:
    """The pair as the corpus has it, or with its premise inside a longer `context`."""
    three_way = _TRI.get(row.label, NO_LABEL)
    aligned = int(row.label == "entailment")
    return Pair(context or row.premise, row.hypothesis, aligned, three_way, float(aligned), kind)


def support(claim: str, passage: Sequence[str]) -> float:
    """Share of the claim's content words (by first six letters) that the passage has."""
    words = [w for w in normalised(claim).split() if w not in STOPWORDS]
    known = {word[:6] for text in passage for word in normalised(text).split()}
    return sum(word[:6] in known for word in words) / len(words) if words else 0.0


def window(sentences: Sequence[str], centre: int, words: int, rng: Random) -> tuple[int, int]:
    """Bounds of a run of sentences around `centre` of at most about `words` words."""
    start, end = centre, centre + 1
    total = len(sentences[centre].split())
    while total < words and (start > 0 or end < len(sentences)):
        left = start > 0 and (end == len(sentences) or rng.random() < 0.5)
        if left:
            start -= 1
        else:
            end += 1
        total += len(sentences[start if left else end - 1].split())
    return start, end


def choose(weights: dict[str, float], rng: Random) -> str:
    """A key, as often as its weight says."""
    return rng.choices(list(weights), list(weights.values()))[0]


def _fair_claims(sentences: Sequence[str]) -> list[int]:
    return [index for index, text in enumerate(sentences) if 5 <= len(text.split()) <= 45]


@dataclass(frozen=True)
class _Place:
    """Where a claim starts from: the text it edits, and the passage's window around it. `text` is
    the sentence `context[at]`, or one of the human summary."""

    passage: Passage
    context: list[str]
    at: int
    text: str

    @property
    def copied(self) -> bool:
        return self.text == self.context[self.at]


_TRUE_EDITS: dict[str, corruptions.Edit] = {
    "shorten": corruptions.shorten,
    "reword": corruptions.reword,
    "plain": corruptions.plain,
    "join": corruptions.join,
}


class ClaimMaker:
    """Makes one labelled claim against a passage.

    Args:
        strangers: sentences of other texts, for claims from elsewhere.
        medical: sentences of medical texts and their summaries, the same for medical passages.
        terms: drugs and conditions of all reviews, for exchanges.
    """

    def __init__(
        self, strangers: Sequence[str], medical: Sequence[str], terms: Sequence[str]
    ) -> None:
        self.strangers = strangers
        self.medical = medical
        self.terms = terms

    def make(self, passage: Passage, words: int, rng: Random) -> Pair | None:
        """A pair with a context of about `words` words, or None if the draw did not work out."""
        from_summary = bool(passage.summary) and rng.random() < SUMMARY_SHARE
        place = (self._summarised if from_summary else self._copied)(passage, words, rng)
        if place is None:
            return None
        if rng.random() < 0.5:
            return self._supported(place, rng)
        return self._unsupported(place, rng)

    def _copied(self, passage: Passage, words: int, rng: Random) -> _Place | None:
        fair = _fair_claims(passage.sentences)
        if not fair:
            return None
        centre = passage.anchor if passage.anchor in fair else rng.choice(fair)
        start, end = window(passage.sentences, centre, words, rng)
        context = passage.sentences[start:end]
        return _Place(passage, context, centre - start, passage.sentences[centre])

    def _summarised(self, passage: Passage, words: int, rng: Random) -> _Place | None:
        text = rng.choice(passage.summary)
        if not 5 <= len(text.split()) <= 45:
            return None
        sentences = passage.sentences
        centre = max(range(len(sentences)), key=lambda index: support(text, [sentences[index]]))
        # One sentence seldom holds all that a sentence of the summary says.
        start, end = window(sentences, centre, max(words, 50), rng)
        context = sentences[start:end]
        if support(text, context) < SUMMARY_SUPPORT:
            return None
        return _Place(passage, context, centre - start, text)

    def _supported(self, place: _Place, rng: Random) -> Pair | None:
        context = place.context
        claim: str | None = place.text
        kind = choose(POSITIVE, rng)
        if kind in _TRUE_EDITS:
            claim = _TRUE_EDITS[kind](place.text, context, rng)
        elif kind == "two":
            other = rng.randrange(len(context))
            claim = f"{place.text} {context[other]}" if other != place.at else None
        if claim is None:
            return None
        again = {"shorten": 0.3, "two": 0.3, "join": 0.3, "plain": 0.4}.get(kind, 0.0)
        if rng.random() < again:
            claim = corruptions.shorten(claim, context, rng) or claim
        label = kind if place.copied else "summary"
        return _pair(" ".join(context), _noise(claim, rng), ALIGNED, label)

    def _unsupported(self, place: _Place, rng: Random) -> Pair | None:
        context, claim = place.context, place.text
        kind = choose(NEGATIVE, rng)
        if kind == "absent":
            if len(context) < 2:
                return None
            context = context[: place.at] + context[place.at + 1 :]
        elif kind == "elsewhere":
            medical = place.passage.source in MEDICAL_SOURCES and rng.random() < 0.8
            claim = rng.choice(self.medical if medical else self.strangers)
        # Cut and reworded as true claims are, so that neither is a sign of a lie.
        for share, edit in ((0.4, corruptions.shorten), (0.1, corruptions.reword)):
            if rng.random() < share:
                claim = edit(claim, context, rng) or claim
        if kind in ("absent", "elsewhere"):
            if support(claim, context) > 0.75:
                return None
            claim = self._maybe_plain(claim, context, rng)
            return _pair(" ".join(context), _noise(claim, rng), NEUTRAL, kind)
        applied = (
            kind
            if kind != "half"
            else choose({name: NEGATIVE[name] for name in corruptions.FLIPS}, rng)
        )
        # Material from the whole passage for short windows, else from the window itself.
        material = context if len(context) >= 3 else place.passage.sentences
        edited = (
            corruptions.exchange_term(claim, self.terms, rng)
            if applied == "term"
            else corruptions.FLIPS[applied](claim, material, rng)
        )
        if edited is None or normalised(edited) == normalised(claim):
            return None
        if normalised(edited) in normalised(" ".join(context)):
            return None
        label = CONTRADICTING if applied in corruptions.CONTRADICTING else NEUTRAL
        degree = 0.0
        edited = self._maybe_plain(edited, context, rng)
        if kind == "half":
            other = rng.choice(context)
            edited = f"{edited} {other}" if rng.random() < 0.5 else f"{other} {edited}"
            degree = 0.5
        return _pair(" ".join(context), _noise(edited, rng), label, kind, degree)

    def _maybe_plain(self, claim: str, context: Sequence[str], rng: Random) -> str:
        return (corruptions.plain(claim, context, rng) or claim) if rng.random() < 0.15 else claim


def _noise(text: str, rng: Random) -> str:
    return corruptions.roughen(text, rng) if rng.random() < 0.3 else text


def medical_terms(passages: Sequence[Passage], everyday: Sequence[str]) -> list[str]:
    """Words that single out their review: in two or more of its sentences, in few reviews, and
    not in `everyday` texts. Nearly all are drugs, conditions and procedures."""
    common = {word for text in everyday for word in normalised(text).split()}
    reviews: Counter[str] = Counter()
    for passage in passages:
        inside = Counter(word for text in passage.sentences for word in normalised(text).split())
        reviews.update(word for word, times in inside.items() if times >= 2)
    return sorted(
        word
        for word, count in reviews.items()
        if count <= 6 and len(word) > 5 and word.isalpha() and word not in common
    )


class Corpus:
    """All training text of one part (`train` or `dev`) and the endless draw of pairs from it.

    Args:
        folder: the data folder.
        part: `train` or `dev`.
        leave_out: NLI corpora that are not used.
    """

    def __init__(self, folder: Path, part: str, leave_out: Sequence[str] = ()) -> None:
        self.nli = [row for row in load_nli(folder)[part] if row.source not in leave_out]
        cochrane = load_cochrane(folder)
        self.medical = list(cochrane[part])
        if part == "train":
            self.medical += load_abstracts(folder, [*cochrane["test"], *cochrane["dev"]])
        self.documents = documents(self.nli)
        self.pseudo = PseudoDocuments(self.nli)
        strangers = [
            text
            for passage in (*self.medical, *self.documents)
            for text in passage.sentences
            if 6 <= len(text.split()) <= 40
        ]
        medical = [
            text
            for passage in self.medical
            for text in (*passage.sentences, *passage.summary)
            if 6 <= len(text.split()) <= 40
        ]
        everyday = [row.premise for row in self.nli if row.source in EVERYDAY]
        self.maker = ClaimMaker(strangers, medical, medical_terms(self.medical, everyday))

    def long_pair(self, rng: Random) -> Pair:
        """One claim against a passage; half of them medical."""
        while True:
            words, weights = zip(*CONTEXT_WORDS, strict=True)
            budget = round(rng.choices(words, weights)[0] * rng.uniform(0.75, 1.25))
            draw = rng.random()
            if draw < 0.45:
                passage = rng.choice(self.medical)
                if passage.summary and rng.random() < 0.15:
                    passage = Passage(passage.summary, "summary")
                pair = self.maker.make(passage, budget, rng)
            elif draw < 0.62 and self.documents:
                pair = self.maker.make(rng.choice(self.documents), budget, rng)
            else:
                passage = self.pseudo.build(rng, budget)
                if draw < 0.82:
                    context = " ".join(passage.sentences)
                    pair = nli_pair(rng.choice(passage.rows), context, "nli_in_passage")
                else:
                    pair = self.maker.make(passage, budget, rng)
            if pair is not None:
                return pair

    def round(self, seed: int, number: int, size: int, nli_share: float) -> list[Pair]:
        """The `number`th block of `size` pairs; equal for equal arguments."""
        rng = Random(f"{seed}/{number}")  # noqa: S311 - repeatable, not secret
        short = round(size * nli_share)
        # Walk through the NLI pairs in one shuffled order, so each is seen as often as any other.
        order = list(range(len(self.nli)))
        Random(seed).shuffle(order)  # noqa: S311
        first = number * size
        pairs = [nli_pair(self.nli[order[i % len(order)]]) for i in range(first, first + short)]
        pairs += [self.long_pair(rng) for _ in range(size - short)]
        rng.shuffle(pairs)
        return pairs

    def long_claims(self, seed: int, size: int, words: int) -> list[Pair]:
        """Claims against contexts of about `words` words, for choosing the chunk size."""
        rng = Random(f"{seed}/long")  # noqa: S311
        made: list[Pair] = []
        while len(made) < size:
            budget = round(words * rng.uniform(0.7, 1.3))
            medical = len(made) % 2 == 0
            passage = rng.choice(self.medical) if medical else self.pseudo.build(rng, budget)
            pair = self.maker.make(passage, budget, rng)
            if pair is not None:
                made.append(pair)
        return made
