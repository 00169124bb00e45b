"""An error's message never reaches a log or another process: it may quote a medical text."""

from __future__ import annotations

import asyncio
import gc
import io
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from ray._common.formatters import JSONFormatter, TextFormatter
from ray.exceptions import RayTaskError

from serve_app.api.app import create_app
from serve_app.api.middleware.request_guard import BrokenOff, Traffic
from serve_app.core.errors import MetricFailed, PlainMedError
from serve_app.core.observability.log_redaction import frames, keep_texts_out
from serve_app.core.settings import load_settings
from serve_app.generation.causal.engine import TransformersGenerator
from serve_app.generation.protocol import GenerationParams, Summary
from serve_app.metrics.readability import Readability
from serve_app.serving.deployments.loss import Loss
from serve_app.serving.scheduling.compute_thread import run_batch
from tests.support.servers import LightBackend
from tests.support.tiny_models import save_model

SECRET = "Jane Roe has lupus"

LOGGERS = (
    "ray.serve",
    "asyncio",
    "uvicorn.error",
    "plainmed",
    "serve_app.generation.causal.scheduler",
)
"""Some that are given errors, and the root below."""
OTHERS = ("", "concurrent.futures", "a.library.nobody.thought.of")


class Careless(logging.Formatter):
    """As of a library that shows errors in its own way."""

    def format(self, record: logging.LogRecord) -> str:
        said = self.formatException(record.exc_info) if record.exc_info else ""
        return f"{record.getMessage()}\n{said}"


@pytest.fixture(autouse=True)
def factory() -> Iterator[None]:
    """What a test changes for the whole process, back again."""
    before = logging.getLogRecordFactory()
    yield
    logging.setLogRecordFactory(before)


@pytest.fixture(params=[logging.Formatter, JSONFormatter, TextFormatter, Careless])
def written(request: pytest.FixtureRequest) -> Iterator[io.StringIO]:
    """What a handler of Ray's, Python's or others' formatters writes."""
    keep_texts_out()
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(request.param())
    # Of the loggers above only some hand on what they are told.
    loggers = [logging.getLogger(name) for name in (*LOGGERS, "")]
    handing_on = [logger.propagate for logger in loggers]
    for logger in loggers:
        logger.propagate = False
        logger.addHandler(handler)
    yield stream
    for logger, before in zip(loggers, handing_on, strict=True):
        logger.propagate = before
        logger.removeHandler(handler)


def stumble() -> None:
    try:
        raise KeyError(SECRET)
    except KeyError as error:
        raise RuntimeError(f"cannot take {SECRET}") from error


def test_frames_have_kinds_places_and_causes_and_no_message() -> None:
    with pytest.raises(RuntimeError) as caught:
        stumble()
    text = frames(caught.value)
    assert text.index("RuntimeError") < text.index("KeyError")
    assert f"{__file__}:" in text
    assert "stumble" in text
    assert "Jane" not in text


def test_a_circle_of_causes_ends() -> None:
    one, other = ValueError("a"), ValueError("b")
    one.__cause__, other.__cause__ = other, one
    assert frames(one).count("ValueError") == 2


def test_a_logger_that_is_given_an_error_writes_its_frames(written: io.StringIO) -> None:
    for name in (*LOGGERS, *OTHERS):
        try:
            stumble()
        except RuntimeError:
            logging.getLogger(name).exception("Request failed.")
    text = written.getvalue()
    assert text.count("Request failed.") == len(LOGGERS) + len(OTHERS)
    assert "stumble" in text
    assert "Jane" not in text


def test_asked_again_it_changes_nothing(written: io.StringIO) -> None:
    before = logging.getLogRecordFactory()
    keep_texts_out()
    assert logging.getLogRecordFactory() is before
    # Ray puts its own around whatever it finds.
    logging.setLogRecordFactory(lambda *given, **named: before(*given, **named))
    keep_texts_out()
    try:
        stumble()
    except RuntimeError:
        logging.getLogger("anybody").exception("Request failed.")
    assert written.getvalue().count("RuntimeError (its message") == 1


@pytest.mark.usefixtures("one_thread")
def test_a_language_model_that_fails_writes_no_text(written: io.StringIO, tmp_path: Path) -> None:
    engine = TransformersGenerator.from_reference(
        str(save_model(tmp_path / "tiny")), system_prompt="", user_prefix="", device="cpu"
    )

    def broken(_: int) -> bool:
        raise KeyError(SECRET)  # of no kind the scheduler knows: it ends its thread

    with pytest.raises(PlainMedError) as caught:
        engine.generate([SECRET], [GenerationParams(max_new_tokens=5)], cancelled=broken)
    assert "Jane" not in caught.value.message
    text = written.getvalue()
    assert "the decoding thread failed: KeyError" in text
    assert "broken" in text
    assert "Jane" not in text


async def test_what_asyncio_says_of_a_forgotten_failure_has_no_message(
    written: io.StringIO,
) -> None:
    forgotten = asyncio.get_running_loop().create_future()
    forgotten.set_exception(ValueError(SECRET))
    del forgotten
    gc.collect()
    text = written.getvalue()
    assert "exception was never retrieved" in text
    assert "ValueError" in text
    assert "Jane" not in text


class Buggy(LightBackend):
    """Raises errors of no kind we know, whose messages quote the text."""

    async def readability(self, texts: Sequence[str]) -> list[Readability]:
        raise OSError(f"no {texts[0]}")

    async def stream(self, text: str, params: GenerationParams) -> AsyncIterator[str | Summary]:
        yield "The first piece"
        raise OSError(f"no {text}")


async def test_an_unexpected_error_is_answered_and_leaves_the_application_no_further(
    written: io.StringIO,
) -> None:
    app = create_app(Buggy(), load_settings(), Traffic())
    # Starlette hands on what it has answered; Serve would log it, so the guard must not.
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=True)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        answer = await http.post("/metrics/readability", json={"texts": [SECRET]})
        streamed = await http.post("/generate", json={"text": SECRET, "stream": True})
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "internal_error"
    assert "internal_error" in streamed.text
    assert "Jane" not in answer.text + streamed.text
    text = written.getvalue()
    assert text.count("OSError") == 2
    assert "readability" in text
    assert "Jane" not in text


async def test_an_answer_that_breaks_off_tells_the_kind_alone(written: io.StringIO) -> None:
    guard = create_app(LightBackend(), load_settings(), Traffic())

    async def broken(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise OSError(SECRET)

    guard.app = broken
    with pytest.raises(BrokenOff, match="OSError") as caught:
        await _ask(guard)
    assert "Jane" not in str(caught.value)
    assert caught.value.__suppress_context__


async def test_what_fails_before_any_route_is_a_500_in_the_one_shape(
    written: io.StringIO,
) -> None:
    guard = create_app(LightBackend(), load_settings(), Traffic())

    async def broken(scope: Any, receive: Any, send: Any) -> None:
        raise OSError(SECRET)

    guard.app = broken
    sent = await _ask(guard)
    assert sent[0]["status"] == 500
    assert b"internal_error" in sent[1]["body"]
    assert "Jane" not in written.getvalue()


async def _ask(guard: Any) -> list[Any]:
    sent: list[Any] = []
    scope = {"type": "http", "method": "POST", "path": "/loss", "headers": []}

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    await guard(scope, receive, send)
    return sent


async def test_a_failed_computation_is_told_by_its_place(written: io.StringIO) -> None:
    def work(items: Sequence[str]) -> list[str]:
        raise ValueError(items[0])

    [outcome] = await run_batch(work, [SECRET])
    assert isinstance(outcome, MetricFailed)
    assert "Jane" not in outcome.message
    assert "test_log_redaction.py" in written.getvalue()
    assert "Jane" not in written.getvalue()


class _Handle:
    """A handle of Serve's whose every call gives `answer` or raises it."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.describe = self.score = self

    def remote(self, *_: Any) -> Any:
        async def answered() -> Any:
            if isinstance(self.answer, Exception):
                raise self.answer
            return self.answer

        return answered()


def test_what_a_metric_replica_says_does_not_leave_the_loss_replica(
    written: io.StringIO,
) -> None:
    error = RayTaskError("score", f"Traceback: {SECRET}", KeyError(SECRET))

    async def scene() -> None:
        from serve_app.serving.deployments.metrics import Description

        handle: Any = _Handle(Description("m", "cpu", 1))
        loss = Loss.func_or_class.__new__(Loss.func_or_class)
        await loss.__init__(load_settings(), handle, handle, handle)
        handle.answer = error
        with pytest.raises(MetricFailed) as caught:
            await loss.evaluate([SECRET], [SECRET])
        assert "Jane" not in str(caught.value)

    asyncio.run(scene())
    assert "Jane" not in written.getvalue()
