"""Answers stay in proportion to their requests: a passage is sent once, and size is bounded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from serve_app.api import serializers, validation
from serve_app.core.errors import InvalidInput
from serve_app.generation.protocol import GenerationParams, Summary, SummarySentence
from serve_app.metrics.evaluation import (
    AlignScoreResult,
    BertScoreResult,
    ClaimSentence,
    Evaluation,
    Measured,
    evaluate,
)
from serve_app.metrics.readability import readability
from tests.support.backends import api_client
from tests.support.servers import LightBackend

PADDED = "Aspirin" + " " * 999_980 + "worked."
"""One sentence of a million characters."""


class Chunked(LightBackend):
    """Supports every sentence of a summary by one of the `chunks` of its original in turn."""

    def __init__(self, chunks: int = 1) -> None:
        super().__init__()
        self.chunks = chunks

    async def evaluate(
        self, originals: Sequence[str], generated: Sequence[str], *_: Any
    ) -> list[Evaluation]:
        measured = []
        for original, text in zip(originals, generated, strict=True):
            size = -(-len(original) // self.chunks)
            chunks = [original[at : at + size] for at in range(0, len(original), size)]
            sentences = tuple(
                ClaimSentence(f"{one}.", 0.5, at % len(chunks), chunks[at % len(chunks)])
                for at, one in enumerate(text.rstrip(".").split(". "))
            )
            scored = AlignScoreResult(0.5, sentences, False)
            measured.append(
                Measured(BertScoreResult(0.5, 0.5, 0.5, False, False), scored, readability(text))
            )
        return evaluate(measured, self.loss)


async def asked(backend: LightBackend, path: str = "/evaluate", **body: Any) -> Any:
    async with api_client(backend) as http:
        return await http.post(path, json=body)


@pytest.mark.parametrize("explain", [False, True])
async def test_a_passage_of_a_million_characters_is_sent_a_few_times_and_not_700(
    explain: bool,
) -> None:
    answer = await asked(
        Chunked(), texts_original=[PADDED], texts_generated=["It did. " * 700], explain=explain
    )
    assert answer.status_code == 200
    assert len(answer.content) < 6_000_000  # 700 MB once
    [result] = answer.json()["results"]
    assert result["passages"] == [PADDED]
    assert {sentence["passage_index"] for sentence in result["sentences"]} == {0}
    supports = [sentence["support"] for sentence in result["sentences"]]
    assert supports[:4] == [PADDED] * 4
    assert set(supports[4:]) == {""}


async def test_the_repeats_of_all_results_together_are_bounded() -> None:
    answer = await asked(
        Chunked(), texts_original=[PADDED] * 6, texts_generated=["It did. It was."] * 6
    )
    results = answer.json()["results"]
    assert [result["passages"] for result in results] == [[PADDED]] * 6
    repeated = sum(len(one["support"]) for result in results for one in result["sentences"])
    assert repeated <= 4_000_000


async def test_in_ordinary_answers_every_sentence_has_its_passage_as_ever() -> None:
    answer = await asked(
        Chunked(3), texts_original=["abc" * 100], texts_generated=["A. B. C. D. E."]
    )
    [result] = answer.json()["results"]
    for sentence in result["sentences"]:
        assert sentence["support"] == result["passages"][sentence["passage_index"]]
    assert len(result["passages"]) == 3


async def test_an_answer_over_the_limit_is_413_and_never_built(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(validation, "MAX_ANSWER_CHARS", 10_000)

    def build(*_: object) -> None:
        raise AssertionError("it was built")

    monkeypatch.setattr("serve_app.api.routes.scoring.evaluations_out", build)
    answer = await asked(
        Chunked(), texts_original=["A cat sat."], texts_generated=["It did. " * 200]
    )
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "answer_too_large"


class Quoting(LightBackend):
    """Writes sentences whose source is the whole original."""

    async def generate(
        self, texts: Sequence[str], params: Sequence[GenerationParams]
    ) -> list[Summary]:
        return [
            Summary("It did.", "m", sentences=(SummarySentence("It did.", text, 0),) * 10)
            for text in texts
        ]


@pytest.mark.parametrize("n", [1, 4])
async def test_the_sources_of_a_summary_are_bounded_too(n: int) -> None:
    answer = await asked(Quoting(), "/generate", texts=[PADDED] * 4, n=n)
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "answer_too_large"
    assert (await asked(Quoting(), "/generate", text=PADDED)).status_code == 200


def test_the_size_of_an_answer_is_about_what_it_is_said_to_be() -> None:
    text = "Xylophones zapped. " * 500
    item = evaluate(
        [
            Measured(
                BertScoreResult(0.5, 0.5, 0.5, False, False),
                AlignScoreResult(
                    0.5, (ClaimSentence("Xylophones zapped.", 0.5, 0, "a"),) * 500, False
                ),
                readability(text),
            )
        ],
        LightBackend().loss,
    )
    said = serializers.evaluation_chars(text, item[0], explain=False)
    [result] = serializers.evaluations_out([text], item)
    assert 0.5 < said / len(result.model_dump_json()) < 2
    with pytest.raises(InvalidInput):
        validation.check_answer(validation.MAX_ANSWER_CHARS + 1)
