"""Scores blocks on Ray Data: on this machine's cores, or unchanged on a cluster.

A dataset of block descriptions goes through two stages. Tasks read a block's texts: a path on the
driver's node, which has it, S3 on any. Actors, each with a copy of the models, score them. Only
blocks in flight are in memory. A block keeps its number all the way, so one that is computed twice
after a node was lost is still one block. Writes no file.
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
from serve_app.core.ray_folder import ray_folder
from serve_app.core.settings import Settings
from serve_app.offline.corpus.reader import Block, ByteRange, Source, read_rows
from serve_app.offline.corpus.scoring import (
    BlockResult,
    ModelNames,
    RowError,
    Scorer,
    Task,
    result_from_json,
    row_to_json,
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
    """The cluster, and the actors on it.

    Attributes:
        address: of a running cluster (`auto`, `HOST:PORT` or `ray://HOST:PORT`); None: start Ray
            on this machine and stop it at the end.
        workers: maximum number of actors, each with its own models; None: as many as fit.
        threads: CPUs and torch threads of an actor.
        gpus: GPUs of an actor; None: one where the cluster has any.
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
            ConfigError: there is no cluster, or its workers cannot load the models.
            InvalidInput: the workers cannot read the input.
            Unavailable: the cluster keeps failing.
        """
        from ray.data.exceptions import ExecutionTimeoutError
        from ray.exceptions import RayError

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
                except (RayError, ExecutionTimeoutError) as error:
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

        actors = self._actors(len(blocks))
        options: dict[str, Any] = {"num_gpus": actors.gpus} if actors.gpus else {}
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
                label_selector=_node_selector(source),
            )
            scored = read.map_batches(
                _ScoreBlocks,
                fn_constructor_kwargs={
                    "make_scorer": self._make_scorer,
                    "task": task,
                    "threads": actors.cpus,
                },
                batch_size=None,
                batch_format="pyarrow",
                compute=ActorPoolStrategy(
                    min_size=1, max_size=actors.count, initial_size=actors.count
                ),
                num_cpus=actors.cpus,
                **options,
            )
            for batch in scored.iter_batches(
                batch_size=None, batch_format="pyarrow", prefetch_batches=0
            ):
                for text in batch.column("result").to_pylist():
                    yield _result_from_json(json.loads(text))

    def _actors(self, blocks: int) -> _Actors:
        import ray

        total = ray.cluster_resources()
        gpus = self._options.gpus
        if gpus is None:
            gpus = 1.0 if total.get("GPU") else 0.0
        cpus = self._options.threads
        nodes = [node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]]
        largest = max(nodes, default=0)
        if cpus > largest and self._options.address is None:
            cpus = max(1, int(largest))
        elif cpus > largest:
            logger.warning("no node has the %d CPUs of TORCH_NUM_THREADS; waiting for one", cpus)
        fit = int(total.get("CPU", 0) // cpus)
        if gpus:
            fit = min(fit, int(total.get("GPU", 0) // gpus))
        # A cluster without room now may grow when asked to.
        count = max(1, fit) if self._options.workers is None else self._options.workers
        return _Actors(cpus, gpus, min(count, blocks))


@dataclass(frozen=True)
class _Actors:
    """CPUs and GPUs of an actor, and how many actors."""

    cpus: int
    gpus: float
    count: int


# --- the two stages ---------------------------------------------------------------------


def _read(batch: Any, source: Source, task: Task) -> Any:
    """The texts of the blocks described in a table."""
    import pyarrow as pa

    numbers, found = [], []
    for text in batch.column("block").to_pylist():
        described = json.loads(text)
        spans = tuple(ByteRange(**span) for span in described["spans"])
        block = Block(described["number"], spans)
        try:
            rows: Any = read_rows(source, block, (task.original, task.generated))
            rows = [row_to_json(row) for row in texts(rows, task)]
        except PlainMedError as error:
            rows = _fatal_to_json(error)
        numbers.append(block.number)
        # JSON: an Arrow string takes no lone surrogate, which must fail its own row only.
        found.append(json.dumps(rows))
    return pa.table({"number": numbers, "rows": pa.array(found, pa.large_string())})


class _ScoreBlocks:
    """An actor: one copy of the models."""

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
            return _fatal_to_json(self._scorer)
        rows = [RowError(**row) if isinstance(row, dict) else (row[0], row[1]) for row in found]
        try:
            result = score_block(self._scorer, self._task, number, rows)
        except PlainMedError as error:
            return _fatal_to_json(error)
        return {
            "number": result.number,
            "rows": [row_to_json(row) for row in result.rows],
            "models": result.models.to_dict(),
        }


def _fatal_to_json(error: PlainMedError) -> dict[str, Any]:
    """An error that ends the run, as data: Ray keeps only the text of an exception."""
    return {"fatal": type(error).__name__, "message": error.message}


def _result_from_json(found: Any) -> BlockResult:
    """The result of a block.

    Raises:
        PlainMedError: the worker found that the run cannot go on.
    """
    if "fatal" in found:
        kinds = {kind.__name__: kind for kind in (ConfigError, InvalidInput, Unavailable)}
        raise kinds.get(found["fatal"], ConfigError)(found["message"])
    rows = tuple(result_from_json(row) for row in found["rows"])
    return BlockResult(found["number"], rows, ModelNames.from_dict(found["models"]))


# --- Ray --------------------------------------------------------------------------------


@contextlib.contextmanager
def _connected(address: str | None) -> Iterator[None]:
    """Joins the Ray of this process, else the one at `address`, else starts one."""
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
                ray.init(
                    "local",
                    include_dashboard=False,
                    object_store_memory=2 * _STORE,
                    _temp_dir=ray_folder(),
                    **quiet,
                )
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
    """Hides the line in which Ray's C++ part reports its log level."""
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
    log.setLevel(logging.CRITICAL)  # we report ourselves what stops the run
    try:
        yield
    finally:
        context.enable_progress_bars, context.target_max_block_size = before[:2]
        context.execution_options.resource_limits = limits
        log.setLevel(before[2])


def _node_selector(source: Source) -> dict[str, str] | None:
    """Reads a path on the driver's node: others may not have it."""
    if not source.place.local:
        return None
    import ray

    return {"ray.io/node-id": ray.get_runtime_context().get_node_id()}


def _first_line(error: object) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
