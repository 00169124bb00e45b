"""Edits of one sentence that change what it says, or leave it true, and nothing else.

Each function takes a claim, the sentences of its passage and a random generator, and gives
the edited claim, or None where the edit does not apply. They know words and punctuation, not
grammar, so their labels are right nearly always rather than always; no model. Of data files they
read the glossary alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from random import Random

from serve_app.text.edits.lexicon import (
    AUXILIARIES,
    CLAUSE_WORDS,
    NUMBER_WORDS,
    OPPOSITES,
    PREPOSITIONS,
    PRONOUN_SWAPS,
    PRONOUNS,
    STOPWORDS,
    SYNONYMS,
    VERBS,
)
from serve_app.text.glossary import Glossary

Edit = Callable[[str, Sequence[str], Random], str | None]

_NUMBER = re.compile(r"(?<![\w.,-])\d+(?:[.,]\d+)*(?![\w])")
_NAME = re.compile(r"(?<!^)(?<![.!?] )\b[A-Z][\w’'-]+(?: [A-Z][\w’'-]+)*")
_NEGATION = re.compile(r"\b(?:not|no|never|none|neither|nor|without|cannot|unless|only)\b|n't\b")
_CONDITION = re.compile(r"\b(?:if|whether|than|unless|except|may|might|could|unclear)\b")


def _core(word: str) -> str:
    return word.strip(".,;:!?()[]\"'`“”‘’")


def _recase(new: str, old: str) -> str:
    return new[0].upper() + new[1:] if old[:1].isupper() and new else new


def _replace_core(word: str, new: str) -> str:
    core = _core(word)
    return word.replace(core, _recase(new, core), 1) if core else word


def _finish(text: str) -> str | None:
    """Tidies an edited sentence; None if too little is left to be a claim."""
    text = re.sub(r"\s+", " ", text).strip(" ,;:-–")
    if len(text.split()) < 4:
        return None
    text = text[0].upper() + text[1:]
    return text if text[-1] in ".!?\"'”" else text + "."


# --- edits that change what is said ---------------------------------------------------------


def change_number(claim: str, passage: Sequence[str], rng: Random) -> str | None:
    """Another number in place of one: one of the passage's own, or one made up nearby."""
    spans = [(match.start(), match.end()) for match in _NUMBER.finditer(claim)]
    words = [
        (match.start(), match.end())
        for match in re.finditer(r"[A-Za-z]+", claim)
        if match.group().lower() in NUMBER_WORDS and match.group().lower() != "one"
    ]
    if not spans and not words:
        return None
    start, end = rng.choice(spans or words)
    old = claim[start:end]
    if old.lower() in NUMBER_WORDS:
        choices = [word for word in NUMBER_WORDS if word != old.lower()]
        return claim[:start] + _recase(rng.choice(choices), old) + claim[end:]
    decimal = "." in old
    here = {match.group() for match in _NUMBER.finditer(claim)}
    seen = {match.group() for text in passage for match in _NUMBER.finditer(text)}
    others = sorted(
        number for number in seen - here if ("." in number) == decimal and len(number) < 8
    )
    if others and rng.random() < 0.5:
        return claim[:start] + rng.choice(others) + claim[end:]
    digits = list(old)
    places = [index for index, char in enumerate(digits) if char.isdigit()]
    place = places[0] if rng.random() < 0.6 else rng.choice(places)
    digits[place] = rng.choice([d for d in "123456789" if d != digits[place]])
    return claim[:start] + "".join(digits) + claim[end:]


def flip_direction(
    claim: str,
    passage: Sequence[str],
    rng: Random,
    only: Callable[[str], bool] = OPPOSITES.__contains__,
) -> str | None:
    """The opposite of one word of direction, degree or judgement (`higher` for `lower`), of those
    that are `only`."""
    words = claim.split(" ")
    cores = [_core(word).lower() for word in words]
    places = [index for index, core in enumerate(cores) if core in OPPOSITES and only(core)]
    if not places:
        return None
    place = rng.choice(places)
    words[place] = _replace_core(words[place], rng.choice(OPPOSITES[_core(words[place]).lower()]))
    return " ".join(words)


def flip_negation(claim: str, passage: Sequence[str], rng: Random) -> str | None:
    """A negation taken out where there is one, else put in after the first auxiliary."""
    for pattern, new in (
        (r"\b(was|were|is|are|do|does|did|has|have|had|could|would|should|may|can) not\b", r"\1"),
        (r"\b([Cc])annot\b", r"\1an"),
        (r"\b(was|were|is|are|do|does|did|has|have|had|could|would|should) ?n['’]t\b", r"\1"),
        (r"\b([Tt]here (?:was|were|is|are)) no\b", r"\1"),
        (r"\bno (?=(?:significant|clear|statistically|difference|evidence|effect|benefit))", ""),
        (r"\bnever ", ""),
    ):
        edited, count = re.subn(pattern, new, claim, count=1)
        if count:
            return edited
    if _NEGATION.search(claim):
        return None
    words = claim.split(" ")
    for index, word in enumerate(words[1:-1], start=1):
        if word.lower() in AUXILIARIES:
            words.insert(index + 1, "never" if rng.random() < 0.15 else "not")
            return " ".join(words)
    return None


def _ending(word: str) -> str:
    for suffix in ("ing", "ed", "ly", "ion", "ity", "ies", "s"):
        if word.endswith(suffix):
            return suffix
    return ""


def exchange_word(claim: str, passage: Sequence[str], rng: Random) -> str | None:
    """One content word for another of the same ending from elsewhere in the passage."""
    own = {_core(word).lower() for word in claim.split()}
    stems = {word[:5] for word in own}
    pool: dict[str, list[str]] = {}
    for text in passage:
        for word in text.split()[1:]:
            core = _core(word)
            fit = core.islower() and core.isalpha() and len(core) > 3 and core not in STOPWORDS
            if fit and core not in own and core[:5] not in stems:
                pool.setdefault(_ending(core), []).append(core)
    words = claim.split(" ")
    places = [
        index
        for index, word in enumerate(words)
        if (core := _core(word)).islower()
        and core.isalpha()
        and len(core) > 3
        and core not in STOPWORDS
        and _ending(core) in pool
    ]
    if not places:
        return None
    place = rng.choice(places)
    words[place] = _replace_core(words[place], rng.choice(pool[_ending(_core(words[place]))]))
    return " ".join(words)


def _names(text: str) -> list[tuple[int, int, str]]:
    return [(match.start(), match.end(), match.group()) for match in _NAME.finditer(text)]


def exchange_name(claim: str, passage: Sequence[str], rng: Random) -> str | None:
    """One capitalised name for another of the passage that the claim does not share a word with."""
    own = {part.lower() for part in re.findall(r"\w+", claim)}
    others = sorted(
        {
            name
            for text in passage
            for _, _, name in _names(text)
            if not own & {part.lower() for part in re.findall(r"\w+", name)}
        }
    )
    names = _names(claim)
    if not others or not names:
        return None
    start, end, _ = rng.choice(names)
    return claim[:start] + rng.choice(others) + claim[end:]


def swap_pronoun(claim: str, passage: Sequence[str], rng: Random) -> str | None:
    """`he` for `she` and so on: every gendered pronoun of the claim."""
    words = claim.split(" ")
    edited = [
        _replace_core(word, PRONOUN_SWAPS[_core(word).lower()])
        if _core(word).lower() in PRONOUN_SWAPS
        else word
        for word in words
    ]
    return " ".join(edited) if edited != words else None


def _verb_at(words: Sequence[str]) -> int | None:
    """Where the predicate begins: the first auxiliary or common verb after a subject."""
    for index, word in enumerate(words[1:10], start=1):
        if _core(word).lower() in AUXILIARIES or _core(word).lower() in VERBS:
            return index
    return None


def _content(words: Sequence[str]) -> set[str]:
    cores = {_core(word).lower() for word in words}
    return {core[:6] for core in cores if core and core not in STOPWORDS}


def swap_subject(claim: str, passage: Sequence[str], rng: Random) -> str | None:
    """The predicate kept, the subject taken from another sentence of the passage."""
    words = claim.split()
    verb = _verb_at(words)
    if verb is None or words[0].lower() in PRONOUNS or not _content(words[:verb]):
        return None
    choices = []
    for text in passage:
        other = text.split()
        other_verb = _verb_at(other)
        if other_verb is None or other[0].lower() in PRONOUNS:
            continue
        subject = _content(other[:other_verb])
        if subject and not subject & _content(words):
            choices.append(other[:other_verb])
    if not choices:
        return None
    return _finish(" ".join([*rng.choice(choices), *words[verb:]]))


def _cuts(words: Sequence[str], kind: set[str]) -> list[int]:
    return [index for index in range(3, len(words) - 2) if _core(words[index]).lower() in kind]


def fuse(claim: str, passage: Sequence[str], rng: Random) -> str | None:
    """The beginning of the claim with the end of another sentence of the passage."""
    words = claim.split()
    kinds: list[set[str]] = [set(AUXILIARIES) | set(VERBS), set(PREPOSITIONS), set(CLAUSE_WORDS)]
    rng.shuffle(kinds)
    others = [text.split() for text in passage if text != claim]
    rng.shuffle(others)
    for kind in kinds:
        cuts = _cuts(words, kind)
        if not cuts:
            continue
        cut = rng.choice(cuts)
        for other in others:
            ends = _cuts(other, kind)
            if not ends:
                continue
            tail = other[rng.choice(ends) :]
            # A tail that says the same as the claim would make a true sentence.
            if len(_content(tail) - _content(words)) >= 2 and len(_content(words[cut:])) >= 1:
                return _finish(" ".join([*words[:cut], *tail]))
    return None


def swap_roles(claim: str, passage: Sequence[str], rng: Random) -> str | None:
    """Two names of the claim in each other's place, or the two sides of a comparison."""
    body = claim.rstrip(".!? ")
    comparison = re.match(
        r"(?P<a>[^,]{3,60}?) (?P<mid>(?:was|were|is|are|had|has|have)\b[^,]*? than) "
        r"(?P<b>[^,]{3,60})$",
        body,
    )
    if comparison and comparison["a"].split()[0].lower() not in PRONOUNS | {"there"}:
        return _finish(f"{comparison['b']} {comparison['mid']} {comparison['a']}")
    names = re.finditer(r"\b[A-Z][\w’'-]+(?: [A-Z][\w’'-]+)*", claim)
    spans = [(match.start(), match.end()) for match in names]
    pairs = [
        (first, second)
        for first, second in pairwise(spans)
        if len(claim[first[1] : second[0]].split()) >= 2
        and claim[slice(*first)].lower() not in STOPWORDS | PRONOUNS
        and claim[slice(*first)] != claim[slice(*second)]
        and " and " not in claim[first[1] : second[0]]
    ]
    if not pairs:
        return None
    (a, b), (c, d) = rng.choice(pairs)
    return claim[:a] + claim[c:d] + claim[b:c] + claim[a:b] + claim[d:]


def exchange_term(claim: str, terms: Sequence[str], rng: Random) -> str | None:
    """A drug or condition of the claim for another of `terms` (those of other reviews)."""
    own = {_core(word).lower() for word in claim.split()}
    known = {term.lower() for term in terms}
    words = claim.split(" ")
    places = [index for index, word in enumerate(words) if _core(word).lower() in known]
    choices = sorted(term for term in known if term not in own)
    if not places or not choices:
        return None
    place = rng.choice(places)
    old = _core(words[place]).lower()
    new = rng.choice([term for term in choices if _ending(term) == _ending(old)] or choices)
    edited = [_replace_core(word, new) if _core(word).lower() == old else word for word in words]
    return " ".join(edited)


# --- edits that leave it true ---------------------------------------------------------------


def shorten(claim: str, passage: Sequence[str], rng: Random) -> str | None:
    """One removable part dropped: a parenthesis, an adverbial, a trailing clause or phrase."""
    prepositions = "|".join(PREPOSITIONS)
    clauses = "|".join(CLAUSE_WORDS)
    options: list[tuple[str, str]] = []
    for pattern in (
        r"\s*\([^()]*\)",
        r"^[A-Z][^,.;]{2,50}, (?=\w)",
        rf", (?:{clauses})\b[^,;]*,(?= )",
        rf",? (?:{clauses})\b[^;]*$",
        r"[,;][^,;]{10,}$",
        rf" (?:{prepositions}) (?:[\w'-]+ ){{0,5}}[\w'-]+[.!?]?$",
    ):
        for match in re.finditer(pattern, claim):
            options.append((claim[: match.start()] + " " + claim[match.end() :], match.group()))
    rng.shuffle(options)
    for kept, dropped in options:
        tight = _NEGATION.search(claim.lower()) or _CONDITION.search(claim.lower())
        if tight and not dropped.strip().startswith("("):
            continue
        finished = _finish(re.sub(r" +([,.;])", r"\1", kept))
        if finished and _verb_at(claim.split()) and not _verb_at(finished.split()):
            continue
        if finished is not None and len(finished.split()) >= 5:
            return finished
    return None


def reword(claim: str, passage: Sequence[str], rng: Random) -> str | None:
    """One to three words in other, equal words (`participants` for `people`)."""
    edited = claim
    names = [old for old in SYNONYMS if re.search(rf"\b{old}\b", claim, re.IGNORECASE)]
    rng.shuffle(names)
    for old in names[: rng.randint(1, 3)]:
        new = rng.choice(SYNONYMS[old])
        found = re.search(rf"\b{old}\b", edited, re.IGNORECASE)
        if found:
            edited = edited[: found.start()] + _recase(new, found.group()) + edited[found.end() :]
    return edited if edited != claim else None


@cache
def _glossary() -> Glossary:
    return Glossary.load()


def plain(claim: str, passage: Sequence[str], rng: Random) -> str | None:
    """The medical terms in plain words, as the extractive engine's glossary has them."""
    edited, replacements = _glossary().simplify(claim)
    return edited if replacements else None


def join(claim: str, passage: Sequence[str], rng: Random) -> str | None:
    """The claim and another sentence of the passage as one sentence."""
    others = [text for text in passage if text != claim and 4 <= len(text.split()) <= 25]
    if not others or len(claim.split()) > 30:
        return None
    other = rng.choice(others)
    link = rng.choice([" and ", ", and ", ", ", " while ", "; "])
    tail = other if other[:2].isupper() or rng.random() < 0.3 else other[0].lower() + other[1:]
    return claim.rstrip(".!? ") + link + tail


def roughen(text: str, rng: Random) -> str:
    """Light format noise that says nothing: case, spacing, quotes, commas, the last stop."""
    kind = rng.randrange(7)
    if kind == 0:
        return text.lower()
    if kind == 1:
        return text.rstrip(".")
    if kind == 2:
        return re.sub(r"([,.;:()])", r" \1 ", text).replace("  ", " ").strip()
    if kind == 3:
        return re.sub(r"[\"“”]", "`", text.replace("’", "'")).replace("n't", " n't")
    if kind == 4:
        return text.replace(",", "")
    if kind == 5:
        return re.sub(r"[\"“”'‘’`]", "", text)
    return "` " + text.rstrip(".") + " '"


FLIPS: dict[str, Edit] = {
    "number": change_number,
    "direction": flip_direction,
    "negation": flip_negation,
    "word": exchange_word,
    "name": exchange_name,
    "pronoun": swap_pronoun,
    "subject": swap_subject,
    "fusion": fuse,
    "roles": swap_roles,
}
"""Edits after which the passage no longer supports the claim, by their reported name."""
# Edits whose result the passage speaks against, rather than leaves open.
CONTRADICTING = frozenset({"number", "direction", "negation", "name", "pronoun", "roles", "term"})
