"""What is asked of weights before they are used, whoever loads them and whatever for.

Four questions, the same for every model: do its files hold what they claim, does its configuration
describe a network that such files can hold, did anything go wrong while they were read, and is
every weight a finite number. Knows files, shapes and what libraries raise; knows no metric and
no generator. Nothing of a file is ever run: torch's restricted unpickler and safetensors read it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.overrides import TorchFunctionMode
from transformers import AutoConfig

from serve_app.core.documents import read_json
from serve_app.core.errors import ConfigError
from serve_app.models.zip_check import flaw

SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
"""Of files that hold weights."""

MOST_PARTS = 10_000
"""Most layers, heads, experts or labels a configuration may ask for, and the highest rank of an
adapter; each costs time and memory before its size is known."""

MOST_STEPS = 50_000
"""Most calls of torch that may describe a network: each of its parts takes one or two, and the
largest published ones a few thousand. Layers of experts multiply."""

WEIGHTS_PER_BYTE = 2
"""Most weights a file can hold in a byte: of four bits each."""

_MOST_BUFFERS = 1 << 30
"""Bytes of tables that a network makes itself, such as its positions."""

_PARTS = re.compile(
    r"(layers?|heads?|experts?|labels?|groups?|group_num|blocks?|depths?|stages?)$", re.IGNORECASE
)
_FORBIDDEN = re.compile(r"GLOBAL (\S+)")
_CONFIG = "config.json"
_ADAPTER = "adapter_config.json"

# Where transformers looks for weights, in this order: an index after the first is never read.
_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)

# Names of a config.json that make transformers read another file than those checked here.
_ELSEWHERE = ("configuration_files", "transformers_weights")

# Numbers that may be infinite: state space models say so that there is no limit.
_UNLIMITED = ("time_step_limit",)

_GET_AGAIN = "get the weights again, best as safetensors"


@contextmanager
def refusing(what: str, kind: type[ConfigError] = ConfigError) -> Iterator[None]:
    """Whatever a library raises over a file becomes one error of ours, in one line.

    Args:
        what: how its message begins, such as `cannot load the model in DIRECTORY`.
        kind: of which it is.

    Raises:
        ConfigError: of that kind; one that is raised within passes as it is.
    """
    try:
        yield
    except ConfigError:
        raise
    except BaseException as error:
        # tokenizers raises bare exceptions, Rust code panics, and a hostile file can make a parser
        # raise anything at all; only what ends a process is not about the file.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise kind(f"{what}: {reason(error)}") from error


def reason(error: BaseException) -> str:
    """What an error says, in one line and without a library's advice to trust the file."""
    forbidden = forbidden_name(error)
    if forbidden is not None:
        return (
            f"a file names {forbidden}, which is not a weight; it was not run and the file is "
            "refused. Use weights whose source you trust, best as safetensors"
        )
    if "weights_only" in str(error):  # torch goes on to say how to have it run all the same
        return "it holds something other than weights and plain values"
    if "ignore_mismatched_sizes" in str(error):  # transformers' way to say so
        return "a weight has another shape than its config.json says; use the one it belongs to"
    lines = [line.strip() for line in str(error).strip().splitlines()]
    if not lines:
        return type(error).__name__
    # A first line that only announces: what is announced is on the second.
    return " ".join(lines[: 2 if lines[0].endswith(":") else 1])[:300]


def forbidden_name(error: BaseException | None) -> str | None:
    """The class or function that a pickle named and torch did not allow; None: it was not that."""
    while error is not None:
        found = _FORBIDDEN.search(str(error))
        if found is not None:
            return found[1]
        error = error.__cause__ or error.__context__
    return None


def require_sound_files(
    place: Path, kind: type[ConfigError] = ConfigError, advice: str = _GET_AGAIN
) -> None:
    """Checks how the weights in `place` are kept; reads no weight.

    Zip files: torch writes them uncompressed. One whose members are compressed, or together are
    larger than the file, would take memory that its size does not show. Index files: transformers
    opens whatever they name, so each name must be one of the files checked here. An adapter's
    configuration: its rank is memory as well. Types: of complex numbers one half would be lost.

    Args:
        place: a file or a directory.
        kind: of the error.
        advice: what the user can do about a zip file.

    Raises:
        ConfigError: of the `kind`, naming the file.
    """
    for path in _weight_files(place):
        if path.suffix == ".safetensors":
            _require_real(path, kind)
        else:
            _require_sound_zip(path, kind, advice)
    first = next((name for name in _WEIGHTS if (place / name).is_file()), "")
    if first.endswith(".json"):
        _require_sound_index(place / first, kind)
    if (place / _ADAPTER).is_file():
        _require_sound_adapter(place / _ADAPTER, kind)


def _require_real(path: Path, kind: type[ConfigError]) -> None:
    odd = []
    with refusing(f"{path} is damaged", kind):
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 - it is no mapping
                    if file.get_slice(name).get_dtype().startswith("C"):
                        odd.append(name)
        except (SafetensorError, OSError):
            return  # loading it says more
    if odd:
        raise kind(f"{path}: {listed(odd)} hold no plain numbers; {_GET_AGAIN}")


def _require_sound_zip(path: Path, kind: type[ConfigError], advice: str) -> None:
    with refusing(f"cannot read {path}", kind):
        found = flaw(path)
    if found is not None:
        raise kind(f"{path} {found}; {advice}")


def _require_sound_index(path: Path, kind: type[ConfigError]) -> None:
    with refusing(f"cannot read {path}", kind):
        document = read_json(path)
        names = document.get("weight_map") if isinstance(document, dict) else None
        if not isinstance(names, dict) or not names:
            raise kind(f"{path} must have a weight_map of names of files")
        known = {one.name for one in _weight_files(path.parent)}
        for name in dict.fromkeys(map(str, names.values())):
            if name not in known:
                raise kind(
                    f"{path}: {name!r:.120} is no file of weights beside it (the name must end in "
                    f"{', '.join(SUFFIXES)}); get the model again from where it is published"
                )


def _require_sound_adapter(path: Path, kind: type[ConfigError]) -> None:
    with refusing(f"cannot read {path}", kind):
        document = _read_numbers(path, kind, lambda _: False)
        ranks = document.get("rank_pattern")
        ranks = {**(ranks if isinstance(ranks, dict) else {}), "r": document.get("r")}
        for name, value in ranks.items():
            if isinstance(value, int | float) and value > MOST_PARTS:
                raise kind(_too_many(path, name, value))


def read_config(directory: Path, kind: type[ConfigError] = ConfigError) -> Any:
    """The transformers configuration of the model in `directory`; no code of it is run.

    Raises:
        ConfigError: of the `kind`: it is missing, malformed or unknown to transformers, asks for
            more parts than any model has, has a number that is not finite, or would have other
            files read in its place.
    """
    with refusing(f"cannot read the model config in {directory}", kind):
        path = directory / _CONFIG
        document = _read_numbers(path, kind, _PARTS.search)
        for name in _names(document):
            if name in _ELSEWHERE:
                raise kind(
                    f"{path}: {name} names other files, which would not be checked; take it out, "
                    "and keep one configuration and one set of weights in a directory"
                )
        return AutoConfig.from_pretrained(directory, trust_remote_code=False)


def _read_numbers(
    path: Path, kind: type[ConfigError], is_part: Callable[[str], object]
) -> dict[str, Any]:
    """A configuration whose numbers are finite, and those of `is_part` few enough."""
    document = read_json(path, strict=False)
    if not isinstance(document, dict):
        raise kind(f"{path} must hold a JSON object")
    for name, value in _numbers(document):
        if not math.isfinite(value) and not (value == math.inf and name in _UNLIMITED):
            raise kind(f"{path}: {name} is {value}, and no number of a model is")
        if is_part(name) and value > MOST_PARTS:
            raise kind(_too_many(path, name, value))
    return document


def _too_many(path: Path, name: str, value: float) -> str:
    return (
        f"{path}: {name} is {value:.6g}; at most {MOST_PARTS} can be used. Get the "
        "model again from where it is published"
    )


def require_fitting(
    family: Any, config: Any, place: Path, kind: type[ConfigError] = ConfigError
) -> None:
    """Checks that the network a configuration describes can be held by the weights in `place`.

    Only shapes are computed.

    Args:
        family: such as `AutoModel`.
        config: from `read_config`.
        place: the file of the weights, or the directory they are in.
        kind: of the error.

    Raises:
        ConfigError: of the `kind`, with both sizes; or there are no weights.
    """
    size = weight_bytes(place)
    if size == 0:
        raise kind(
            f"{place} has no weights: no file in it that is not empty ends in "
            f"{', '.join(SUFFIXES)}; get the model again from where it is published"
        )
    with (
        refusing(f"{place}: its config.json describes no network", kind),
        torch.device("meta"),
        _FewSteps(place, kind),
    ):
        network = family.from_config(config, trust_remote_code=False)
    wanted = sum(parameter.numel() for parameter in network.parameters())
    tables = sum(buffer.nbytes for buffer in network.buffers())
    if wanted > WEIGHTS_PER_BYTE * size or tables > _MOST_BUFFERS + WEIGHTS_PER_BYTE * size:
        raise kind(
            f"{place}: config.json describes a network of {wanted:.3g} weights and "
            f"{tables:.3g} bytes of tables, but the files of weights have {size:.3g} bytes; use "
            "the config.json that belongs to them"
        )


class _FewSteps(TorchFunctionMode):
    """Ends the making of a network within once it takes more than `MOST_STEPS`; of this thread."""

    def __init__(self, place: Path, kind: type[ConfigError]) -> None:
        super().__init__()
        self._place, self._kind, self._count = place, kind, 0

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self._count += 1
        if self._count > MOST_STEPS:
            raise self._kind(
                f"{self._place}: config.json describes a network of so many parts that it took "
                f"{MOST_STEPS} steps to begin it, which no model has; use the config.json that "
                "belongs to the weights"
            )
        return function(*args, **(kwargs or {}))


def weight_bytes(place: Path) -> int:
    """Bytes of the weights in a file, or in the files of a directory."""
    return sum(path.stat().st_size for path in _weight_files(place))


def require_finite(
    state: Mapping[str, Tensor], place: Path, advice: str, kind: type[ConfigError] = ConfigError
) -> None:
    """Checks that every weight is a number; one NaN would make every score one, or none.

    A number that float32 does not hold counts as infinite, since it becomes that when it is used.

    Args:
        state: the weights by name.
        place: where they are from.
        advice: what the user can do.
        kind: of the error.

    Raises:
        ConfigError: of the `kind`; names the weights.
    """
    strange = [name for name, value in state.items() if not is_plain(value)]
    if strange:
        raise kind(f"{place}: {listed(strange)} hold no plain numbers; {advice}")
    broken = [name for name, value in state.items() if not _is_finite(value)]
    if broken:
        raise kind(f"{place}: NaN or infinity in {listed(broken)}; {advice}")


def is_plain(value: Any) -> bool:
    """Whether a value is a tensor that has as many numbers as it says, real ones, in memory.

    A file may also say that a tensor is sparse, quantised, complex, of no storage (`meta`), or one
    number in a million places; nothing that is loaded here has such weights.
    """
    return (
        isinstance(value, Tensor)
        and value.layout is torch.strided
        and not (value.is_quantized or value.is_complex() or value.is_nested or value.is_meta)
        and value.numel() * value.element_size() <= value.untyped_storage().nbytes()
    )


def listed(names: list[str], most: int = 6) -> str:
    """The first names, and how many more there are."""
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


def _weight_files(place: Path) -> list[Path]:
    if not place.is_dir():
        return [place]
    return sorted(path for path in place.iterdir() if path.suffix in SUFFIXES and path.is_file())


def _is_finite(value: Tensor) -> bool:
    if not value.is_floating_point() or not value.numel():
        return True
    if value.element_size() == 1:  # torch has no comparisons of 8-bit floats
        value = value.float()
    # The least and the largest: one pass, and no table of what is finite beside the weights.
    return bool(torch.isfinite(torch.stack(torch.aminmax(value.detach())).float()).all())


def _names(value: Any) -> Iterator[str]:
    """Of every object within."""
    for part in value.values() if isinstance(value, dict) else value:
        if isinstance(part, dict | list):
            yield from _names(part)
    if isinstance(value, dict):
        yield from value


def _numbers(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(value, dict):
        for key, part in value.items():
            if key == "__float__" and isinstance(part, str):  # how transformers writes NaN
                yield name, float(part)
            yield from _numbers(part, key)
    elif isinstance(value, list):
        for part in value:
            yield from _numbers(part, name)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield name, value
