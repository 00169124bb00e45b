"""The language of a text: found in prose, never guessed from lists, headings or scraps."""

from __future__ import annotations

import pytest

from serve_app.core.errors import InvalidInput
from serve_app.metrics.suite import MetricSuite
from serve_app.text.language import check_languages, language_of, other_language
from tests.support.texts import GENERATED, ORIGINALS

# The same two statements: a trial's result, and a negative one.
PROSE = {
    "en": "Aspirin lowered the risk of a heart attack but caused more bleeding. It is unclear "
    "whether the treatment helps children.",
    "es": "La aspirina redujo el riesgo de infarto, pero aumentó las hemorragias. Se desconoce si "
    "el tratamiento ayuda a los niños.",
    "fr": "L'aspirine a réduit le risque d'infarctus mais augmenté les saignements. On ignore si "
    "le traitement aide les enfants.",
    "de": "Aspirin senkte das Risiko eines Herzinfarkts, führte aber zu mehr Blutungen. Ob die "
    "Behandlung Kindern hilft, ist nicht bekannt.",
    "it": "L'aspirina ha ridotto il rischio di infarto ma ha aumentato i sanguinamenti. Non è noto "
    "se il trattamento aiuti i bambini.",
    "pt": "A aspirina reduziu o risco de enfarte, mas aumentou as hemorragias. Não se sabe se o "
    "tratamento ajuda as crianças.",
    "nl": "Aspirine verlaagde het risico op een hartinfarct maar gaf meer bloedingen. Het is niet "
    "bekend of de behandeling kinderen helpt.",
    "pl": "Aspiryna zmniejszyła ryzyko zawału, ale zwiększyła liczbę krwawień. Nie wiadomo, czy "
    "leczenie pomaga dzieciom.",
    "sv": "Aspirin minskade risken för hjärtinfarkt men ökade blödningarna. Det är okänt om "
    "behandlingen hjälper barn.",
    "ru": "Аспирин снизил риск инфаркта, но увеличил число кровотечений. Неизвестно, помогает ли "
    "лечение детям.",
    "zh": "阿司匹林降低了心脏病发作的风险，但增加了出血。尚不清楚这种治疗对儿童是否有帮助。",
    "ar": "خفض الأسبرين خطر النوبة القلبية لكنه زاد النزيف. من غير المعروف ما إذا كان العلاج يساعد "
    "الأطفال.",
}

NO_PROSE = [
    "",
    "...",
    "123 456 789",
    "Background",
    "Diabetes mellitus",
    "Calidad de la evidencia",
    "Amoxicillin 500 mg",
    "RR 0.68, 95 % CI 0.55 to 0.84; I2 = 43 %; n = 1,204",
    "Aspirin, metformin, simvastatin, ramipril, bisoprolol, furosemide, omeprazole",
    "Adalimumab, bevacizumab, cetuximab, denosumab, eculizumab, golimumab, infliximab, rituximab",
    "Clostridium difficile, Escherichia coli, Klebsiella pneumoniae, Pseudomonas aeruginosa",
    "arteria carotis communis, vena jugularis interna, nervus vagus, musculus biceps brachii",
    "Müller H, Schmidt K, García M, Rossi P, Dupont J, van den Berg A, Nowak W",
    "Patient: 65 y/o M, c/o SOB, PMH CAD, HTN, DM2.",
    "https://www.example.org/es/la-salud https://www.example.org/fr/la-sante-de-tous",
    *("word " * count for count in (50, 2000, 100_000)),
    "pain relief " * 9_000,
    "a" * 100_000,
]


@pytest.mark.parametrize("language", PROSE)
def test_two_sentences_of_prose_have_their_language(language: str) -> None:
    assert language_of(PROSE[language]) == language
    assert language_of(PROSE[language].upper()) in (language, None)
    assert other_language(PROSE[language]) == (None if language == "en" else language)


@pytest.mark.parametrize("text", NO_PROSE, ids=range(len(NO_PROSE)))
def test_scraps_lists_and_tables_have_no_language(text: str) -> None:
    assert language_of(text) is None


def test_foreign_names_do_not_make_a_text_foreign() -> None:
    text = (
        "A study by the Deutsche Diabetes Gesellschaft and the Société Francophone du Diabète "
        "found no difference in how long people lived in Baden-Baden, La Paz and Rio de Janeiro."
    )
    assert other_language(text) is None


@pytest.mark.parametrize("separator", [" ", "\n\n"])
def test_half_of_each_language_is_neither(separator: str) -> None:
    assert language_of(PROSE["es"] * 3 + separator + PROSE["en"] * 3) is None


def test_a_sentence_in_english_leaves_a_long_text_in_its_language() -> None:
    assert language_of(PROSE["es"] * 10 + PROSE["en"]) == "es"
    assert language_of(PROSE["en"] * 10 + PROSE["es"]) == "en"


def test_human_and_generated_english_is_never_called_foreign() -> None:
    assert not [text for text in (*ORIGINALS, *GENERATED) if other_language(text)]


def test_the_check_refuses_by_field_warns_or_does_not_look() -> None:
    texts = [PROSE["en"], "Background", PROSE["es"]]
    assert check_languages(texts, "texts") == ["en", None, "es"]
    assert check_languages(texts, "texts", "off") == [None, None, None]
    with pytest.raises(
        InvalidInput, match=r"not English .*: es\), .*LANGUAGE_CHECK=warn"
    ) as caught:
        check_languages(texts, "texts", "refuse")
    assert (caught.value.field, caught.value.code) == ("texts[2]", "not_english")
    assert check_languages(texts[:2], "texts", "refuse") == ["en", None]


def test_a_suite_says_both_languages_or_refuses(tiny_suite: MetricSuite) -> None:
    pairs = [PROSE["es"], PROSE["en"]], [PROSE["en"], PROSE["de"]]
    first, second = tiny_suite.measure(*pairs)
    assert (first.original_language, first.language) == ("es", "en")
    assert (second.original_language, second.language) == ("en", "de")
    parts = tiny_suite.relevance, tiny_suite.factuality
    (unseen,) = MetricSuite(*parts, "off").measure([PROSE["es"]], [PROSE["es"]])
    assert (unseen.original_language, unseen.language) == (None, None)
    assert unseen.values == tiny_suite.measure([PROSE["es"]], [PROSE["es"]])[0].values
    with pytest.raises(InvalidInput) as caught:
        MetricSuite(*parts, "refuse").measure(*pairs)
    assert (caught.value.code, caught.value.field) == ("not_english", "texts_generated[1]")
