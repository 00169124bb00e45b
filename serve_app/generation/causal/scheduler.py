"""Merges the rows of all calls into one batch and runs it. Knows threads and time; no text.

One thread owns the model while there is work, and ends when there is none. Between two passes
it lets new rows in, some of their prompt at a time, and rows out that were cancelled or ran
out of time. Shares take turns: one of a thousand rows does not keep one of a single row waiting.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from queue import SimpleQueue
from typing import Any

import torch

from serve_app.core.errors import FAILURES, PlainMedError
from serve_app.core.observability.log_redaction import frames
from serve_app.generation.causal.decoding import FAILED, Batch, Model, Prefill, Row, Step

logger = logging.getLogger(__name__)

PREFILL_TOKENS_CPU, PREFILL_TOKENS_GPU = 256, 2048
"""Tokens of prompts read between two tokens of the rows under way."""


class Track:
    """One row on its way through the scheduler, as its caller sees it.

    Args:
        row: what to continue.
        cancelled: asked before every token, in the scheduler's thread; True ends the row with
            reason `cancelled`.
        deadline: `time.monotonic()` from which on the row ends with reason `time`; None: never.
        tenant: whose it is; rows of one tenant wait for each other. None: a tenant of its own for
            the rows it is submitted with.
        live: whether tokens are wanted as they are written; else `wait` alone may be called.
    """

    def __init__(
        self,
        row: Row,
        *,
        cancelled: Callable[[], bool] | None = None,
        deadline: float | None = None,
        tenant: str | None = None,
        live: bool = True,
    ) -> None:
        self.row = row
        self.tenant = tenant
        self.tokens: list[int] = []
        """Written so far, without a stop token."""
        self.finish_reason: str | None = None
        self._cancelled = cancelled
        self._deadline = deadline
        self._live = live
        self._abandoned = False
        self._error: BaseException | None = None
        self._news: SimpleQueue[int | None] = SimpleQueue()

    def __iter__(self) -> Iterator[int]:
        """Tokens as they are written.

        Raises:
            PlainMedError: `generation_failed`.
        """
        while (token := self._news.get()) is not None:
            yield token
        if self._error is not None:
            raise self._error

    def wait(self) -> list[int]:
        """All tokens, once it has ended.

        Raises:
            PlainMedError: `generation_failed`.
        """
        for _ in self:
            pass
        return self.tokens

    def abandon(self) -> None:
        """Nobody waits for it any more: it ends before the next pass."""
        self._abandoned = True

    def unwanted(self) -> str | None:
        """The reason to end it now, if there is one."""
        if self._abandoned or (self._cancelled is not None and self._cancelled()):
            return "cancelled"
        if self._deadline is not None and time.monotonic() >= self._deadline:
            return "time"
        return None

    def write(self, token: int) -> None:
        """Adds a token."""
        self.tokens.append(token)
        if self._live:  # else the caller's thread would wake for nothing
            self._news.put(token)

    def end(self, reason: str, error: BaseException | None = None) -> None:
        """Says that no token follows, and why."""
        self.finish_reason, self._error = reason, error
        self._news.put(None)


class Scheduler:
    """Continues the rows of any number of threads' calls together.

    Args:
        model: a causal language model in eval mode; used by nobody else.
        stop_ids: tokens that end a row.
        pad_id: any valid token id; masked out.
        max_rows: most rows under way at once, >= 1; a recurrent model takes one.
        prefill_tokens: prompt tokens read between two passes over the rows under way, padding
            included, >= 1; None: as suits the device.
    """

    def __init__(
        self,
        model: Any,
        *,
        stop_ids: Collection[int],
        pad_id: int,
        max_rows: int,
        prefill_tokens: int | None = None,
    ) -> None:
        self._model = Model(model)
        self.max_rows = max_rows if self._model.batches else 1
        """Most rows under way at once."""
        self.passes = 0
        """Forward passes so far; stands still when nothing is wanted."""
        on_cpu = self._model.device.type == "cpu"
        self._prefill_tokens = prefill_tokens or (
            PREFILL_TOKENS_CPU if on_cpu else PREFILL_TOKENS_GPU
        )
        self._pad_id = pad_id
        self._lock = threading.Lock()
        # Shared under the lock.
        self._arrived: list[Sequence[Track]] = []
        self._thread: threading.Thread | None = None
        # Of the thread alone.
        self._batch = Batch(self._model, stop_ids)
        self._prefill: Prefill | None = None
        self._waiting: deque[deque[Track]] = deque()
        self._tracks: dict[Row, Track] = {}
        self._suspects: set[Row] = set()

    def submit(self, tracks: Sequence[Track]) -> None:
        """Starts on these rows, all of one tenant; returns at once."""
        if not tracks:
            return
        with self._lock:
            self._arrived.append(tracks)
            if self._thread is None:
                # A daemon: a row that nobody reads must not keep the interpreter from ending.
                self._thread = threading.Thread(target=self._run, name="decoding", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        try:
            while self._gather():
                with torch.inference_mode():
                    self._turn()
        except BaseException as error:
            # Nobody may wait for ever, whatever went wrong; the next call starts afresh.
            logger.error("the decoding thread failed: %s", frames(error))
            self._batch.drop(self._batch.rows)
            self._prefill = None
            self._waiting.clear()
            self._fail(list(self._tracks), error)
            with self._lock:
                arrived, self._arrived = self._arrived, []
                self._thread = None
            for tracks in arrived:
                for track in tracks:
                    track.end(FAILED, _failure(error))

    def _gather(self) -> bool:
        """Takes in what arrived; False, with the thread signed off, when there is no work."""
        with self._lock:
            for tracks in self._arrived:
                self._line_of(tracks[0].tenant).extend(tracks)
                self._tracks.update((track.row, track) for track in tracks)
            self._arrived.clear()
            if not self._tracks:
                self._thread = None
            return bool(self._tracks)

    def _line_of(self, tenant: str | None) -> deque[Track]:
        """Where the rows of a tenant wait; a new line at the end where there is none."""
        for line in self._waiting:
            if tenant is not None and line[0].tenant == tenant:
                return line
        self._waiting.append(deque())
        return self._waiting[-1]

    def _turn(self) -> None:
        """Some prompt tokens, then one token of every row under way."""
        self._sweep()
        if self._prefill is None:
            chosen = self._choose()
            self._prefill = Prefill(self._model, chosen, self._pad_id) if chosen else None
        if self._prefill is not None:
            self._advance(self._prefill)
            self._sweep()
        if self._batch.rows:
            try:
                self.passes += 1
                steps = self._batch.step()
            except FAILURES as error:
                self._fail(self._batch.rows, error)
                self._batch.drop(self._batch.rows)
            else:
                self._publish(steps)

    def _advance(self, prefill: Prefill) -> None:
        try:
            self.passes += 1
            complete = prefill.advance(self._prefill_tokens)
        except FAILURES as error:
            self._prefill = None
            if len(prefill.rows) == 1:
                self._fail(prefill.rows, error)
            else:  # one of them may be the cause: each again, alone
                logger.warning("a prefill of %d rows failed; one by one", len(prefill.rows))
                wanted = [row for row in prefill.rows if row in self._tracks]
                self._suspects.update(wanted)
                self._waiting.extendleft(deque([self._tracks[row]]) for row in wanted)
            return
        if not complete:
            return
        self._prefill = None
        try:
            self._publish(self._batch.join(prefill))
        except FAILURES as error:  # a cache half joined is of no use to anybody
            self._fail([*prefill.rows, *self._batch.rows], error)
            self._batch.drop(self._batch.rows)

    def _sweep(self) -> None:
        """Ends the rows nobody wants any more."""
        ended = {row: reason for row, track in self._tracks.items() if (reason := track.unwanted())}
        if not ended:
            return
        for row, reason in ended.items():
            self._finish(row, reason)
        self._batch.drop(ended.keys())
        for tracks in self._waiting:
            for track in [track for track in tracks if track.row in ended]:
                tracks.remove(track)
        self._waiting = deque(tracks for tracks in self._waiting if tracks)
        if self._prefill is not None and not any(row in self._tracks for row in self._prefill.rows):
            self._prefill = None

    def _choose(self) -> list[Row]:
        """Rows to read the prompts of next: the tenants' first, in turns."""
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
            tracks = self._waiting.popleft()
            chosen.append(tracks.popleft().row)
            suspect = row in self._suspects
            # Its equals come along: their prompt is read once for all of them.
            while (
                not suspect and tracks and tracks[0].row.prompt == row.prompt and len(chosen) < room
            ):
                chosen.append(tracks.popleft().row)
            if tracks:
                self._waiting.append(tracks)
            if suspect:
                break
        return chosen

    def _publish(self, steps: Sequence[Step]) -> None:
        for step in steps:
            track = self._tracks.get(step.row)
            if track is None:  # ended while its prompt was read
                self._batch.drop([step.row])
                continue
            if step.token is not None:
                track.write(step.token)
            if step.finish_reason == FAILED:
                self._finish(step.row, FAILED, _not_finite())
            elif step.finish_reason is not None:
                self._finish(step.row, step.finish_reason)

    def _fail(self, rows: Sequence[Row], error: BaseException) -> None:
        # Only the kind: the message of a library may quote the text.
        logger.error("decoding failed: %s", type(error).__name__)
        for row in rows:
            if row in self._tracks:
                self._finish(row, FAILED, _failure(error))

    def _finish(self, row: Row, reason: str, error: BaseException | None = None) -> None:
        self._suspects.discard(row)
        self._tracks.pop(row).end(reason, error)


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
