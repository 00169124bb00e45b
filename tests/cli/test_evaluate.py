"""`plainmed evaluate`: the answer of POST /evaluate without a server."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from serve_app.core.schemas import ProfileName
from serve_app.core.settings import load_settings
from serve_app.metrics.evaluation import Evaluation
from serve_app.metrics.profiles import load_profile
from serve_app.metrics.suite import MetricSuite
from tests.support.backends import api_client
from tests.support.command import plainmed, refused
from tests.support.servers import LightBackend
from tests.support.texts import GENERATED, HUMAN, ORIGINALS

pytestmark = pytest.mark.usefixtures("in_process")


class SuiteBackend(LightBackend):
    """Scores with the metrics and targets of the settings, as the deployments do."""

    def __init__(self) -> None:
        super().__init__()
        self.settings = load_settings()
        self.suite = MetricSuite.from_settings(self.settings)

    async def evaluate(
        self,
        originals: Sequence[str],
        generated: Sequence[str],
        human: Sequence[str] | None,
        weights: Sequence[float] | None,
        profile: ProfileName,
    ) -> list[Evaluation]:
        reader = load_profile(profile, self.settings)
        measured = self.suite.measure(originals, generated)
        humans = None
        if human is not None and self.settings.loss_targets == "human":
            humans = self.suite.measure(originals, human)
        return reader.evaluate(measured, originals, generated, weights=weights, human=humans)

    async def models(self) -> dict[str, str]:
        return self.suite.models


@pytest.fixture
def texts(tmp_path: Path) -> list[Path]:
    named = {"source.txt": ORIGINALS[0], "summary.txt": GENERATED[0], "human.txt": HUMAN[0]}
    for name, text in named.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    return [tmp_path / name for name in named]


@pytest.mark.parametrize(
    ("options", "body", "targets"),
    [
        ([], {}, "corpus"),
        (["--explain"], {"explain": True}, "corpus"),
        (["--no-findings"], {"findings": False}, "corpus"),
        (["--weights", "1,0,0,0,0"], {"weights": [1, 0, 0, 0, 0]}, "corpus"),
        (["--human"], {"texts_human": [HUMAN[0]]}, "corpus"),
        (["--human"], {"texts_human": [HUMAN[0]]}, "human"),
        (["--profile", "public"], {"profile": "public"}, "corpus"),
    ],
)
async def test_the_answer_is_that_of_the_route(
    options: list[str],
    body: dict[str, Any],
    targets: str,
    texts: list[Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LOSS_TARGETS", targets)
    source, summary, human = texts
    files = [human] if "--human" in options else []
    result = plainmed("evaluate", source, summary, *options, *files)
    assert result.exit_code == 0, result.output
    async with api_client(SuiteBackend()) as client:
        asked = {"texts_original": [ORIGINALS[0]], "texts_generated": [GENERATED[0]], **body}
        answer = await client.post("/evaluate", json=asked)
    assert json.loads(result.stdout) == answer.json()


def test_a_server_may_evaluate(texts: list[Path], url: str) -> None:
    result = plainmed("evaluate", *texts[:2], "--url", url, "--explain")
    (found,) = json.loads(result.stdout)["results"]
    assert found["generated"] == GENERATED[0]
    assert found["explanation"]["sentences"]


def test_a_text_may_come_from_standard_input(texts: list[Path]) -> None:
    result = plainmed("evaluate", texts[0], "-", stdin=GENERATED[0].encode())
    assert json.loads(result.stdout)["results"][0]["generated"] == GENERATED[0]


def test_bad_texts_are_refused_by_name(texts: list[Path], tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "numbers.txt").write_text("1 2 3")
    source, summary, _ = texts
    assert "cannot read" in refused("evaluate", source, tmp_path / "none.txt")
    assert "empty.txt is empty" in refused("evaluate", tmp_path / "empty.txt", summary)
    numbers = tmp_path / "numbers.txt"
    assert "numbers.txt: the text has no word" in refused("evaluate", source, numbers)
    assert "numbers.txt: the text has no" in refused(
        "evaluate", source, summary, "--human", numbers
    )
    assert "sum to 1" in refused("evaluate", source, summary, "--weights", "1,1,1,1,1")
