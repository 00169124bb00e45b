"""RowScores blocks on Ray Data: on this machine's cores, or unchanged on a cluster.

A dataset of block descriptions goes through two stages. Tasks read a block's texts; a path is
read on the driver's node, which has it, S3 from anywhere. Actors, each with one set of models,
score it. Only blocks in flight are in memory. A block's number goes with it all the way, so one
that is computed twice after a node was lost is still one block. Knows no file it writes.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from serve_app.core.errors import ConfigError, InvalidInput, PlainMedError, Unavailable
from serve_app.core.settings import Settings
from serve_app.offline.corpus.reader import Block, ByteRange, Source, read_rows
from serve_app.offline.corpus.scoring import (
    BlockResult,
    ModelNames,
    RowError,
    RowScores,
    Scorer,
    Task,
    score_block,
    texts,
)

logger = logging.getLogger(__name__)

_READERS = 4  # tasks that read at once: far more than the models need
_STORE = 256 << 20  # bytes of texts and results in flight in Ray's object store
_LARGEST = 8 << 20  # bytes Ray Data expects of one block
_STALLED_RUNS = 3  # pipelines in a row that may fail without finishing one block


@dataclass(frozen=True)
class RayOptions:
    """Where and how wide.

    Attributes:
        address: of a running cluster (`auto`, `HOST:PORT` or `ray://HOST:PORT`); None: a Ray of
            our own on this machine, stopped at the end.
        workers: most actors, each with its own models; None: as many as the cluster has room for.
        threads: CPUs and torch threads of each.
        gpus: GPUs of each; None: one where the cluster has any.
    """

    address: str | None = None
    workers: int | None = None
    threads: int = 1
    gpus: float | None = None

    @classmethod
    def of(cls, settings: Settings, address: str | None, workers: int | None) -> RayOptions:
        """Threads from TORCH_NUM_THREADS (unset: one), GPUs from DEVICE."""
        gpus = 0.0 if settings.device in ("cpu", "mps") else None
        return cls(address, workers, settings.torch_num_threads or 1, gpus)


class RayEngine:
    """An `Engine` on Ray Data.

    Args:
        make_scorer: loads the models in a worker; has to be picklable.
        options: see `RayOptions`.
    """

    name = "ray"

    def __init__(self, make_scorer: Callable[[], Scorer], options: RayOptions) -> None:
        self._make_scorer = make_scorer
        self._options = options

    def run(
        self, source: Source, blocks: Sequence[Block], task: Task
    ) -> Generator[BlockResult, None, None]:
        """Each block as it is finished, in any order, once.

        Raises:
            ConfigError: no cluster is there, or its workers cannot load the models.
            InvalidInput: the workers cannot read the input.
            Unavailable: the cluster fails again and again.
        """
        waiting = {block.number: block for block in blocks}
        stalled = 0
        with _connected(self._options.address):
            while waiting:
                before = len(waiting)
                lost: Exception | None = None
                try:
                    pipeline = self._pipeline(source, list(waiting.values()), task)
                    with contextlib.closing(pipeline):
                        for result in pipeline:
                            if waiting.pop(result.number, None) is not None:
                                yield result
                except _ray_errors() as error:
                    lost = error
                if not waiting:
                    return
                # Ray Data has already repeated what one lost worker or node explains.
                stalled = 0 if len(waiting) < before else stalled + 1
                if stalled == _STALLED_RUNS:
                    raise Unavailable(
                        f"the Ray cluster failed {_STALLED_RUNS} times without finishing a block: "
                        f"{_first_line(lost)}; what is finished is kept, so run it again"
                    ) from lost
                logger.warning("starting the pipeline again: %s", _first_line(lost))

    def _pipeline(
        self, source: Source, blocks: Sequence[Block], task: Task
    ) -> Generator[BlockResult, None, None]:
        """The results of one execution on Ray Data."""
        import pyarrow as pa
        import ray
        from ray.data import ActorPoolStrategy, TaskPoolStrategy

        size = self._size(len(blocks))
        options: dict[str, Any] = {"num_gpus": size.gpus} if size.gpus else {}
        with _quiet_data():
            plan = ray.data.from_arrow(
                [pa.table({"block": [json.dumps(asdict(block))]}) for block in blocks]
            )
            read = plan.map_batches(
                _read,
                fn_kwargs={"source": source, "task": task},
                batch_size=None,
                batch_format="pyarrow",
                compute=TaskPoolStrategy(size=min(_READERS, len(blocks))),
                num_cpus=0,  # or the scoring actors would leave it no CPU, and wait for it
                label_selector=_beside_the_driver(source),
            )
            scored = read.map_batches(
                _ScoreBlocks,
                fn_constructor_kwargs={
                    "make_scorer": self._make_scorer,
                    "task": task,
                    "threads": size.cpus,
                },
                batch_size=None,
                batch_format="pyarrow",
                compute=ActorPoolStrategy(
                    min_size=1, max_size=size.workers, initial_size=size.workers
                ),
                num_cpus=size.cpus,
                **options,
            )
            for batch in scored.iter_batches(
                batch_size=None, batch_format="pyarrow", prefetch_batches=0
            ):
                for text in batch.column("result").to_pylist():
                    yield _result_in(json.loads(text))

    def _size(self, blocks: int) -> _Size:
        import ray

        there = ray.cluster_resources()
        gpus = self._options.gpus
        if gpus is None:
            gpus = 1.0 if there.get("GPU") else 0.0
        cpus = self._options.threads
        largest = max(
            (node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]), default=0
        )
        if cpus > largest:
            if self._options.address is None:
                cpus = max(1, int(largest))
            else:
                logger.warning(
                    "no node has the %d CPUs of TORCH_NUM_THREADS; waiting for one", cpus
                )
        room = int(there.get("CPU", 0) // cpus)
        if gpus:
            room = min(room, int(there.get("GPU", 0) // gpus))
        # No room now may be a cluster that grows when it is asked to.
        workers = max(1, room) if self._options.workers is None else self._options.workers
        return _Size(cpus, gpus, min(workers, blocks))


@dataclass(frozen=True)
class _Size:
    """CPUs and GPUs of an actor, and how many actors."""

    cpus: int
    gpus: float
    workers: int


# --- the two stages ---------------------------------------------------------------------


def _read(batch: Any, source: Source, task: Task) -> Any:
    """The texts of the blocks a table describes."""
    import pyarrow as pa

    found: dict[str, list[Any]] = {"number": [], "rows": []}
    for text in batch.column("block").to_pylist():
        described = json.loads(text)
        spans = tuple(ByteRange(**span) for span in described["spans"])
        block = Block(described["number"], spans)
        rows: Any
        try:
            rows = [
                asdict(row) if isinstance(row, RowError) else row
                for row in texts(read_rows(source, block, (task.original, task.generated)), task)
            ]
        except PlainMedError as error:
            rows = _fatal_out(error)
        found["number"].append(block.number)
        # JSON: an Arrow string takes no lone surrogate, which is to be one row's error only.
        found["rows"].append(json.dumps(rows))
    return pa.table({"number": found["number"], "rows": pa.array(found["rows"], pa.large_string())})


class _ScoreBlocks:
    """An actor: one set of models."""

    def __init__(self, make_scorer: Callable[[], Scorer], task: Task, threads: int) -> None:
        import torch

        self._task = task
        self._scorer: Scorer | PlainMedError
        try:
            self._scorer = make_scorer()
        except PlainMedError as error:
            # Ray would start an actor that fails here again and again, and lose the reason.
            self._scorer = error
        torch.set_num_threads(threads)  # after the settings had their say: no more than our CPUs

    def __call__(self, batch: Any) -> Any:
        import pyarrow as pa

        numbers, rows = batch.column("number").to_pylist(), batch.column("rows").to_pylist()
        results = [self._score(*block) for block in zip(numbers, rows, strict=True)]
        return pa.table({"result": [json.dumps(result) for result in results]})

    def _score(self, number: int, text: str) -> dict[str, Any]:
        found = json.loads(text)
        if isinstance(found, dict):
            return found
        if isinstance(self._scorer, PlainMedError):
            return _fatal_out(self._scorer)
        rows = [RowError(**row) if isinstance(row, dict) else (row[0], row[1]) for row in found]
        try:
            return _result_out(score_block(self._scorer, self._task, number, rows))
        except PlainMedError as error:
            return _fatal_out(error)


def _fatal_out(error: PlainMedError) -> dict[str, Any]:
    """An error that ends the run, as data: what Ray makes of an exception keeps only its text."""
    return {"fatal": type(error).__name__, "message": error.message}


def _result_out(result: BlockResult) -> dict[str, Any]:
    return {
        "number": result.number,
        "rows": [
            asdict(row) if isinstance(row, RowError) else [row.values, row.loss]
            for row in result.rows
        ],
        "models": result.models.to_dict(),
    }


def _result_in(found: Any) -> BlockResult:
    """The result of a block.

    Raises:
        PlainMedError: the worker found that the run cannot go on.
    """
    if "fatal" in found:
        kinds = {kind.__name__: kind for kind in (ConfigError, InvalidInput, Unavailable)}
        raise kinds.get(found["fatal"], ConfigError)(found["message"])
    rows = tuple(
        RowError(**row) if isinstance(row, dict) else RowScores(tuple(row[0]), row[1])
        for row in found["rows"]
    )
    return BlockResult(found["number"], rows, ModelNames.from_dict(found["models"]))


# --- Ray --------------------------------------------------------------------------------


@contextlib.contextmanager
def _connected(address: str | None) -> Iterator[None]:
    """Ray: the one this process has joined, else the one at `address`, else one of our own."""
    import ray

    if ray.is_initialized():
        yield
        return
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    # Ray's C++ part prints its errors on our standard error; a retried one is no news there.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        with _standard_error_closed():
            if address is None:
                # Without "local" it would join whatever cluster happens to run on this machine.
                ray.init("local", include_dashboard=False, object_store_memory=2 * _STORE, **quiet)
            else:
                ray.init(address, **quiet)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError, OSError) as error:
        where = "Ray cannot start here" if address is None else f"no Ray cluster at {address!r}"
        raise ConfigError(
            f"{where}: {_first_line(error)}; --address takes auto, HOST:PORT or ray://HOST:PORT "
            "of a cluster with the same versions of Ray and Python"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _standard_error_closed() -> Iterator[None]:
    """Keeps from the terminal that Ray's C++ part tells which log level it was given."""
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


@contextlib.contextmanager
def _quiet_data() -> Iterator[None]:
    """Ray Data without its own progress bars and messages, and with little in flight."""
    from ray.data import DataContext, ExecutionResources

    context = DataContext.get_current()
    log = logging.getLogger("ray.data")
    before = (context.enable_progress_bars, context.target_max_block_size, log.level)
    limits = context.execution_options.resource_limits
    context.enable_progress_bars = False
    context.target_max_block_size = _LARGEST
    context.execution_options.resource_limits = ExecutionResources(object_store_memory=_STORE)
    log.setLevel(logging.CRITICAL)  # what stops the run, we say ourselves
    try:
        yield
    finally:
        context.enable_progress_bars, context.target_max_block_size = before[:2]
        context.execution_options.resource_limits = limits
        log.setLevel(before[2])


def _beside_the_driver(source: Source) -> dict[str, str] | None:
    """Where a path is read: other nodes may not have it."""
    if not source.place.local:
        return None
    import ray

    return {"ray.io/node-id": ray.get_runtime_context().get_node_id()}


def _ray_errors() -> tuple[type[Exception], ...]:
    from ray.data.exceptions import ExecutionTimeoutError
    from ray.exceptions import RayError

    return (RayError, ExecutionTimeoutError)


def _first_line(error: object) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0].strip() if lines else type(error).__name__
