"""Continuous batching: the rows of all calls run in one batch. Knows threads and time; no text.

One thread owns the model while there is work, and ends when there is none. Between two passes it
admits new rows, a part of their prompt at a time, and drops those that were cancelled or ran out of
time. Tenants take turns: a thousand rows of one do not keep a single row of another waiting.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, field
from itertools import chain
from queue import SimpleQueue
from typing import Any

import torch

from serve_app.core.errors import FAILURES, PlainMedError
from serve_app.core.observability.log_redaction import frames
from serve_app.generation.causal.decoding import FAILED, Batch, Prefill, Row, Step, as_model

logger = logging.getLogger(__name__)

PREFILL_TOKENS_CPU, PREFILL_TOKENS_GPU = 256, 2048
"""Prompt tokens read between two tokens of the running rows."""


@dataclass(eq=False)
class SequenceStream:
    """The tokens of one row, for the caller that waits for them.

    Attributes:
        row: what to continue.
        cancelled: polled before every token, in the scheduler's thread; True ends the row with
            reason `cancelled`.
        deadline: `time.monotonic()` at which the row ends with reason `time`; None: never.
        tenant: owner of the row; rows of one tenant queue behind each other. None: the rows
            submitted together are a tenant of their own.
        live: whether tokens are read as they are written; else only `wait` may be called.
        tokens: written so far, without a stop token.
        finish_reason: why it ended; None until then.
    """

    row: Row
    _: KW_ONLY
    cancelled: Callable[[], bool] | None = None
    deadline: float | None = None
    tenant: str | None = None
    live: bool = True
    tokens: list[int] = field(default_factory=list, init=False)
    finish_reason: str | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self._dropped = False
        self._error: BaseException | None = None
        self._queue: SimpleQueue[int | None] = SimpleQueue()

    def __iter__(self) -> Iterator[int]:
        """Tokens as they are written.

        Raises:
            PlainMedError: `generation_failed`.
        """
        while (token := self._queue.get()) is not None:
            yield token
        if self._error is not None:
            raise self._error

    def wait(self) -> list[int]:
        """All tokens, once it has ended; raises as iterating does."""
        deque(self, maxlen=0)
        return self.tokens

    def cancel(self) -> None:
        """Ends the row before the next pass."""
        self._dropped = True

    def end_reason(self) -> str | None:
        """Why the row must end now, if it must."""
        if self._dropped or (self.cancelled is not None and self.cancelled()):
            return "cancelled"
        if self.deadline is not None and time.monotonic() >= self.deadline:
            return "time"
        return None

    def write(self, token: int) -> None:
        """Adds a token."""
        self.tokens.append(token)
        if self.live:  # else it would wake the caller's thread for nothing
            self._queue.put(token)

    def end(self, reason: str, error: BaseException | None = None) -> None:
        """Records that no token follows, and why."""
        self.finish_reason, self._error = reason, error
        self._queue.put(None)


class Scheduler:
    """Runs the rows of all threads' calls in one batch.

    Args:
        model: a causal language model in eval mode, as `as_model` takes it; used by nobody else.
        stop_ids: tokens that end a row.
        max_rows: most rows running at once, >= 1; a recurrent model takes one.
        prefill_tokens: prompt tokens read between two passes over the running rows, padding
            included, >= 1; None: as suits the device.
        lookup: see `Batch`.
    """

    def __init__(
        self,
        model: Any,
        *,
        stop_ids: Collection[int],
        max_rows: int,
        prefill_tokens: int | None = None,
        lookup: bool = True,
    ) -> None:
        self._model = as_model(model)
        self.max_rows = max_rows if self._model.batches else 1
        """Most rows running at once."""
        self.passes = 0
        """Forward passes so far."""
        on_cpu = self._model.device.type == "cpu"
        self._prefill_tokens = prefill_tokens or (
            PREFILL_TOKENS_CPU if on_cpu else PREFILL_TOKENS_GPU
        )
        self._lock = threading.Lock()
        # Shared under the lock.
        self._arrived: list[Sequence[SequenceStream]] = []
        self._thread: threading.Thread | None = None
        # Owned by the thread.
        self._batch = Batch(self._model, stop_ids, lookup=lookup)
        self._prefill: Prefill | None = None
        self._waiting: deque[deque[SequenceStream]] = deque()
        self._streams: dict[Row, SequenceStream] = {}
        self._suspects: set[Row] = set()

    def submit(self, streams: Sequence[SequenceStream]) -> None:
        """Queues these rows, all of one tenant, and returns at once."""
        if not streams:
            return
        with self._lock:
            self._arrived.append(streams)
            if self._thread is None:
                # A daemon: a row that nobody reads must not keep the interpreter alive.
                self._thread = threading.Thread(target=self._run, name="decoding", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        try:
            while self._admit():
                with torch.inference_mode():
                    self._step()
        except BaseException as error:
            # No caller may wait for ever, whatever went wrong; the next call starts afresh.
            logger.error("the decoding thread failed: %s", frames(error))
            self._batch.drop(self._batch.rows)
            self._prefill = None
            self._waiting.clear()
            self._fail(list(self._streams), error)
            with self._lock:
                arrived, self._arrived = self._arrived, []
                self._thread = None
            for stream in chain.from_iterable(arrived):
                stream.end(FAILED, _failure(error))

    def _admit(self) -> bool:
        """Queues what arrived; without work, gives up the thread and returns False."""
        with self._lock:
            for streams in self._arrived:
                self._queue_of(streams[0].tenant).extend(streams)
                self._streams.update((stream.row, stream) for stream in streams)
            self._arrived.clear()
            if not self._streams:
                self._thread = None
            return bool(self._streams)

    def _queue_of(self, tenant: str | None) -> deque[SequenceStream]:
        """The waiting rows of a tenant; a new queue behind the others where it has none."""
        for queue in self._waiting:
            if tenant is not None and queue[0].tenant == tenant:
                return queue
        self._waiting.append(deque())
        return self._waiting[-1]

    def _step(self) -> None:
        """Reads some prompt tokens, then writes on every running row."""
        self._end_unwanted()
        if self._prefill is None and (rows := self._next_prompts()):
            self._prefill = Prefill(self._model, rows)
        if self._prefill is not None:
            self._advance_prefill(self._prefill)
            self._end_unwanted()
        if self._batch.rows:
            try:
                self.passes += 1
                self._deliver(self._batch.step())
            except FAILURES as error:
                self._fail(self._batch.rows, error)
                self._batch.drop(self._batch.rows)

    def _advance_prefill(self, prefill: Prefill) -> None:
        try:
            self.passes += 1
            complete = prefill.advance(self._prefill_tokens)
        except FAILURES as error:
            self._prefill = None
            if len(prefill.rows) == 1:
                self._fail(prefill.rows, error)
            else:  # one of them may be the cause: retry each alone
                logger.warning("a prefill of %d rows failed; retrying each", len(prefill.rows))
                wanted = [row for row in prefill.rows if row in self._streams]
                self._suspects.update(wanted)
                self._waiting.extendleft(deque([self._streams[row]]) for row in wanted)
            return
        if not complete:
            return
        self._prefill = None
        try:
            self._deliver(self._batch.join(prefill))
        except FAILURES as error:  # a half-joined cache is useless
            self._fail([*prefill.rows, *self._batch.rows], error)
            self._batch.drop(self._batch.rows)

    def _end_unwanted(self) -> None:
        """Ends the rows that were cancelled or are out of time."""
        ended = {row: why for row, stream in self._streams.items() if (why := stream.end_reason())}
        if not ended:
            return
        for row, reason in ended.items():
            self._finish(row, reason)
        self._batch.drop(ended.keys())
        left = (deque(one for one in queue if one.row not in ended) for queue in self._waiting)
        self._waiting = deque(queue for queue in left if queue)
        if self._prefill is not None and not any(
            row in self._streams for row in self._prefill.rows
        ):
            self._prefill = None

    def _next_prompts(self) -> list[Row]:
        """The rows whose prompts to read next: the first of each tenant, in turns."""
        room = self.max_rows - len(self._batch.rows)
        chosen: list[Row] = []
        prompts: set[tuple[int, ...]] = set()
        longest = 0
        while self._waiting and len(chosen) < room:
            row = self._waiting[0][0].row
            longest = max(longest, len(row.prompt))
            padded = longest * (len(prompts) + 1)
            if chosen and (padded > self._prefill_tokens or row in self._suspects):
                break
            prompts.add(row.prompt)
            queue = self._waiting.popleft()
            chosen.append(queue.popleft().row)
            suspect = row in self._suspects
            # Equal prompts come along: they are read once.
            while (
                not suspect and queue and queue[0].row.prompt == row.prompt and len(chosen) < room
            ):
                chosen.append(queue.popleft().row)
            if queue:
                self._waiting.append(queue)
            if suspect:
                break
        return chosen

    def _deliver(self, steps: Sequence[Step]) -> None:
        for step in steps:
            stream = self._streams.get(step.row)
            if stream is None:  # ended while its prompt was read
                self._batch.drop([step.row])
                continue
            if step.token is not None:
                stream.write(step.token)
            if step.finish_reason == FAILED:
                self._finish(step.row, FAILED, _not_finite())
            elif step.finish_reason is not None:
                self._finish(step.row, step.finish_reason)

    def _fail(self, rows: Sequence[Row], error: BaseException) -> None:
        # Only the type: a library's message may quote the text.
        logger.error("decoding failed: %s", type(error).__name__)
        for row in rows:
            if row in self._streams:
                self._finish(row, FAILED, _failure(error))

    def _finish(self, row: Row, reason: str, error: BaseException | None = None) -> None:
        self._suspects.discard(row)
        self._streams.pop(row).end(reason, error)


def _failure(error: BaseException) -> PlainMedError:
    return PlainMedError(
        f"the generator's model failed ({type(error).__name__}); where memory is short, lower "
        "GENERATOR_BATCH or MAX_NEW_TOKENS",
        code="generation_failed",
    )


def _not_finite() -> PlainMedError:
    return PlainMedError(
        "the generator's logits are not finite; its weights are damaged, or "
        "GENERATOR_DTYPE=float16 overflows (use bfloat16 or float32)",
        code="generation_failed",
    )
