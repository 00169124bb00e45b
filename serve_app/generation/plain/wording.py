"""Rules `wording` and `asides`: long phrases that say no more than short ones, and long brackets.

Each phrase means the same as its short form in every context; words with a sense of their own are
the glossary's. A bracket that limits what is said ("(but not in children)") stays.
"""

from __future__ import annotations

import re
from functools import partial

from serve_app.generation.plain.facts import Facts
from serve_app.generation.plain.grammar import capitalised, tidied

_SHORTER: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(rf"\b{long}\b", re.I), short)
    for long, short in (
        (r"(?:in|with a) total(?: number)? of (?=\d)", "a total of "),
        (
            r"a (?:combined )?total of (?=\d|\w+ (?:trials|studies|people|patients|participants|"
            r"RCTs))",
            "",
        ),
        (r"(?:with regards? to|in relation to|with respect to|in terms of|in regards? to)", "for"),
        (
            r"(?:in comparison (?:with|to)|(?:when|as) compared (?:with|to)|compared to)",
            "compared with",
        ),
        (r"in order to", "to"),
        (r"due to the fact that|owing to the fact that", "because"),
        (r"with the exception of", "except"),
        (r"in the absence of", "without"),
        (r"(?:has|have) the potential to", "may"),
        (r"(?:is|are) able to", "can"),
        (r"(?:was|were) able to", "could"),
        (r"(?:was|were) unable to", "could not"),
        (r"(?:is|are) unable to", "cannot"),
        (r"approximately", "about"),
        (r"subsequently", "later"),
        (r"whether or not", "whether"),
        (r"on whether", "whether"),
        (r"we identified", "we found"),
        (r"we were not able to", "we could not"),
        (r"the included (?=stud|trial|RCT|review)", "the "),
        (r"(?:identified|included) (?=(?:studies|trials) (?:that|which|with|in|of)\b)", ""),
        (r"(?<=studies )included (?=in (?:this|the) review)", ""),
        (r"(?<=trials )included (?=in (?:this|the) review)", ""),
        (r"it should be noted that|it is important to note that|it is worth noting that", ""),
        (r"a (?:large|great) proportion of", "many of"),
        (r"prior to", "before"),
        (r"for the purposes? of", "for"),
        (r"provide(s|d)? (?:an )?evidence (that|of|for)", r"give\1 evidence \2"),
        (r"as a (?:result|consequence) of", "because of"),
        (r"the use of (?=\w+ (?:was|were|is|may|did))", ""),
    )
)
_BRACKET = re.compile(r"\s\(([^()]*)\)")
_LIMITS = re.compile(
    r"\b(?:not|no|nor|none|never|except|only|without|unless|but|excluding|apart|more|less|fewer|"
    r"higher|lower|better|worse|"
    r"low|high|moderate|means?|that is|one|two|three)\b|\d",
    re.I,
)
_LONG_ASIDE = 5  # words
_EXAMPLES = re.compile(r"^(?:e\.?g\.?|such as|for example|including|i\.e\.|ie)[,\s]")


def shorter(sentence: str, facts: Facts) -> str:
    """The sentence with short phrases in the place of long ones.

    >>> shorter("Prior to surgery, we were able to treat in order to help.", Facts(""))
    'Before surgery, we could treat to help.'
    """
    text = sentence
    for pattern, short in _SHORTER:
        text = pattern.sub(partial(_cased, short), text)
    return sentence if text == sentence else capitalised(tidied(re.sub(r"\bgived\b", "gave", text)))


def _cased(template: str, found: re.Match[str]) -> str:
    short = found.expand(template)
    return short[:1].upper() + short[1:] if found.start() == 0 and found[0][0].isupper() else short


def without_asides(sentence: str, facts: Facts) -> str:
    """The sentence without long brackets that limit nothing and count nothing.

    >>> without_asides("Tools (loupes, lenses, endoscope, lamps, old mirrors) helped.", Facts(""))
    'Tools helped.'
    >>> without_asides("It helped (but not in children with severe disease).", Facts(""))
    'It helped (but not in children with severe disease).'
    """

    def said(found: re.Match[str]) -> str:
        long = len(found[1].split()) > _LONG_ASIDE or _EXAMPLES.match(found[1])
        return "" if long and _LIMITS.search(found[1]) is None else found[0]

    text = _BRACKET.sub(said, sentence)
    return sentence if text == sentence else tidied(text)
