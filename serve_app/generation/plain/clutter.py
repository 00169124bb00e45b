"""Rule `clutter`: what serves librarians is left out: registry numbers, databases, dates of
searches, citations, pointers to figures and tables. Knows no medicine.
"""

from __future__ import annotations

import re

from serve_app.generation.plain.facts import Facts
from serve_app.generation.plain.grammar import tidied

_REGISTRY = (
    r"(?:NCT ?\d{6,}|ISRCTN ?\d+|CRD ?\d+|ACTRN ?\d+|EudraCT[\w\s-]*\d[\d-]+|PROSPERO[^()]*|"
    r"DOI:?\s?\S+|https?://\S+)"
)
_POINTER = (
    r"(?:see )?(?:also )?(?:[Ff]ig(?:ure|s|\.)?|[Tt]ables?|[Aa]nalys[ei]s|[Aa]ppendi(?:x|ces)|"
    r"[Cc]omparisons?|[Ss]ummary of findings(?: table)?(?: for the main "
    r"comparison)?)\s?\d*[\d.,;\sA-Z]*"
)
_AUTHOR = r"[A-Z][\w'’-]+(?: et al\.?| and [A-Z][\w'’-]+| & [A-Z][\w'’-]+)?,? (?:19|20)\d\d[a-z]?"
_BRACKETS = re.compile(
    rf"\s?[(\[](?:registered (?:as|at|under|number)?:?\s?)?(?:{_REGISTRY}|{_POINTER}|"
    rf"{_AUTHOR}(?:[;,] (?:{_AUTHOR}))*)[)\]]"
    r"|\s?\[\d{1,3}(?:[,–-]\s?\d{1,3})*\]"
)
_INLINE = re.compile(
    r",? (?:as shown in|see|shown in) (?:Figure|Fig\.|Table|Appendix)\s?\d+[A-Za-z]?"
)
_NOTE = re.compile(r"(?<=[a-z)])\.\d{1,3}(?:[,–-]\d{1,3})*\.?$")  # "of the drug.75."
_DATABASES = (
    r"MEDLINE|Medline|EMBASE|Embase|CENTRAL|CINAHL|PsycINFO|PsycInfo|LILACS|PubMed|Web of Science|"
    r"Scopus|AMED|"
    r"ClinicalTrials\.gov|Cochrane (?:Central )?Register|Trials Register|Specialised Register|"
    r"Specialized Register|ISI|"
    r"BIOSIS|DARE|ICTRP|KoreaMed|SportDiscus|Google Scholar"
)
_SEARCHING = re.compile(
    rf"\b(?:{_DATABASES})\b|\b(?:electronic|bibliographic|literature) (?:databases?|searche?s?)\b|"
    r"\b(?:we|authors?) (?:also )?(?:hand-?)?searched\b|\b(?:searche?s?|search strategy) "
    r"(?:identified|produced|found|yielded|"
    r"retrieved|resulted|was|were|until|up to|for|in|of|from)\b|\b(?:records|citations|abstracts|"
    r"titles|references|articles|publications)\b.{0,60}\b"
    r"(?:screened|retrieved|identified|reviewed|duplicates|reports?|full)\b|\bdate of (?:the "
    r")?(?:last|most recent) search\b|\breference lists\b|\bhandsearch|"
    r"\bawaiting (?:classification|assessment)\b|\bfull[- ]text\b"
)
_FOUND = re.compile(
    r"(?:The|Our) (?:[\w-]+ )?(?:literature )?searche?s? (?:identified|found|yielded|retrieved) "
    r"(?!\d[\d,]* (?:\w+ )?(?:records|references|citations|articles|abstracts|titles|publications))"
)
_DATED = re.compile(
    r",? (?:published |available )?(?:up to|until|to|as of|before|from inception to) (?:\d{1,2} )?"
    r"(?:January|February|March|April|May|June|July|August|September|October|November|December) "
    r"(?:\d{1,2},? )?(?:19|20)\d\d"
)


def without_clutter(sentence: str, facts: Facts) -> str | None:
    """The sentence without what points out of it; None where it tells of the search alone.

    >>> without_clutter("One trial (NCT01234567) was small [3, 4].", Facts(""))
    'One trial was small.'
    >>> without_clutter("We searched MEDLINE up to March 2021.", Facts("")) is None
    True
    """
    sentence = _FOUND.sub("We found ", sentence)
    if _SEARCHING.search(sentence) is not None:
        return None
    text = _DATED.sub("", _INLINE.sub("", _BRACKETS.sub("", _NOTE.sub(".", sentence))))
    return sentence if text == sentence else tidied(text)
