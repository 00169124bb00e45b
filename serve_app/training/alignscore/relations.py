"""Sentences made from scratch in which only the order of things decides: roles, order, comparison.

Each pair states one relation between two things in one wording and asks for it in another
(active and passive, `before` and `after`, `taller` and `shorter`), right or the wrong way round.
Either thing comes first as often in a true claim as in a false one, so neither the claim alone nor
the words it shares with its context give the label away. Knows words; not corpora or models.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

_PEOPLE = """
doctor|nurse|lawyer|actor|teacher|student|farmer|driver|singer|judge|manager|banker|artist|author
scientist|senator|tourist|professor|president|secretary|athlete|surgeon|patient|pharmacist|neighbour
journalist|captain|soldier|baker|midwife|researcher|man|woman|boy|girl|dog|cat|child|mother|father
"""
_NAMES = """
Anna|Ben|Carla|David|Emma|Frank|Grace|Henry|Irene|Jack|Karin|Liam|Maria|Noah|Olga|Paul|Rosa|Samuel
Tom|Vera|Walter|Germany|France|Brazil|Japan|Kenya|Canada|Arsenal|Chelsea|Liverpool|Microsoft|Google
"""
_ARMS = """
placebo|aspirin|warfarin|metformin|insulin|usual care|no treatment|surgery|exercise|radiotherapy
chemotherapy|acupuncture|ibuprofen|paracetamol|morphine|amoxicillin|psychotherapy|sertraline
a low dose|a high dose|standard care|massage|vitamin D|iron tablets|vaccination|physiotherapy
counselling|dexamethasone|prednisolone|simvastatin|the intervention|the control|early treatment
delayed treatment|laparoscopic surgery|open surgery|the new drug|the old drug|nasal spray|tablets
"""
_CONDITIONS = """
pain|fatigue|infection|depression|anxiety|high blood pressure|diabetes|obesity|inflammation|stress
poor sleep|smoking|weight loss|heart failure|stroke|kidney damage|anaemia|malnutrition|dementia
bone loss|muscle weakness|air pollution|physical inactivity|heavy drinking|low income|loneliness
headache|back pain|nausea|vitamin deficiency|gum disease|a high-fat diet|screen time|falls
"""
_OUTCOMES = """
mortality|pain|hospital stay|quality of life|blood loss|the infection rate|walking speed|body weight
blood pressure|the relapse rate|sleep quality|the risk of stroke|the number of falls|anxiety
the response rate|survival|the dropout rate|healing time|the pregnancy rate|memory
"""
_EVENTS = """
the operation|the blood test|the scan|the first dose|the second dose|the interview|the meeting
the match|the election|the war|the concert|the fire|the vaccination|the exam|the wedding|the trial
the follow-up visit|the discharge|the biopsy|the lecture|the storm|the merger|the treaty
"""
_VERBS = """
helped|called|paid|chased|praised|visited|thanked|blamed|examined|met|advised|recommended|supported
treated|hired|taught|saw/seen|beat/beaten|found|pushed|kissed|hit|attacked|defeated|replaced
followed|questioned|trained|invited|warned|photographed
"""
_DEGREES = """
taller/shorter|older/younger|faster/slower|richer/poorer|stronger/weaker|happier/sadder
louder/quieter|heavier/lighter
"""
_MERITS = """
more effective/less effective|safer/less safe|cheaper/more expensive|better/worse|superior/inferior
better tolerated/less well tolerated|more common/less common
"""


def _list(text: str) -> tuple[str, ...]:
    return tuple(text.strip().replace("\n", "|").split("|"))


PEOPLE, NAMES, ARMS = _list(_PEOPLE), _list(_NAMES), _list(_ARMS)
CONDITIONS, OUTCOMES, EVENTS = _list(_CONDITIONS), _list(_OUTCOMES), _list(_EVENTS)
VERBS, DEGREES, MERITS = _list(_VERBS), _list(_DEGREES), _list(_MERITS)


@dataclass(frozen=True)
class _Relation:
    """Wordings of one relation: `forward` says it of (a, b), `backward` the same fact, mostly with
    b named first."""

    things: tuple[str, ...]
    forward: tuple[str, ...]
    backward: tuple[str, ...]


def _verb(past: str, participle: str | None = None) -> _Relation:
    done = participle or past
    return _Relation(
        PEOPLE + NAMES,
        (
            f"{{a}} {past} {{b}}",
            f"it was {{a}} who {past} {{b}}",
            f"{{a}} was the one who {past} {{b}}",
        ),
        (f"{{b}} was {done} by {{a}}", f"{{b}} got {done} by {{a}}"),
    )


def _comparative(pair: str, things: tuple[str, ...]) -> _Relation:
    more, less = pair.split("/")
    return _Relation(
        things,
        (f"{{a}} was {more} than {{b}}", f"compared with {{b}}, {{a}} was {more}"),
        (f"{{b}} was {less} than {{a}}", f"compared with {{a}}, {{b}} was {less}"),
    )


_RELATIONS: tuple[_Relation, ...] = (
    *(_verb(*verb.split("/")) for verb in VERBS),
    *(_comparative(pair, PEOPLE + NAMES) for pair in DEGREES),
    *(_comparative(pair, ARMS) for pair in MERITS),
    *(
        _Relation(
            NAMES,
            (f"{{a}} {gave} the {thing} to {{b}}", f"{{a}} {gave} {{b}} the {thing}"),
            (f"{{b}} got the {thing} from {{a}}", f"{{b}} was {given} the {thing} by {{a}}"),
        )
        for gave, given, thing in (
            ("sold", "sold", "house"),
            ("gave", "given", "book"),
            ("sent", "sent", "letter"),
            ("lent", "lent", "money"),
        )
    ),
    _Relation(
        CONDITIONS,
        ("{a} causes {b}", "{a} leads to {b}", "{a} is a cause of {b}", "{a} brings about {b}"),
        ("{b} is caused by {a}", "{b} results from {a}", "{b} is a consequence of {a}"),
    ),
    _Relation(
        CONDITIONS,
        (
            "{a} increases the risk of {b}",
            "{a} is a risk factor for {b}",
            "{a} makes {b} more likely",
        ),
        ("the risk of {b} is increased by {a}", "{b} is more likely with {a}"),
    ),
    _Relation(
        CONDITIONS,
        ("{a} came before {b}", "{a} was followed by {b}", "first came {a}, then {b}"),
        ("{b} came after {a}", "{b} followed {a}", "{b} was preceded by {a}"),
    ),
    _Relation(
        EVENTS,
        ("{a} took place before {b}", "{a} was earlier than {b}", "{a} happened, and then {b}"),
        ("{b} took place after {a}", "{b} was later than {a}", "before {b}, there was {a}"),
    ),
    _Relation(
        ARMS,
        (
            "{a} was replaced by {b}",
            "people changed from {a} to {b}",
            "{a} was given first, then {b}",
        ),
        ("{b} replaced {a}", "people changed to {b} from {a}", "{b} was given after {a}"),
    ),
)
# Relations that hold both ways round, or neither: exchanging the two changes nothing.
_SYMMETRIC = (
    ("{a} and {b} were equally good", "{b} and {a} were equally good", "{a} was as good as {b}"),
    ("there was no difference between {a} and {b}", "{a} and {b} did not differ",
     "{b} was no different from {a}"),
    ("both {a} and {b} were studied", "{b} and {a} were studied",
     "the study looked at {a} and {b}"),
    ("{a} was compared with {b}", "{b} was compared with {a}", "the study compared {b} and {a}"),
)  # fmt: skip
_FILLERS = (
    "The study took place in two hospitals.", "Most people were over 60 years old.",
    "The weather was mild that week.", "It was reported in the local paper.",
    "Three reviewers read the reports.", "Nothing else was known about it.",
    "The results were published last year.", "Follow-up lasted twelve weeks.",
)  # fmt: skip


def _named(text: str) -> str:
    return f"the {text}" if text in PEOPLE else text


def _sentence(template: str, a: str, b: str) -> str:
    text = template.format(a=_named(a), b=_named(b))
    return text[0].upper() + text[1:] + "."


def relation_pair(rng: Random) -> tuple[str, str, bool, str]:
    """(context, claim, whether it follows, kind); half of all follow."""
    if rng.random() < 0.35:
        return _trial_pair(rng)
    true = rng.random() < 0.5
    if true and rng.random() < 0.12:
        a, b = rng.sample(ARMS, 2)
        first, second = rng.sample(rng.choice(_SYMMETRIC), 2)
        return _surrounded(_sentence(first, a, b), rng), _sentence(second, a, b), True, "symmetric"
    relation = rng.choice(_RELATIONS)
    a, b = rng.sample(relation.things, 2)
    said = rng.choice(relation.forward + relation.backward)
    asked = rng.choice(relation.forward + relation.backward)
    claim = _sentence(asked, a, b) if true else _sentence(asked, b, a)
    return _surrounded(_sentence(said, a, b), rng), claim, true, "roles"


def _surrounded(text: str, rng: Random) -> str:
    around = rng.sample(_FILLERS, rng.choice((0, 0, 1, 2)))
    at = rng.randint(0, len(around))
    return " ".join([*around[:at], text, *around[at:]])


_MORE, _LESS = ("higher", "greater"), ("lower", "smaller")
_RESULT = (
    "{O} was {d} with {a} than with {b}", "compared with {b}, {a} led to {d} {o}",
    "{O} was {d} in the {a} group than in the {b} group", "{a} led to {d} {o} than {b}",
    "people given {a} had {d} {o} than people given {b}", "with {a}, {o} was {d} than with {b}",
)  # fmt: skip
_FIGURES = (
    "{O} was {x} with {a} and {y} with {b}", "{O}: {x} ({a}) versus {y} ({b})",
    "{O} was {x} in the {a} group compared with {y} in the {b} group",
    "with {b}, {o} was {y}; with {a} it was {x}", "{O} ({a} {x}, {b} {y}) differed significantly",
)  # fmt: skip
_SAME = (
    "{O} did not differ between {a} and {b}", "there was no difference in {o} between {b} and {a}",
    "{O} was about the same with {a} and {b}", "{a} had no effect on {o} compared with {b}",
)  # fmt: skip


def _trial_pair(rng: Random) -> tuple[str, str, bool, str]:
    """A result in words or figures, and a claim about its direction, arms or figures."""
    a, b = rng.sample(ARMS, 2)
    outcome = rng.choice(OUTCOMES)
    up = rng.random() < 0.5
    low, high = sorted(rng.sample(range(3, 95), 2))
    x, y = (high, low) if up else (low, high)
    unit = rng.choice(("%", "%", " per 100", " points"))

    def fill(template: str, first: str, second: str, higher: bool, p: int, q: int) -> str:
        text = template.format(
            a=first, b=second, o=outcome, O=outcome, d=rng.choice(_MORE if higher else _LESS),
            x=f"{p}{unit}", y=f"{q}{unit}",
        )  # fmt: skip
        return text[0].upper() + text[1:] + "."

    def told(right: bool, figures: bool) -> str:
        swapped = rng.random() < 0.5
        first, second = (b, a) if swapped else (a, b)
        if figures:
            p, q = (y, x) if swapped else (x, y)
            return fill(rng.choice(_FIGURES), first, second, up, *((p, q) if right else (q, p)))
        if not right and rng.random() < 0.2:
            return fill(rng.choice(_SAME), first, second, up, x, y)
        return fill(rng.choice(_RESULT), first, second, (up ^ swapped) == right, x, y)

    true = rng.random() < 0.5
    if rng.random() < 0.12:
        context = fill(rng.choice(_SAME), a, b, up, x, y)
        claim = fill(rng.choice(_SAME), b, a, up, x, y) if true else told(True, False)
        return _surrounded(context, rng), claim, true, "no difference"
    figures = rng.random() < 0.6
    context = told(True, figures)
    # A claim in figures cannot be checked against words.
    claim = told(true, figures and rng.random() < 0.4)
    other = rng.choice([name for name in OUTCOMES if name != outcome])
    if rng.random() < 0.5:
        degree, arm = rng.choice(_MORE + _LESS), rng.choice((a, b))
        second = f"{other[0].upper()}{other[1:]} was {degree} with {arm}."
        context = f"{context} {second}" if rng.random() < 0.5 else f"{second} {context}"
    return _surrounded(context, rng), claim, true, "result"
