"""What a clause claims: a change and its direction, no difference, or nothing known; how surely.

Reads word lists and fixed phrases, clause by clause. Knows nothing of the other text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from itertools import pairwise

from serve_app.evidence.words import Word, stem, words_of

_CLAUSE = re.compile(
    r"[;:]|,?\s(?:but|whereas|while|although|though|however|yet)\s|,\s+(?:and|which|with)\s"
    r"|\s\((?=[A-Za-z]{4,}\s)|,(?=\s\w+\s\w+\s\w)",
    re.I,
)


def _stems(words: str) -> frozenset[str]:
    return frozenset(stem(word) for word in words.split())


UP = _stems(
    """increase increased increasing more higher greater raise raised rise rises rose risen elevated
    elevation longer prolong prolonged prolongation larger gain gained grew growth exceeded
    accelerate accelerated promote promoted induce induced commoner
    heightened enhanced augmented extended lengthened bigger faster"""
)
DOWN = _stems(
    """reduce reduced reduces reducing reduction reductions decrease decreased less fewer lower
    lowered smaller shorter shorten shortened fall falls fell fallen drop dropped decline declined
    prevent prevented prevents prevention preventing avoid avoided diminish diminished relieve
    relieved relief alleviate ease eased protect protected protective cut suppress suppressed
    attenuate attenuated delay delayed slow slowed slower minimise minimised lessen rarer"""
)
BETTER = _stems(
    """improve improved improves improving improvement improvements better best superior effective
    benefit benefits beneficial benefited help helps helped favour favoured favours favor favored
    favourable favorable successful advantage outperformed recover recovered"""
)
WORSE = _stems(
    """worse worsen worsened worsening worst deteriorate deteriorated deterioration inferior impair
    impaired impairment poorer ineffective disadvantage harmful damaging"""
)


def is_direction(word: str) -> bool:
    """Whether a word says up, down, better or worse.

    >>> is_direction("higher"), is_direction("worsened"), is_direction("women")
    (True, True, False)
    """
    return stem(word) in UP | DOWN | BETTER | WORSE


# A change for the better is a change down of these, and the other way round.
_BAD = _stems(
    """pain risk symptom symptoms disease infection mortality depression anxiety fatigue stress
    severity relapse bleeding complications disability"""
)
_FLIPPED = {
    stem("survival"): stem("death"),
    stem("survived"): stem("death"),
    stem("alive"): stem("death"),
}
_CARRIERS = _stems(
    """risk rate rates number numbers likelihood chance chances probability odds incidence frequency
    level levels amount proportion percentage score scores degree occurrence prevalence average mean
    significant significantly statistically slightly likely difference group groups compared
    treatment people study evidence found showed result results outcome effect effects quality
    certainty low moderate high review included ratio confidence interval important clinically
    cause lead make take happen develop experience suffer get report occur rare common"""
)
_NONE = re.compile(
    r"""\b(?:
    no\s(?:\w+\s){0,4}?(?:difference|differences|effects?|benefits?|improvements?|changes?|reductions?|
        increases?|advantages?|impact|association|superiority|relationship|correlation)
    | (?:did|does|do|was|were|is|are|has|have|had|could)(?:\snot|n['’]t)\s(?:\w+ly\s)?
        (?:seem\sto\s|appear\sto\s)?
        (?:\w+ly\s)?(?:differ|reduced?|lowere?d?|improved?|increased?|change|affect|decreased?|prevent|
        different|help|benefit|alter|influence|make\s(?:a|any)\s(?:\w+\s)?difference|lead\sto|result\sin|
        provide|superior|better|effective|associated|have\s(?:any|an|a)\s(?:\w+\s)*effect|
        significant(?:ly)?|work)
    | little\s(?:or|to)\sno\s(?:\w+\s){0,2}?(?:difference|effect|impact|change|benefit)
    | little\s(?:difference|effect|impact)
    | (?:was|were|is|are|been|be|remained)\s(?:\w+ly\s)?
        (?:similar|comparable|unchanged|equal|equivalent|the\ssame|alike)
    | similar\s(?:in|between|for|across|to|rates?|numbers?|effects?|levels?|results)
    | not\s(?:\w+\s){0,2}?significant(?:ly)?
    | non-?significant(?:ly)?
    | no\s(?:more|better|less|worse|greater|higher|lower|longer|fewer)\b
    | neither\b | without\s(?:any\s|a\s)?(?:\w+\s)?(?:difference|effect|change|increase|reduction)
    | ineffective | makes?\sno | made\sno
    )""",
    re.I | re.X,
)
_UNKNOWN = re.compile(
    r"""\b(?:
    (?:in)?sufficient\s(?:\w+\s){0,2}?(?:evidence|data|information)
    | not\senough\s(?:\w+\s){0,2}?(?:evidence|data|information|studies|trials|people)
    | no\s(?:\w+\s){0,3}?evidence\s(?:that|to|on|about|for)
    | (?:lack|absence|paucity)\sof\s(?:\w+\s){0,2}?(?:evidence|data|studies|trials)
    | (?:is|are|was|were|remains?)\s(?:\w+\s)?
        (?:uncertain|unclear|unknown|not\s(?:clear|known|certain))
    | (?:un|not\s|very\sun)(?:certain|sure|clear)\s(?:whether|if|about|of|how)
    | (?:un|in)(?:certain|clear|conclusive) | uncertainty
    | (?:do|did|does|could|can)\s?not\s
        (?:know|conclude|determine|say|tell|be\s(?:sure|determined|estimated))
    | cannot\s(?:\w+\s)?(?:know|conclude|determine|say|tell|be\ssure)
    | very\slow[\s-](?:certainty|quality)
    | no\s(?:\w+\s){0,3}?(?:studies|trials|data|information|conclusions?)\b
    )""",
    re.I | re.X,
)
_EVIDENCE_OF_NONE = re.compile(
    r"\bno\s(?:\w+\s){0,2}?evidence\s(?:of|for)\s(?:an?\s|any\s)?(?:\w+\s)?(?:difference|effect|benefit)",
    re.I,
)
_NEGATION = re.compile(r"\b(?:not|no|never|none|nor|neither|cannot)\b|n['’]t\b", re.I)
_PROVEN = re.compile(
    r"\b(?:prove[sdn]?|proof|definitely|certainly|undoubtedly|always|guarantees?|conclusively|"
    r"clearly\s(?:shows?|showed|reduces?|increases?|improves?|prevents?|causes?|works?)|"
    r"will\s(?:reduce|increase|improve|prevent|cause|help|cure|lower|lead|make|stop|protect|work)|"
    r"(?:high|strong)[\s-](?:certainty|quality)\sevidence|established|without\sdoubt|cures?)\b",
    re.I,
)
_PROBABLE = re.compile(
    r"\b(?:probably|likely\s(?:to|that|reduces?|increases?|results?|improves?|makes?|leads?|causes?)|"
    r"moderate[\s-](?:certainty|quality))\b",
    re.I,
)
_POSSIBLE = re.compile(
    r"\b(?:may|might|could|possibly|perhaps|suggest(?:s|ed|ing)?|appear(?:s|ed)?|seem(?:s|ed)?|"
    r"potential(?:ly)?|low[\s-](?:certainty|quality)|limited\sevidence|some\sevidence|"
    r"weak\sevidence|promising|tend(?:s|ed)?\sto|indicat(?:es?|ed|ing)\sthat)\b",
    re.I,
)
_ASSOCIATED = re.compile(
    r"\b(?:associat(?:ed|ion|ions)|linked|correlat(?:ed|ion|es?)|relat(?:ed\sto|ionship))\b", re.I
)
_CAUSAL = re.compile(
    r"\b(?:cause[sd]?|causing|leads?\sto|led\sto|due\sto|results?\sin|resulted\sin|makes?|made|"
    r"because\sof|(?:reduc|increas|prevent|lower|rais|improv|worsen)(?:es|e|s|ed)\b)",
    re.I,
)
_THAN = re.compile(
    r"\b(?:than|compared\s(?:with|to)|versus|vs\.?|over|relative\sto|in\scomparison\s(?:with|to)|"
    r"as\sopposed\sto|rather\sthan|instead\sof|against)\b",
    re.I,
)
_FRONTED = re.compile(r"\s*(?:compared|in\scomparison|relative|rather|instead)\s", re.I)
_LIKELY = re.compile(r"\b(more|less|un)\s?likely\b", re.I)


class Certainty(IntEnum):
    """How surely something is said, in the steps of GRADE's plain wording."""

    UNKNOWN = 0
    POSSIBLE = 1
    PROBABLE = 2
    PLAIN = 3
    PROVEN = 4


@dataclass(frozen=True, slots=True)
class Cue:
    """A word that says a direction.

    Attributes:
        sign: +1 for more, -1 for less, of the outcome; of one that is good or bad in itself, as
            `valued` says: +1 for better, -1 for worse.
    """

    sign: int
    valued: bool
    word: Word


class Clause:
    """A clause at `text[start:end]`."""

    def __init__(self, text: str, start: int, end: int) -> None:
        self.text, self.start, self.end = text, start, end

    @cached_property
    def said(self) -> str:
        """Its words as written."""
        return self.text[self.start : self.end]

    @cached_property
    def words(self) -> list[Word]:
        """Its words."""
        return words_of(self.text, self.start, self.end)

    @cached_property
    def stems(self) -> frozenset[str]:
        """What it is about: stems of content words that say no direction."""
        return frozenset(
            _FLIPPED.get(word.stem, word.stem)
            for word in self.words
            if word.is_content and word.stem not in _DIRECTED and word.stem not in _CARRIERS
        )

    @cached_property
    def cues(self) -> list[Cue]:
        """Its directions, in order; none of a clause without a difference."""
        flip = -1 if any(word.stem in _FLIPPED for word in self.words) else 1
        found = []
        for word in self.words:
            one = word.stem
            if one in UP or one in DOWN:
                found.append(Cue(flip * (1 if one in UP else -1), False, word))
            elif one in BETTER or one in WORSE:
                better = 1 if one in BETTER else -1
                # "Survival improved" and "pain improved" say what became less.
                bad = flip < 0 or any(other.stem in _BAD for other in self.words)
                found.append(Cue(-better if bad else better, not bad, word))
            elif word.lower == "unlikely":
                found.append(Cue(-flip, False, word))
        return found

    def scope(self, cue: Cue) -> frozenset[str]:
        """What a direction is about: the content words near it."""
        at = next(place for place, word in enumerate(self.words) if word is cue.word)
        near = self.words[max(0, at - _BEFORE) : at + _AFTER + 1]
        return frozenset(_FLIPPED.get(word.stem, word.stem) for word in near) & self.stems

    @cached_property
    def no_difference(self) -> re.Match[str] | None:
        """Where it says that nothing differs or changes."""
        return _NONE.search(self.said)

    @cached_property
    def unknown(self) -> re.Match[str] | None:
        """Where it says that nothing is known."""
        if _EVIDENCE_OF_NONE.search(self.said):
            return None
        return _UNKNOWN.search(self.said)

    @cached_property
    def negations(self) -> list[re.Match[str]]:
        """Its negations."""
        return list(_NEGATION.finditer(self.said))

    @cached_property
    def certainty(self) -> Certainty:
        """How surely it is said."""
        if self.unknown:
            return Certainty.UNKNOWN
        if _POSSIBLE.search(self.said):
            return Certainty.POSSIBLE
        if _PROBABLE.search(self.said):
            return Certainty.PROBABLE
        return Certainty.PROVEN if _PROVEN.search(self.said) else Certainty.PLAIN

    @property
    def proven(self) -> re.Match[str] | None:
        """Where it claims proof."""
        return _PROVEN.search(self.said)

    @property
    def causal(self) -> re.Match[str] | None:
        """Where it says that one thing makes another."""
        return _CAUSAL.search(self.said)

    @property
    def associated(self) -> bool:
        """Whether it says that two things go together, no more."""
        return _ASSOCIATED.search(self.said) is not None

    @cached_property
    def arms(self) -> tuple[frozenset[str], frozenset[str]] | None:
        """What stands before and after "than" or "compared with"; None without one."""
        split = _THAN.search(self.said)
        if split is None:
            return None
        at, end = self.start + split.start(), self.start + split.end()
        before = [word for word in self.words if word.end <= at]
        after = [word for word in self.words if word.start >= end]
        if not any(word.is_content for word in before):
            # "Compared with X, Y ...": the first side stands behind the comma.
            comma = self.text.find(",", end, self.end)
            before = [word for word in after if word.start > comma >= 0]
            after = [word for word in after if word.end <= comma]
        sides = [
            frozenset(
                word.stem
                for word in side
                if word.is_content and word.stem not in _DIRECTED and word.stem not in _CARRIERS
            )
            for side in (before, after[:8])
        ]
        return (sides[0] - sides[1], sides[1] - sides[0])


_DIRECTED = UP | DOWN | BETTER | WORSE | frozenset({stem("likely"), stem("unlikely")})
_BEFORE, _AFTER = 4, 7  # words on both sides of a cue that say what it is about


def clauses(text: str, start: int, end: int) -> list[Clause]:
    """The clauses of the sentence `text[start:end]`; a piece of fewer than three words goes with
    the one before."""
    cuts = [start]
    for found in _CLAUSE.finditer(text, start, end):
        if found[0] == "," and _FRONTED.match(text, cuts[-1], found.start()):
            continue
        if (
            len(words_of(text, cuts[-1], found.start())) >= 3
            and len(words_of(text, found.end(), end)) >= 3
        ):
            cuts.append(found.start())
    cuts.append(end)
    return [Clause(text, one, after) for one, after in pairwise(cuts)]
