"""Checks weights before they are used, the same for every model.

Do its files hold what they claim, does its configuration describe a network that such files can
hold, and is every weight a finite number? Knows files, shapes and what libraries raise; no metric
and no generator. No code in a file is run: torch's restricted unpickler and safetensors read it.
Each check takes the `kind` of ConfigError to raise.
"""

from __future__ import annotations

import math
import re
import tempfile
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
"""Suffixes of files that hold weights."""

MOST_PARTS = 10_000
"""Most layers, heads, experts or labels of a configuration, and the highest rank of an adapter:
each costs time and memory before its size is known."""

MOST_STEPS = 50_000
"""Most calls of torch to describe a network: the largest published ones take a few thousand, but
layers of experts multiply."""

WEIGHTS_PER_BYTE = 2
"""Most weights in a byte of a file: four bits each."""

_MOST_BUFFERS = 1 << 30
"""Bytes of tables a network computes itself, such as its positions."""

_PARTS = re.compile(
    r"(layers?|heads?|experts?|labels?|groups?|group_num|blocks?|depths?|stages?)$", re.IGNORECASE
)
_FORBIDDEN = re.compile(r"GLOBAL (\S+)")
_CONFIG = "config.json"
_ADAPTER = "adapter_config.json"

# Where transformers looks for weights, in this order: it reads the first it finds.
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
    """Turns whatever a library raises about a file into one error of ours, in one line.

    Args:
        what: how the message begins, such as `cannot load the model in DIRECTORY`.
        kind: the class of the error.

    Raises:
        ConfigError: of the `kind`; a ConfigError raised within passes as it is.
    """
    try:
        yield
    except ConfigError:
        raise
    except BaseException as error:
        # tokenizers raises bare exceptions, Rust code panics, and a hostile file can make a parser
        # raise anything; only what ends the process is not about the file.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise kind(f"{what}: {reason(error)}") from error


def reason(error: BaseException) -> str:
    """An error's message in one line, without a library's advice to trust the file."""
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
    # A first line that ends with a colon announces the second.
    return " ".join(lines[: 2 if lines[0].endswith(":") else 1])[:300]


def forbidden_name(error: BaseException | None) -> str | None:
    """The class or function named by a pickle and not allowed by torch; None: another error."""
    while error is not None:
        found = _FORBIDDEN.search(str(error))
        if found is not None:
            return found[1]
        error = error.__cause__ or error.__context__
    return None


def require_sound_files(
    place: Path, kind: type[ConfigError] = ConfigError, advice: str = _GET_AGAIN
) -> None:
    """Checks the files of weights in `place`, a file or a directory; reads no weight.

    Zip files: torch writes them uncompressed; see `zip_check`. Index files: transformers opens
    whatever they name, so each name must be a file checked here. An adapter's configuration: its
    rank takes memory. Types: half of a complex number would be lost. `advice` says what the user
    can do about a zip file.

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
    """The transformers configuration of the model in `directory`; none of its code is run.

    Raises:
        ConfigError: of the `kind`: it is missing, malformed or unknown to transformers, asks for
            more parts than any model has, has a number that is not finite, or names other files
            to be read instead.
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
    """A configuration, its numbers finite and those of names that `is_part` few enough."""
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
    """Checks that the weights in `place` can fill the network of a configuration.

    Only shapes are computed.

    Args:
        family: such as `AutoModel`.
        config: from `read_config`.
        place: the file of the weights, or their directory.
        kind: the class of the error.

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
    """Stops this thread from building a network that takes more than `MOST_STEPS`."""

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


@contextmanager
def without_adapter(directory: Path) -> Iterator[Path]:
    """The directory without an adapter's files, which transformers would load on the model."""
    if not (directory / _ADAPTER).is_file():
        yield directory
        return
    with tempfile.TemporaryDirectory(prefix="plainmed-base-") as links:
        for path in directory.iterdir():
            if not path.name.startswith("adapter_"):
                Path(links, path.name).symlink_to(path.absolute())
        yield Path(links)


def holds_model(directory: Path) -> bool:
    """Whether transformers would find a model's weights in a directory."""
    return any((directory / name).is_file() for name in _WEIGHTS)


def weight_bytes(place: Path) -> int:
    """Bytes of the weights in a file, or in all files of a directory."""
    return sum(path.stat().st_size for path in _weight_files(place))


def require_finite(
    state: Mapping[str, Tensor], place: Path, advice: str, kind: type[ConfigError] = ConfigError
) -> None:
    """Checks that every weight is a number; one NaN would spoil every score.

    A number beyond float32 counts as infinite, as it becomes in use.

    Args:
        state: the weights by name.
        place: where they are from.
        advice: what the user can do.
        kind: the class of the error.

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
    """Whether a value is a dense tensor of real numbers, all of them in memory.

    A file may say that a tensor is sparse, quantised, complex, without storage (`meta`), or one
    number in a million places; no weights loaded here are.
    """
    return (
        isinstance(value, Tensor)
        and value.layout is torch.strided
        and not (value.is_quantized or value.is_complex() or value.is_nested or value.is_meta)
        and value.numel() * value.element_size() <= value.untyped_storage().nbytes()
    )


def listed(names: list[str], most: int = 6) -> str:
    """The first names, and the number of the others."""
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
    # Minimum and maximum: one pass, and no mask as large as the weights.
    return bool(torch.isfinite(torch.stack(torch.aminmax(value.detach())).float()).all())


def _names(value: Any) -> Iterator[str]:
    """Names of every object within."""
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
