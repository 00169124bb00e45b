"""What is asked of weights before they are used, whoever loads them and whatever for.

Four questions, the same for every model: do its files hold what they claim, does its configuration
describe a network that such files can hold, did anything go wrong while they were read, and is
every weight a finite number. Knows files, shapes and what libraries raise; knows no metric and
no generator. Nothing of a file is ever run: torch's restricted unpickler and safetensors read it.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig

from serve_app.documents import read_json
from serve_app.errors import ConfigError

SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
"""Of files that hold weights."""

MOST_PARTS = 10_000
"""Most layers, heads, experts or labels a configuration may ask for; each costs time and memory
before its size is known."""

WEIGHTS_PER_BYTE = 2
"""Most weights a file can hold in a byte: of four bits each."""

_MOST_BUFFERS = 1 << 30
"""Bytes of tables that a network makes itself, such as its positions."""

_PARTS = re.compile(
    r"(layers?|heads?|experts?|labels?|groups?|group_num|blocks?|depths?|stages?)$", re.IGNORECASE
)
_FORBIDDEN = re.compile(r"GLOBAL (\S+)")
_CONFIG = "config.json"


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


def require_sound_files(place: Path, kind: type[ConfigError] = ConfigError) -> None:
    """Checks the zip files among the weights in `place`, a file or a directory; reads no weight.

    torch writes its zip files uncompressed. One whose members are compressed, or together are
    larger than the file, would take memory that its size does not show.

    Raises:
        ConfigError: of the `kind`, naming the file.
    """
    for path in _weight_files(place):
        if not zipfile.is_zipfile(path):
            continue
        with refusing(f"{path} is damaged", kind), zipfile.ZipFile(path) as archive:
            members = archive.infolist()
        packed = [one.filename for one in members if one.compress_type != zipfile.ZIP_STORED]
        held = sum(one.file_size for one in members)
        if packed or held > path.stat().st_size:
            why = f"{packed[0]} in it is compressed" if packed else f"it claims {held} bytes"
            raise kind(
                f"{path} is no file that torch wrote: {why}, and unpacking it could fill the "
                "memory; get the weights again, best as safetensors"
            )


def read_config(directory: Path, kind: type[ConfigError] = ConfigError) -> Any:
    """The transformers configuration of the model in `directory`; no code of it is run.

    Raises:
        ConfigError: of the `kind`: it is missing, malformed or unknown to transformers, or asks for
            more parts than any model has.
    """
    path = directory / _CONFIG
    with refusing(f"cannot read the model config in {directory}", kind):
        document = read_json(path, strict=False)
        if not isinstance(document, dict):
            raise kind(f"{path} must hold a JSON object")
        for name, value in _numbers(document):
            if _PARTS.search(name) and value > MOST_PARTS:
                raise kind(
                    f"{path}: {name} is {value:.6g}; at most {MOST_PARTS} can be used. Get the "
                    "model again from where it is published"
                )
        return AutoConfig.from_pretrained(directory, trust_remote_code=False)


def require_fitting(
    family: Any, config: Any, place: Path, kind: type[ConfigError] = ConfigError
) -> None:
    """Checks that the network a configuration describes can be held by the weights in `place`.

    Only shapes are computed. Where `place` has no weights, nothing is checked: loading says so.

    Args:
        family: such as `AutoModel`.
        config: from `read_config`.
        place: the file of the weights, or the directory they are in.
        kind: of the error.

    Raises:
        ConfigError: of the `kind`, with both sizes.
    """
    size = weight_bytes(place)
    if size == 0:
        return
    with refusing(f"{place}: its config.json describes no network", kind), torch.device("meta"):
        network = family.from_config(config, trust_remote_code=False)
    wanted = sum(parameter.numel() for parameter in network.parameters())
    tables = sum(buffer.nbytes for buffer in network.buffers())
    if wanted > WEIGHTS_PER_BYTE * size or tables > _MOST_BUFFERS + WEIGHTS_PER_BYTE * size:
        raise kind(
            f"{place}: config.json describes a network of {wanted:.3g} weights and "
            f"{tables:.3g} bytes of tables, but the files of weights have {size:.3g} bytes; use "
            "the config.json that belongs to them"
        )


def weight_bytes(place: Path) -> int:
    """Bytes of the weights in a file, or in the files of a directory."""
    return sum(path.stat().st_size for path in _weight_files(place))


def require_finite(
    state: Mapping[str, Tensor], place: Path, advice: str, kind: type[ConfigError] = ConfigError
) -> None:
    """Checks that every weight is a number; one NaN would make every score one, or none.

    Args:
        state: the weights by name.
        place: where they are from.
        advice: what the user can do.
        kind: of the error.

    Raises:
        ConfigError: of the `kind`; names the weights.
    """
    broken = [name for name, value in state.items() if not _is_finite(value)]
    if broken:
        raise kind(f"{place}: NaN or infinity in {listed(broken)}; {advice}")


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
    return bool(torch.isfinite(torch.stack(torch.aminmax(value.detach()))).all())


def _numbers(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _numbers(part, key)
    elif isinstance(value, list):
        for part in value:
            yield from _numbers(part, name)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield name, value
