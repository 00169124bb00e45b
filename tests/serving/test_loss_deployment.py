"""The loss deployment without Ray: what one metric's failure ends, and which models it names."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from serve_app.core.errors import InvalidInput, Unavailable
from serve_app.core.observability.tracing import Timed
from serve_app.core.settings import load_settings
from serve_app.metrics.profiles import load_profile
from serve_app.serving.deployments.loss import Loss
from serve_app.serving.deployments.metrics import Description
from serve_app.serving.remote_calls import all_of, in_pieces
from tests.support.recording import Kept
from tests.support.servers import measure

PAIR = (["A cat sat on the mat."], ["A cat sat."])


class Metric:
    """A handle of Serve's: of a metric that has a model and gives `answer()` for every pair."""

    def __init__(self, model: str, answer: Callable[[], Any]) -> None:
        self.model, self.answer = model, answer
        self.describe, self.score = _Method(self.described), _Method(self.scored)
        self.asked = self.cancelled = 0

    async def described(self, *_: Any) -> Description:
        return Description(self.model, "cpu", 1)

    async def scored(self, texts: Any, *_: Any) -> Timed[Any]:
        self.asked += 1
        try:
            return Timed([await self.answer() for _ in texts], {}, self.model, "cpu")
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


class _Method:
    def __init__(self, remote: Any) -> None:
        self.remote = remote


MEASURED = measure(PAIR[0][0], PAIR[1][0])


def metric(model: str, value: Any) -> Metric:
    async def answer() -> Any:
        return value

    return Metric(model, answer)


async def metrics() -> tuple[Metric, Metric, Metric]:
    return (
        metric("relevant", MEASURED.relevance),
        metric("factual", MEASURED.factuality),
        metric("readable", MEASURED.readability),
    )


async def made(*handles: Metric) -> Any:
    loss: Any = Loss.func_or_class.__new__(Loss.func_or_class)
    await loss.__init__(load_settings(), *handles)
    loss._telemetry = Kept()
    return loss


async def never() -> Any:
    await asyncio.Event().wait()


async def test_a_metric_that_refuses_a_text_ends_the_work_of_the_others() -> None:
    relevance, factuality, readability = await metrics()

    async def refuse() -> Any:
        raise InvalidInput("no word", field="texts_generated[0]")

    relevance.answer, readability.answer = never, never
    factuality.answer = refuse
    loss = await made(relevance, factuality, readability)
    # Each a piece of its own; eight of a metric's are under way at once.
    pairs = [[20_000 * "a "] * 20, ["A cat."] * 20]
    with pytest.raises(InvalidInput):
        await asyncio.wait_for(loss.evaluate(*pairs), 20)
    for one in (relevance, readability):
        assert one.asked == one.cancelled <= 8
    assert len(asyncio.all_tasks()) == 1


async def test_of_works_that_fail_the_first_is_told_and_none_is_left(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fail(code: str) -> None:
        raise Unavailable("no", code=code)

    with pytest.raises(Unavailable) as caught:
        await all_of([never(), fail("first"), fail("second")])
    assert caught.value.code == "first"
    assert len(asyncio.all_tasks()) == 1
    assert caplog.records == []


async def test_cancelled_it_leaves_no_work_behind() -> None:
    task = asyncio.create_task(all_of([never(), never()]))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(asyncio.all_tasks()) == 1


async def test_pieces_say_what_computed_them_the_last_where_they_differ() -> None:
    def send(part: slice) -> Callable[[], Any]:
        async def work() -> list[int]:
            name = None if part.start == 2 else f"model-{part.start}"
            return Timed([part.start], {}, name, name and "cpu")

        return work

    found = await in_pieces(send, [16_000] * 3)
    assert (found, found.model, found.device) == ([0, 1, 2], "model-1", "cpu")

    def older(part: slice) -> Callable[[], Any]:
        async def work() -> list[int]:
            return [part.start]

        return work

    plain = await in_pieces(older, [16_000] * 2)
    assert (plain, plain.model, plain.device) == ([0, 1], None, None)


async def test_a_model_that_an_update_brings_is_named_and_warned_of_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    relevance, factuality, readability = await metrics()
    loss = await made(relevance, factuality, readability)
    assert "factual" in " ".join(loss._warnings)
    factuality.model = "newer"
    for _ in range(2):
        await loss.evaluate(*PAIR)
    recorded = loss._telemetry.of("plainmed_loss")
    assert [labels["factuality_model"] for _, labels in recorded] == ["newer"] * 2
    models = {labels["model"] for _, labels in loss._telemetry.of("plainmed_score")}
    assert models == {"relevant", "newer"}
    assert sum("newer" in record.getMessage() for record in caplog.records) == 1


async def test_the_warnings_are_those_of_the_models_that_serve_now() -> None:
    relevance, factuality, readability = await metrics()
    loss = await made(relevance, factuality, readability)
    made_with = loss._loss.targets.models
    assert len((await loss.targets())[1]) == 2
    relevance.model, factuality.model = made_with["relevance"], made_with["factuality"]
    assert (await loss.targets())[1] == []

    async def broken(*_: Any) -> Description:
        raise Unavailable("no replica")

    relevance.describe.remote = broken
    assert (await loss.targets())[1] == []  # what was known


async def test_a_profile_has_its_loss_and_is_kept_out_of_the_distribution_of_the_default() -> None:
    loss = await made(*await metrics())
    source, summary = ["Of 20 people 5 had pain."], ["We saw QZX in 20 people. 5 had pain."]
    [found] = await loss.evaluate(source, summary, profile="public")
    [wanted] = load_profile("public", load_settings()).evaluate([MEASURED], source, summary)
    assert found == wanted
    assert {one.name: one.error for one in found.terms} == {"plainness": 0.5, "findings": 0.0}
    assert loss._telemetry.of("plainmed_loss") == []
    assert len(loss._telemetry.of("plainmed_score")) == 2
    [plain] = await loss.evaluate(source, summary)
    assert plain.terms == ()
    assert [value for value, _ in loss._telemetry.of("plainmed_loss")] == [plain.loss]
