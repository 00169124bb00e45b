"""Splits an original into sentences that can be copied on their own; knows no metric.

Sentence ends are those of `text.sentences` (which the metrics use, and which stay as they are).
Here pieces that are no sentences are joined again ("see Fig." and "2 shows"), headings, list
markers, tags and emoji are left out, and what makes no sense alone ("95% CI 0.7 to 1.2).", a
registration number) is marked. A doubtful piece is joined to its neighbour or marked, never cut:
joining cannot change what a sentence says.

Line breaks count as spaces, so that a hard-wrapped text has the same sentences at any width; only
blank lines, and breaks that no wrapping explains (the next word would have fitted), separate.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from serve_app.text.sentences import sentence_spans
from serve_app.text.validation import has_word

_MOST_JOINED = 3  # sentence ends that one pair of brackets may hide
_FEWEST_WORDS = 3
_LONGEST_HEADING = 25  # words
_TAIL = 200  # characters before a border that decide whether a sentence ends there

# Headings that a capital letter may follow without a colon.
_FIRM = (
    r"(?:materials?|patients|participants|search)(?: and)? methods?|methods?|search strategy|"
    r"background(?: and aims?)?|introduction|objectives?|aims?|data sources|"
    r"selection criteria|study selection|data (?:collection|extraction)(?: and (?:analysis|"
    r"synthesis))?|(?:evidence|data) synthesis|measurements and main results|"
    r"(?:main |key )?(?:results|findings)|key (?:messages|points)|discussion|interpretation|"
    r"(?:(?:authors?|reviewers?)['’]?s? )?conclusions?(?: and relevance)?"
)
# Headings that may also begin a sentence: "Patients Know Best", "Outcome 2 was".
_LOOSE = (
    r"abstract|context|rationale|importance|purpose|hypothesis|(?:study )?design|setting|"
    r"participants|patients|subjects|interventions?|exposures?|(?:main |primary )?outcomes?"
    r"(?: measures?| measure\(s\))?|implications|limitations|significance|funding|"
    r"(?:trial )?registration|selection|measurements"
)
_CAPITALS = r"[A-Z]{3,}(?: (?:[A-Z]{2,}|&|/))+"
_NAME = rf"(?:(?i:{_FIRM}|{_LOOSE})|{_CAPITALS})"
_HEADING_LINE = re.compile(rf"{_NAME} ?:?")
_BEFORE_COLON = re.compile(rf"{_NAME} ?: |[*_]{{1,2}}{_NAME}[*_]{{1,2}} ?:? ?(?=[\"'“‘(]?[A-Z\d])")
# Not before a second dash: "Interventions - Mostly exercise - helped".
_BEFORE_DASH = re.compile(rf"{_NAME} [–—-] (?=[A-Z])(?!.* [–—-] )|[A-Z]{{3,}}(?: [A-Z]+)* [–—-] ")
_BEFORE_CAPITAL = re.compile(rf"(?:(?i:{_FIRM}))(?<=\w) (?=[\"'“‘(]?(?:[A-Z][a-z]*|[A-Z]+\d+)\b)")
_BEFORE_NUMBER = re.compile(
    r"(?i:background|introduction|(?:main |key )?(?:results|findings)|discussion|"
    r"(?:authors?|reviewers?)['’]?s? conclusions?) "
    r"(?=\d[\d,.]*%? (?!(?:and|or|to|was|were|is|are)\b))"
)
_DOUBTFUL = re.compile(
    rf"{_NAME} [–—-]?\s*[A-Z\d]|.* (?:Search methods|Selection criteria|Data collection and "
    r"analysis|Main results|Main outcome measures|Authors['’] conclusions) [A-Z\d]"
)

# An item's number or letter counts as such before a capital letter; a dash before a digit may be a
# minus sign.
_ITEM = r"\(?(?:\d{1,2}[.)]|[A-Za-z]\)|[ivx]{1,4}\))"
_BULLET = re.compile(rf"[ \t]*(?:[-*•·●▪◦‣–—]|{_ITEM})[ \t]+")
_REFERENCES = r"\[\d[\d,;\s–-]*\]"
_ENUMERATOR = re.compile(rf"(?:[-*•·●▪◦‣–—]|#{{1,6}}|{_REFERENCES}|{_ITEM}) (?=[\"'“‘(*_]*[A-Z])")
_MARKED = re.compile(r"[ \t]*#{1,6}[ \t]+")
_INITIAL = re.compile(r"[A-Z]\.\s")
_DASH = re.compile(r"[-*•·●▪◦‣–—]\s+")
_MINUS = re.compile(r"\s*[-–—]\s+\d")
_DECORATION = (
    r"[\u2190-\u21ff\u2300-\u23ff\u25a0-\u27bf\u2b00-\u2bff\U0001f000-\U0001faff\u200d\ufe0f]"
)
_DECORATED = re.compile(rf"(?:\s|{_DECORATION})*")
_BROKEN = re.compile(r"\w-$")

# Bounded, so that a text of beginnings of tags is read in linear time.
_VALUE = r"(?:\"[^\"<>]{0,500}\"|'[^'<>]{0,500}'|[^\s\"'<>]{1,500})"
_ATTRIBUTES = rf"(?:\s{{1,9}}[\w:-]{{1,50}}\s{{0,9}}=\s{{0,9}}{_VALUE}){{0,50}}\s{{0,9}}/?"
_TAG = re.compile(
    rf"(?P<space>&(?:nbsp|#160|#xa0);)|<!--[^<>]{{0,999}}-->|</?(?P<name>[A-Za-z][A-Za-z0-9]{{0,30}}){_ATTRIBUTES}>"
)
_INLINE = frozenset(
    [
        "a",
        "abbr",
        "b",
        "bold",
        "cite",
        "em",
        "font",
        "i",
        "italic",
        "mark",
        "small",
        "span",
        "strong",
        "u",
        "underline",
    ]
)
_SCRIPTS = frozenset(("sub", "sup"))  # without its tag, 10<sup>3</sup> would read 103

_OPENS = re.compile(r"[\"'“‘(\[*_]*[^\W_]")
# A word in lower case; names such as mRNA, pH, p53 or n-3 are none.
_LOWER = re.compile(r"[\"'“‘(\[]*(?=[^\W\d_A-Z])(?![\w-]*[A-Z\d])")
_ENDS = re.compile(r"[.!?]['\")\]’”]*$")
_STOPPED = re.compile(r"([^\s(\[\"'“‘]+)\.['\")\]’”]*$")
_PLAIN_WORD = re.compile(r"\b[^\W\d_A-Z][^\W\d_]+\b")
_BRACKET = re.compile(r"[()\[\]]")
_LIST_NUMBER = re.compile(r"(?:^|[\s(])(?:\d{1,2}|[a-z]|[ivx]{1,4})\)$")
_NO_CONTENT = re.compile(
    r"https?://|\bdoi\b|\bISRCTN|\bNCT\d{4}|\bCRD ?\d{4}|</?[a-z]+>", re.IGNORECASE
)


def _words(listing: str) -> frozenset[str]:
    return frozenset(listing.split())


# Abbreviations that end no sentence.
_NEVER_LAST = _words(
    "fig figs tab tabs eq eqs eqn ref refs chap cf vs v ca approx dr drs prof mr mrs ms messrs viz "
    "resp incl excl e.g eg i.e ie esp spec subsp var nos"
)
# Abbreviations that may end one, and words of few letters that are none (see `_abbreviated`).
_ABBREVIATIONS = _words(
    "al max min avg est no nr art ed eds sect vol vols pp suppl app dept univ conc temp equiv calc "
    "corr diff freq prev sens spec signif stat obs exp pos neg hosp med surg clin pharm inj tabl "
    "caps susp staph strep haem hemo etc inc ltd corp approx addl dist cont para sol addn prep "
    "jan feb mar apr jun jul aug sep sept oct nov dec"
)
_SHORT_WORDS = _words(
    "a i am as at be by do go he if in is it me my no of on or so to up us we age ago aid aim air "
    "all and any are arm art ask bad bed big bit boy but can car cut day did die dry due ear eat "
    "egg end eye far fat few for fox get girl had has her him his hip hot how ill its job kit lab "
    "leg lie lip lot low man men new not now off old one our out own pay per put raw red rib run "
    "saw set she six ten the tip too toe top two use via was way who why yes yet able also anus "
    "area arms back band base been best bias body bone both boys care case cell cord core cost "
    "cure data date days dead died diet does done dose down drip drop drug each ears ease eggs "
    "else even eyes face fact fair fall fast feet fell felt five flow food foot form foul four "
    "free from full gain game gave goal gold good gone grow gums half hand hard harm have head "
    "heal held help here hips home hour iron keep kind knee lack last late lead left legs less "
    "life like line lips list live long look lose loss lost lung made main many mean meet mild "
    "milk mind more most much neck need next nine none nose note once only oral over pain part "
    "past peak pill pool poor rare rash rate rest rise risk role room rose safe salt same scan "
    "seen self sent show side site size skin slow soon stay stop such take task team term test "
    "than that them then they this time toes took tool true tube turn type unit used user uses "
    "very view wait walk wall want ward warm was ways weak wear week well went were west what "
    "when will with word work worn year zero"
)
# Words that open a sentence after an abbreviation.
_STARTERS = _words(
    "the this these that those there they it its we our in on at of for from by with to as an all "
    "both each no none some most many one two three four five however although while when if "
    "after before among between because since thus therefore he she his her their such other "
    "further more few participants patients trials studies results pain"
)
_UNFINISHED = _words(
    "a an and as at but by for from had has have in into is nor of on or per than that the their "
    "these this those to was were which while who with within without"
)


@dataclass(frozen=True, slots=True)
class Passage:
    """A sentence of the original: `original[start:end]`, without any heading or list marker.

    Attributes:
        index: its position among the original's passages.
        text: the slice on one line: white space as single spaces, tags left out.
        start, end: offsets in the original.
        usable: True if it can stand in a summary on its own.
    """

    index: int
    text: str
    start: int
    end: int
    usable: bool


@dataclass(slots=True)
class _Block:
    """Lines that belong together, as one line.

    Attributes:
        words: joined they are `text`: without tags, white space as single spaces.
        offsets: of each character of the text in the original.
        headless: True if its first sentence may have its beginning elsewhere.
        doubts: where in the text a heading may have been joined to what follows it.
    """

    words: list[str] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    headless: bool = False
    doubts: list[int] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(self.words)

    def append(self, line: str, offsets: list[int]) -> None:
        """Adds a line, without a space where wrapping broke a word at its hyphen."""
        for number, word in enumerate(re.finditer(r"\S+", line)):
            bare = word[0].lower()
            broken = number == 0 and _BROKEN.search(_tail(self.words)) and word[0][0].isalnum()
            if self.words and not (broken and bare not in ("and", "or", "to", "versus", "vs")):
                self.words.append(" ")
                self.offsets.append(offsets[word.start()])
            self.words.append(word[0])
            self.offsets += offsets[word.start() : word.end()]


def split_passages(original: str) -> list[Passage]:
    """The passages of the original in order; empty only where there is no word.

    At least one is usable: where none has enough words, every complete sentence; where there is
    none, the whole text is one passage.

    >>> [passage.text for passage in split_passages("METHODS: We searched. RESULTS: None died.")]
    ['We searched.', 'None died.']
    """
    if not has_word(original):
        return []
    found: list[Passage] = []
    complete: list[bool] = []
    before = ""
    for block in _blocks(original):
        whole = block.text
        if _HEADING_LINE.fullmatch(whole):
            before = ""
            continue
        for at, (start, end) in enumerate(_sentences(whole)):
            doubt = bisect_right(block.doubts, start)
            joined = doubt < len(block.doubts) and block.doubts[doubt] < end
            begin, end, doubtful = _trimmed(whole, start, end)
            text = whole[begin:end]
            if has_word(text):
                headless = at == 0 and (block.headless or _continues_block(before, text))
                # After a heading a sentence may begin in lower case.
                lower = begin == start and _LOWER.match(text) is not None
                complete.append(
                    not (headless or doubtful or joined or lower) and _is_complete(text)
                )
                first, last = block.offsets[begin], block.offsets[end - 1] + 1
                usable = complete[-1] and stands_alone(text)
                found.append(Passage(len(found), text, first, last, usable))
        before = whole
    if any(passage.usable for passage in found):
        return found
    if any(complete):
        return [replace(one, usable=usable) for one, usable in zip(found, complete, strict=True)]
    text = " ".join(_without_tags(original)[0].split())
    start = len(original) - len(original.lstrip())
    return [Passage(0, text, start, len(original.rstrip()), True)]


def stands_alone(sentence: str) -> bool:
    """True if it begins and ends as a sentence, closes its brackets and is mostly words.

    >>> stands_alone("Pain was less with the drug (2 trials; 95% CI 1 to 3).")
    True
    >>> stands_alone("95% CI 0.7 to 1.2).")
    False
    """
    letters = sum(char.isalpha() for char in sentence)
    return (
        _is_complete(sentence)
        and len(_PLAIN_WORD.findall(sentence)) >= _FEWEST_WORDS
        and 2 * letters >= len(sentence) - sentence.count(" ")
        and _NO_CONTENT.search(sentence) is None
    )


def _is_complete(sentence: str) -> bool:
    """Whether it opens and ends as a sentence and closes its brackets."""
    return (
        _OPENS.match(sentence) is not None
        and _ENDS.search(sentence) is not None
        and _brackets(sentence) == (0, 0)
    )


def _blocks(original: str) -> Iterator[_Block]:
    """Paragraphs and list items, without their markers and without heading lines."""
    text, offsets = _without_tags(original)
    lines = text.splitlines(keepends=True)
    # A line of one word may be longer than the width.
    width = max((len(line.rstrip()) for line in lines if " " in line.strip()), default=0)

    def deliberate(at: int) -> bool:
        """Whether the break after a line is none of wrapping: the next word would have fitted."""
        following = "".join(lines[at + 1 : at + 2])
        word = re.match(r"[ \t]*([^ \t\r\n]*)", following)
        return word is None or len(lines[at].rstrip()) + 1 + len(word[1]) <= width

    block, start = _Block(), 0
    for at, line in enumerate(lines):
        tail = _tail(block.words)
        finished = not tail or not _goes_on(tail, _DASH.sub("", line.strip(), count=1))
        skip = 0
        if not line.strip():
            yield block
            block = _Block()
        elif marked := _MARKED.match(line):
            yield block
            skip = marked.end() if _ENDS.search(line.strip()) else len(line)
            block = _Block()
        elif finished and _is_heading(line, lines[at + 1 : at + 2], width) and deliberate(at):
            yield block
            block, skip = _Block(), len(line)
        elif bullet := _BULLET.match(line):
            item = line[bullet.end() : bullet.end() + 1].isalpha()
            if finished or (item and at and deliberate(at - 1)):
                yield block
                block = _Block(headless=not finished or _MINUS.match(line) is not None)
                skip = bullet.end()
        if block.words and not finished and line.strip()[:1].isupper() and deliberate(at - 1):
            block.doubts.append(len(block.offsets))
        block.append(line[skip:], offsets[start + skip : start + len(line)])
        start += len(line)
    yield block


def _tail(words: list[str]) -> str:
    """The end of a text of these words."""
    return "".join(words[-_TAIL:])[-_TAIL:]


def _without_tags(original: str) -> tuple[str, list[int]]:
    """The text without HTML tags, those of blocks as blank lines; and its characters' offsets."""
    text, offsets, last = [], list[int](), 0
    for tag in _TAG.finditer(original):
        name = (tag["name"] or "b").lower()
        if name not in _SCRIPTS:
            gap = " " if tag["space"] else "" if name in _INLINE else "\n\n"
            text += [original[last : tag.start()], gap]
            offsets += [*range(last, tag.start()), *[tag.start()] * len(gap)]
            last = tag.end()
    return "".join([*text, original[last:]]), [*offsets, *range(last, len(original))]


def _is_heading(line: str, following: list[str], width: int) -> bool:
    """Whether a line is a heading: a known one, or a short one without an end, before a capital."""
    bare, after = " ".join(line.split()), "".join(following).strip()
    if _HEADING_LINE.fullmatch(bare):
        return not _LOWER.match(after)
    words = bare.split()
    return (
        bare[0].isupper()
        and bare[-1].isalnum()
        and len(words) <= _LONGEST_HEADING
        and words[-1].lower() not in _UNFINISHED
        and 5 * len(bare) <= 3 * width
        and after[:1].isupper()
    )


def _sentences(text: str) -> list[tuple[int, int]]:
    """The spans of `sentence_spans`, joined where the border between two ends no sentence."""
    spans = sentence_spans(text)
    joined: list[tuple[int, int]] = []
    at = 0
    while at < len(spans):
        start, end = spans[at]
        taken = 1
        for extra in range(1, _MOST_JOINED + 1):
            if _brackets(text[start:end])[0] > 0 and at + extra < len(spans):
                further = spans[at + extra][1]
                if _brackets(text[start:further])[0] == 0:
                    end, taken = further, extra + 1
                    break
        before = text[max(joined[-1][0], joined[-1][1] - _TAIL) : joined[-1][1]] if joined else ""
        if joined and _continues(before, text[start:end]):
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
        at += taken
    return joined


def _continues(before: str, after: str) -> bool:
    """Whether a piece of text goes on with the sentence of the piece before it."""
    for pattern in (_DECORATED, _ENUMERATOR):
        if leading := pattern.match(after):
            after = after[leading.end() :]
    if not any(char.isalnum() for char in after):
        return False
    if _LOWER.match(after) or not _OPENS.match(after):
        return True
    stopped = _STOPPED.search(before)
    if stopped is None:
        return False
    word = re.split("[-–—/]", stopped[1].lower())[-1]
    if word in _NEVER_LAST:
        return True
    if _INITIAL.match(after) and len(word) <= 5 and word not in _SHORT_WORDS:
        return True  # N. Engl. J. Med.
    if word.isdigit() and (only := before.lower().split()) and len(only) == 2:
        return only[0] in _UNFINISHED  # In 1. January
    number = after.lstrip("\"'“‘([")[0].isdigit()
    opener = re.match(r"\W*(\w+)", after)
    starts = opener is not None and opener[1].lower() in _STARTERS
    if word.isdigit() and re.search(r"[:;,(]\s*\(?\d{1,2}\.$", before):
        return True  # the number of an item within the sentence
    return _abbreviated(word) and (number or not starts) if not number else _owns_number(word)


def _goes_on(before: str, after: str) -> bool:
    """Whether a text that ends in the middle of a sentence, as far as one can see, goes on."""
    return _ENDS.search(before[-_TAIL:]) is None or _continues(before[-_TAIL:], after)


def _abbreviated(word: str) -> bool:
    """Whether a word before a full stop may be an abbreviation that the stop belongs to."""
    return (
        (len(word) == 1 and word.isalpha())
        or word in _ABBREVIATIONS
        or re.search(r"[a-z]\.[a-z]", word) is not None  # e.g, a.m; 0.84 is a number
    )


def _owns_number(word: str) -> bool:
    """Whether a number after "WORD." may belong to that word: `max. 40`, `0. 5`, `p. 3`."""
    if word[-1].isdigit() or _abbreviated(word):
        return True
    return word.isalpha() and len(word) <= 4 and word not in _SHORT_WORDS


def _continues_block(before: str, text: str) -> bool:
    """Whether a block goes on with the sentence that the block before it leaves open."""
    if not before:
        return False
    if _ENDS.search(before[-_TAIL:]):
        return _continues(before[-_TAIL:], text)
    last = before.split()[-1].lower().strip(",;:–—-")
    heading = len(before.split()) <= _LONGEST_HEADING and before[-1] not in ",;–—-"
    if not heading or last in _UNFINISHED or len(sentence_spans(before)) > 1:
        return True
    return text[0].isdigit() and before[-1] != ":"


def _trimmed(text: str, start: int, end: int) -> tuple[int, int, bool]:
    """A sentence's span without emoji, list marker and heading; and whether it is doubtful."""
    if decorated := _DECORATED.match(text, start, end):
        start = decorated.end()
    while end > start and _DECORATED.fullmatch(text, end - 1, end):
        end -= 1
    if marker := _ENUMERATOR.match(text, start, end):
        start = marker.end()
    for pattern in (_BEFORE_COLON, _BEFORE_DASH, _BEFORE_CAPITAL, _BEFORE_NUMBER):
        if heading := pattern.match(text, start, end):
            return heading.end(), end, False
    return start, end, _DOUBTFUL.match(text, start, end) is not None


def _brackets(text: str) -> tuple[int, int]:
    """How many brackets are left open, and how many close nothing.

    The "1)" and "b)" of a list close nothing and are not counted.
    """
    depth = stray = 0
    for match in _BRACKET.finditer(text):
        if match[0] in "([":
            depth += 1
        elif depth:
            depth -= 1
        elif _LIST_NUMBER.search(text, max(0, match.start() - 5), match.end()) is None:
            stray += 1
    return depth, stray
