"""Word lists the claim edits use: opposites, equal words, and small word classes of English."""

from __future__ import annotations


def _list(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


AUXILIARIES = _set("""
's are be been can could did do does had has have is may might must should was were will would
""")
VERBS = _set("""
added admitted announced appeared asked assessed beat became began believes called came caused
claimed compared contributed died examined found gave gets got held helped hopes identified
improved included includes increased investigated joined kept killed led left lost made makes
measured met moved needs occurred plans played provided provides ran received reduced released
remains reported required resulted said saw says scored seems showed shows suffered suggested
takes tested thinks told took used wants went won
""")
PREPOSITIONS = _list("""
in at on during after before for with from by among since near against across over through under
into within between
""")
CLAUSE_WORDS = _list("""
and but which who where while because that when as including with although saying adding making
""")
PRONOUNS = _set("""
all both he her his i it its most one she some such that their there these they this those we
which who you
""")
PRONOUN_SWAPS = {
    "he": "she",
    "she": "he",
    "his": "her",
    "her": "his",
    "him": "her",
    "himself": "herself",
    "herself": "himself",
}
NUMBER_WORDS = _list("""
one two three four five six seven eight nine ten eleven twelve fifteen twenty thirty
""")
STOPWORDS = _set("""
a about after again against all also an and any are as at be been before being between both but
by can could did do does down during each for from further had has have he her here him his how
i if in into is it its just may might more most must no nor not of off on once only or other our
out over own same she should so some such than that the their them then there these they this
those through to too under up us very was we were what when where which who why will with would
you your
""")

_PAIRS = """
increase decrease|increases decreases|increased decreased|increasing decreasing|higher lower
high low|highest lowest|more less|more fewer|better worse|best worst|improve worsen
improves worsens|improved worsened|improving worsening|improvement deterioration
improvements deteriorations|improvement worsening|reduce increase|reduces increases
reduced increased|reducing increasing|reduction increase|reductions increases
effective ineffective|effectively ineffectively|beneficial harmful|benefit harm|benefits harms
longer shorter|long short|larger smaller|large small|greater smaller|greater lesser
better poorer|significant insignificant|significantly insignificantly|positive negative|safe unsafe
likely unlikely|above below|before after|first last|early late|earlier later|most least
with without|rise fall|rises falls|rose fell|risen fallen|win lose|wins loses|won lost
winning losing|support oppose|supports opposes|supported opposed|success failure
successful unsuccessful|young old|younger older|male female|males females|men women|man woman
boy girl|boys girls|father mother|son daughter|brother sister|husband wife|always never
all none|many few|common rare|strong weak|stronger weaker|faster slower|fast slow|up down
started stopped|start stop|begin end|began ended|accept reject|accepted rejected|agree disagree
agreed disagreed|allow forbid|allowed banned|open closed|opened closed|gain loss|gained lost
alive dead|born died|similar different|same different|adequate inadequate|sufficient insufficient
possible impossible|consistent inconsistent|able unable|satisfied dissatisfied|well badly
favourable unfavourable|superior inferior|prevent cause|prevents causes|prevented caused
relieve aggravate|accelerate delay|shortened prolonged|raised lowered|heavy light|major minor
severe mild|acute chronic|short-term long-term|inside outside|guilty innocent|friend enemy
buy sell|bought sold|arrived left|north south|east west|northern southern|eastern western
raise lower|raise reduce|raises lowers|raises reduces|raises decreases|raising lowering
raising reducing|raised reduced|raised decreased|increase reduce|increases lowers
increased lowered|increasing reducing|decreased raised|rises drops|rose dropped|cuts increases
slows speeds|prevents promotes|helps harms|protects endangers|worsens eases|relieves aggravates
shortens lengthens|shortened lengthened|improves impairs|improved impaired
morning evening|minimum maximum|at least at most|presence absence|included excluded|known unknown
clear unclear|certain uncertain|easy difficult|cheap expensive|rich poor|full empty|hot cold
"""


def _opposites() -> dict[str, tuple[str, ...]]:
    table: dict[str, list[str]] = {}
    for pair in _PAIRS.replace("\n", "|").split("|"):
        words = pair.split()
        if len(words) != 2:
            continue
        table.setdefault(words[0], []).append(words[1])
        table.setdefault(words[1], []).append(words[0])
    return {word: tuple(others) for word, others in table.items()}


OPPOSITES = _opposites()
"""Word -> words that say the opposite, both ways round."""

_EQUALS = """
participants=people=patients|trials=studies|studies=trials|randomised controlled trials=studies
randomized controlled trials=studies|RCTs=randomised trials=studies|efficacy=effectiveness
adverse events=side effects=adverse effects|adverse effects=side effects|children=kids
side effects=adverse effects|mortality=death|deaths=mortality|approximately=about|about=around
myocardial infarction=heart attack|hypertension=high blood pressure|determine=find out
demonstrated=showed|showed=demonstrated|reported=described|identified=found|included=took in
insufficient=not enough|however=but|physicians=doctors|pharmacological=drug|therapy=treatment
treatment=therapy|treatments=therapies|intervention=treatment|interventions=treatments
improve=better|reduce=lower|reduced=lowered|increased=raised|decrease=fall|beneficial=helpful
compared with=compared to|compared to=compared with|versus=compared with|assess=evaluate
evaluate=assess|assessed=evaluated|infants=babies|administered=given|received=were given
postoperative=after surgery|quality of life=wellbeing|limited=little|suggests=indicates
suggest=indicate|large=big|big=large|said=stated=told reporters|told=said to|purchase=buy
killed=left dead|began=started|started=began|begin=start|use=make use of|used=made use of
whether=if|obtain=get|obtained=got|require=need|requires=needs|required=needed|help=aid
attempt=try|attempted=tried|numerous=many|while=whereas|because=since|also=as well
reduces=lowers=decreases=cuts|lowers=reduces=decreases|lowered=reduced=decreased
decreases=reduces=lowers|decreased=reduced=lowered|reduced=decreased=cut|reducing=lowering
reducing=decreasing|increases=raises|raises=increases|raised=increased|increasing=raising
improves=betters|improved=made better|relieves=eases|prevents=stops|prevented=stopped
causes=leads to|caused=led to|worsened=became worse
higher=greater|greater=higher|fewer=a smaller number of|longer=lengthier|no evidence=no proof
did not differ=was no different|had no effect=made no difference|occurred=happened
died=lost their lives|most=the majority of|common=frequent|rare=uncommon
frequent=common|severe=serious|serious=severe
police=officers|film=movie|movie=film|car=vehicle|injured=hurt|hurt=injured|company=firm
firm=company|government=authorities|children=youngsters|doctors=physicians|ill=sick|sick=ill
"""


def _synonyms() -> dict[str, tuple[str, ...]]:
    table: dict[str, tuple[str, ...]] = {}
    for group in _EQUALS.strip().replace("\n", "|").split("|"):
        word, *equal = group.split("=")
        table[word] = tuple(dict.fromkeys((*table.get(word, ()), *equal)))
    return table


SYNONYMS = _synonyms()
"""Word or phrase -> words that say the same."""
