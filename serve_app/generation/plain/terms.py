"""Rule `terms`: the glossary's plain words, and the same term the same everywhere.

Where the glossary can replace a term in one sentence of a summary and not in another, the term
stays in all of them and is explained once, at its first use. Works on the sentences of a summary
together.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from serve_app.text.glossary import Form, Glossary, key_of

_AS_ADJECTIVE = re.compile(
    r"\b(?:of|the|a|an|all|any|most|other|in|for) looked (?:at|into)\b", re.I
)
_MOST_EXPLAINED = 3  # brackets that a summary bears


_BY_CHANCE = re.compile(r"\b(stud(?:y|ies)) with groups chosen by chance\b", re.I)


def said_once(texts: Sequence[str]) -> list[str]:
    """How groups were chosen, said at the first study only: the others are studies too.

    >>> both = ["One study with groups chosen by chance.", "Studies with groups chosen by chance."]
    >>> said_once(both)
    ['One study with groups chosen by chance.', 'Studies.']
    """
    out: list[str] = []
    seen = False
    for text in texts:
        found = _BY_CHANCE.search(text)
        keep = 0 if seen or found is None else found.end()
        seen = seen or found is not None
        out.append(text[:keep] + _BY_CHANCE.sub(r"\1", text[keep:]))
    return out


def in_plain_words(texts: Sequence[str], glossary: Glossary) -> list[str]:
    """The sentences of a summary in plain words.

    >>> in_plain_words(["Hypertension was rare.", "The Hypertension Group met."], Glossary.load())
    ['High blood pressure was rare.', 'The Hypertension Group met.']
    """
    plain = [_simplified(text, glossary) for text in texts]
    nouns = [
        form for form in glossary.forms if form.kind == "noun" and form.term == form.term.lower()
    ]
    whole = " ".join(plain).lower()
    standing = [form for form in nouns if form.term in whole and _places(form, plain)]
    if not standing:
        return plain
    leave = {key_of(form.term) for form in standing}
    # Singular and plural are one term.
    stems = {form.plain.split()[0] for form in standing}
    leave |= {
        key_of(form.term)
        for form in nouns
        if form.plain.split()[0] in stems
        and any(
            form.term.startswith(one.term[:-1]) and abs(len(form.term) - len(one.term)) <= 3
            for one in standing
        )
    }
    plain = [_simplified(text, glossary, leave) for text in texts]
    said = 0
    for form in sorted(standing, key=lambda one: -len(one.term)):
        if (
            said < _MOST_EXPLAINED
            and not form.context
            and form.plain.lower() not in " ".join(plain).lower()
        ):
            said += _explain(form, plain)
    return plain


def _simplified(text: str, glossary: Glossary, leave: Collection[str] = ()) -> str:
    plain, done = glossary.simplify(text, leave)
    if _AS_ADJECTIVE.search(plain) is None:
        return plain
    # "The types of evaluated training": the participle stands for an adjective.
    verbs = {key_of(one.term) for one in done if one.plain.startswith("looked ")}
    return glossary.simplify(text, {*leave, *verbs})[0]


def _places(form: Form, texts: Sequence[str]) -> list[tuple[int, re.Match[str]]]:
    """Where a term still stands, not as part of a name or of a hyphenated word."""
    pattern = re.compile(rf"(?<![\w/-]){re.escape(form.term)}(?![\w/-]|['’])", re.I)
    return [
        (index, found)
        for index, text in enumerate(texts)
        for found in pattern.finditer(text)
        if found[0].islower() or (found.start() == 0 and found[0][1:].islower())
    ]


def _explain(form: Form, texts: list[str]) -> bool:
    """Writes the plain words in brackets behind the first use; whether there was a place for
    them.
    """
    for index, found in _places(form, texts):
        text = texts[index]
        following = text[found.end() :]
        if re.match(
            r"[.,;)]|\s(?:in|of|for|with|and|or|was|were|is|are|at|after|by|to|on|compared|versus|"
            r"than|may|did)\b",
            following,
        ):
            texts[index] = f"{text[: found.end()]} ({form.plain}){following}"
            return True
    return False
