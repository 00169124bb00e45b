"""Rule `abbreviations`: each is explained at its first use, by the source's own words or by those
that medicine always means; one that nobody explains keeps its sentence out.

Works on the sentences of a summary together, since only together there is a first use.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from serve_app.generation.plain.facts import Facts
from serve_app.generation.plain.grammar import tidied
from serve_app.text.jargon import abbreviations

_MEANT = {
    "ADHD": "attention deficit hyperactivity disorder",
    "AUC": "area under the curve",
    "BMI": "body mass index",
    "BP": "blood pressure",
    "CABG": "coronary artery bypass surgery",
    "CBT": "cognitive behavioural therapy",
    "COPD": "chronic obstructive pulmonary disease",
    "CPAP": "continuous positive airway pressure",
    "CVD": "cardiovascular disease",
    "DVT": "deep vein thrombosis",
    "ECG": "electrocardiogram",
    "EEG": "electroencephalogram",
    "FDA": "Food and Drug Administration",
    "GP": "general practitioner",
    "HBV": "hepatitis B virus",
    "HCV": "hepatitis C virus",
    "HDL": "high-density lipoprotein",
    "HPV": "human papillomavirus",
    "HRQoL": "health-related quality of life",
    "HRQOL": "health-related quality of life",
    "HRT": "hormone replacement therapy",
    "ICU": "intensive care unit",
    "ICUs": "intensive care units",
    "ICSI": "intracytoplasmic sperm injection",
    "IUD": "intrauterine device",
    "IVF": "in vitro fertilisation",
    "LDL": "low-density lipoprotein",
    "MRI": "magnetic resonance imaging",
    "NICE": "National Institute for Health and Care Excellence",
    "NHS": "National Health Service",
    "NICU": "neonatal intensive care unit",
    "NSAID": "non-steroidal anti-inflammatory drug",
    "OCD": "obsessive compulsive disorder",
    "PTSD": "post-traumatic stress disorder",
    "QoL": "quality of life",
    "QOL": "quality of life",
    "RCT": "randomised controlled trial",
    "SSRI": "selective serotonin reuptake inhibitor",
    "STI": "sexually transmitted infection",
    "UTI": "urinary tract infection",
    "VAS": "visual analogue scale",
    "WHO": "World Health Organization",
    "LMIC": "low- and middle-income country",
    "LMICs": "low- and middle-income countries",
    "VTE": "venous thromboembolism",
    "TNF": "tumour necrosis factor",
    "TB": "tuberculosis",
    "ACE": "angiotensin-converting enzyme",
    "ARB": "angiotensin receptor blocker",
    "SBP": "systolic blood pressure",
    "DBP": "diastolic blood pressure",
    "HbA1c": "glycated haemoglobin",
    "T2DM": "type 2 diabetes",
    "LMWH": "low-molecular-weight heparin",
    "UFH": "unfractionated heparin",
    "VEGF": "vascular endothelial growth factor",
    "MTX": "methotrexate",
    "IU": "international units",
    "FEV1": "forced expiratory volume in one second",
    "RSV": "respiratory syncytial virus",
    "VLDL": "very low-density lipoprotein",
    "PET": "positron emission tomography",
    "GnRH": "gonadotropin-releasing hormone",
    "hCG": "human chorionic gonadotropin",
    "TENS": "transcutaneous electrical nerve stimulation",
    "IOP": "intraocular pressure",
    "PUFA": "polyunsaturated fatty acid",
    "COX": "cyclo-oxygenase",
    "ECT": "electroconvulsive therapy",
}
_MEANT_WHERE = {
    "AF": ("atrial fibrillation", "fibrillat"),
    "OA": ("osteoarthritis", "arthrit|knee|hip"),
    "ASD": ("autism spectrum disorder", "autis"),
    "NEC": ("necrotising enterocolitis", "preterm|neonat"),
    "ACS": ("acute coronary syndrome", "coronary|infarction"),
    "LBP": ("low back pain", "back"),
    "MCI": ("mild cognitive impairment", "dement|Alzheimer"),
    "AD": ("Alzheimer's disease", "Alzheimer"),
    "PDA": ("patent ductus arteriosus", "ductus|indomethacin"),
    "RA": ("rheumatoid arthritis", "arthritis"),
    "AMD": ("age-related macular degeneration", "macula|neovascular"),
    "CF": ("cystic fibrosis", "fibrosis"),
    "BPD": ("bronchopulmonary dysplasia", "preterm|neonat"),
    "MS": ("multiple sclerosis", "sclerosis"),
    "PPH": ("postpartum haemorrhage", "birth|labour"),
    "ICH": ("intracerebral haemorrhage", "brain|cerebr|stroke"),
    "ART": ("antiretroviral therapy", "antiretrovir"),
    "ICS": ("inhaled corticosteroid", "asthma|COPD"),
    "OCT": ("optical coherence tomography", "retina|glaucoma|macula"),
    "CIN": ("cervical intraepithelial neoplasia", "cervi"),
    "IOL": ("intraocular lens", "cataract|lens"),
    "PE": ("pulmonary embolism", "embol|thrombo"),
    "MI": ("myocardial infarction", "infarct|coronary|cardiovasc"),
    "HF": ("heart failure", "heart"),
    "CHD": ("coronary heart disease", "coronary|cardiovasc"),
    "CKD": ("chronic kidney disease", "kidney|renal"),
    "AMS": ("acute mountain sickness", "altitude|mountain"),
    "ED": ("emergency department", "emergency"),
    "TXA": ("tranexamic acid", "tranexamic|bleed"),
    "LABA": ("long-acting beta-agonist", "asthma|COPD"),
}
"""Those with several senses: meant where the source has one of these words."""

_ARTICLE = re.compile(r"\b([Aa])n?(\s)$")
_LEAST_USES, _LEAST_WORDS = 3, 3  # from which the short form is kept after its explanation


def meaning(short: str, facts: Facts) -> str | None:
    """The long form of an abbreviation, singular or plural as it is; None if nothing explains it.

    >>> meaning("NSAIDs", Facts("")), meaning("XYZ", Facts(""))
    ('non-steroidal anti-inflammatory drugs', None)
    """
    for table in (facts.abbreviations, _in_context(facts.text), _MEANT):
        if short in table:
            return table[short]
        if short.endswith("s") and short[:-1] in table:
            long = table[short[:-1]]
            return long if long.endswith("s") and not long.endswith("ss") else _plural(long)
        if f"{short}s" in table and table[f"{short}s"].endswith("s"):
            long = table[f"{short}s"]
            return f"{long[:-3]}y" if long.endswith("ies") else long[:-1]
    return None


@lru_cache(64)
def _in_context(source: str) -> dict[str, str]:
    return {
        short: long
        for short, (long, words) in _MEANT_WHERE.items()
        if re.search(rf"\b(?:{words})", source, re.I)
    }


def _plural(long: str) -> str:
    if re.search(r"[^aeiou]y$", long):
        return f"{long[:-1]}ies"
    return f"{long}es" if re.search(r"(?:s|x|ch|sh)$", long) else f"{long}s"


def without_needless(sentence: str, facts: Facts) -> str | None:
    """The sentence with each abbreviation that its own words explain left out, so that every use is
    the short form alone; None if one stays that nothing explains.

    >>> facts = Facts("Deep vein thrombosis (DVT) is.")
    >>> without_needless("Deep vein thrombosis (DVT) was rare.", facts)
    'DVT was rare.'
    >>> without_needless("XYZ was rare.", Facts("")) is None
    True
    """
    for short, long in sorted(facts.abbreviations.items(), key=lambda one: -len(one[1])):
        name = re.escape(short)
        written = re.compile(
            rf"(?<![\w-]){re.escape(long)}s? \((?:or )?[‘'\"“]?"
            rf"({name})[’'\"”]?(?:[;,] ([^()]+))?\)",
            re.I,
        )
        sentence = written.sub(lambda m: m[1] + (f" ({m[2]})" if m[2] else ""), sentence)
        sentence = re.sub(rf"(?<![\w-]){name} \({re.escape(long)}\)", short, sentence)
    # An abbreviation in brackets that nothing uses: "not otherwise specified (NOS)".
    for match in reversed(abbreviations(sentence)):
        if meaning(match[0], facts) is None:
            before, after = sentence[: match.start()], sentence[match.end() :]
            if not (before.endswith("(") and after.startswith(")")):
                return None
            sentence = tidied(f"{before}{after}")
    return sentence


def explained(texts: Sequence[str], facts: Facts) -> list[str]:
    """The sentences of a summary with each abbreviation written out, or explained at its first use
    where it is long and comes again and again.

    >>> explained(["A DVT was rare."], Facts(""))
    ['A deep vein thrombosis was rare.']
    """
    uses: dict[str, int] = {}
    for text in texts:
        for match in abbreviations(text):
            stem = match[0].rstrip("s")
            uses[stem] = uses.get(stem, 0) + 1
    kept = {
        stem
        for stem, count in uses.items()
        for long in (meaning(stem, facts) or meaning(f"{stem}s", facts) or "",)
        if count >= _LEAST_USES and len(re.split(r"[\s-]", long)) >= _LEAST_WORDS
    }
    seen: set[str] = set()
    return [_written_out(text, facts, kept, seen) for text in texts]


def _written_out(text: str, facts: Facts, kept: set[str], seen: set[str]) -> str:
    out = ""
    last = 0
    for match in abbreviations(text):
        short, long = match[0], meaning(match[0], facts)
        if long is None:
            continue
        gap, after = text[last : match.start()], text[match.end() : match.end() + 1]
        stem = short.rstrip("s")
        compound = after == "-" or gap.endswith("-")
        if stem in seen:  # explained with its short form
            said = short
        elif compound:
            word = re.match(r"[\w-]*", text[match.end() :])
            extent = word.end() if word else 0
            said = f"{short}{text[match.end() : match.end() + extent]} ({short} means {long})"
            seen.add(stem)
            out, last = f"{out}{gap}{said}", match.end() + extent
            continue
        else:
            said = f"{long} ({short})" if stem in kept else long
            if stem in kept:
                seen.add(stem)
            if not (out + gap).strip():
                said = said[0].upper() + said[1:]
            if article := _ARTICLE.search(gap):
                vowel = said[0].lower() in "aeiou" and not re.match(r"uni|use|eu|one", said, re.I)
                gap = f"{gap[: article.start()]}{article[1]}{'n' if vowel else ''}{article[2]}"
        out, last = f"{out}{gap}{said}", match.end()
    return out + text[last:]
