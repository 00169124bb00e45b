"""Reads the published AlignScore checkpoints (Lightning `.ckpt`) without running their pickle.

A `.ckpt` is a zip that holds a pickle and the weights it points at. Only torch's restricted
unpickler reads it here, so a file can name no function to call; weights stay on disk until
they are copied (optimizer states, two thirds of a published file, are never read). This
module knows files and weight names; the network is `align_model`'s.
"""

from __future__ import annotations

import argparse
import logging
import re
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModel

from serve_app.core.errors import CheckpointError
from serve_app.metrics.align_model import HEADS, AlignModel
from serve_app.models.verification import (
    forbidden_name,
    is_plain,
    listed,
    read_config,
    reason,
    refusing,
    require_finite,
    require_fitting,
    require_sound_files,
)

logger = logging.getLogger(__name__)

# Training leaves a masked-language-model head, and older transformers a table of positions;
# the score uses neither.
_NOT_NEEDED = re.compile(r"^mlm_head\.|\.position_ids$")
_OURS = ("base_model.", *(f"{head}." for head in HEADS))

# Lightning's metadata may hold these classes, which torch's unpickler does not know. Each is
# read as a plain container of the standard library, whatever class the file names: nothing of
# Lightning is imported, and a container cannot act when it is filled.
_CONTAINERS: list[Any] = [
    (argparse.Namespace, "argparse.Namespace"),
    *(
        (OrderedDict, f"{module}.AttributeDict")
        for module in (
            "pytorch_lightning.utilities.parsing",
            "lightning.pytorch.utilities.parsing",
            "lightning_fabric.utilities.data",
            "lightning.fabric.utilities.data",
        )
    ),
]

_ADVICE = (
    "ALIGNSCORE_CKPT must name a published AlignScore checkpoint such as AlignScore-base.ckpt; "
    "download it again if it is one"
)


@dataclass(frozen=True, slots=True)
class CheckpointReport:
    """What became of a checkpoint's weights.

    Attributes:
        used: how many weights were loaded.
        ignored: names known to be needless for scoring.
        unexpected: other names the model has no use for.
        backbone: the encoder the checkpoint says it was trained on, or None.
    """

    used: int
    ignored: tuple[str, ...]
    unexpected: tuple[str, ...]
    backbone: str | None


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], str | None]:
    """The weights of a Lightning checkpoint by name, and the backbone it was trained on.

    Raises:
        CheckpointError: the file is missing, damaged, not a checkpoint, or names code to run.
    """
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint file {path}; {_ADVICE}")
    require_sound_files(path, CheckpointError, _ADVICE)
    try:
        with torch.serialization.safe_globals(_CONTAINERS):
            # Only the zip format can be mapped; the one before torch 1.6 is read whole.
            content = torch.load(
                path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
            )
    except Exception as error:  # a hostile file can make the unpickler raise anything at all
        forbidden = forbidden_name(error)
        if forbidden is not None:
            raise CheckpointError(
                f"{path} names {forbidden}, which is not a weight; it was not run and the "
                "file is refused. Use a checkpoint whose source you trust, saved with its "
                "state_dict and plain metadata only"
            ) from error
        raise CheckpointError(
            f"{path} is not a readable checkpoint ({reason(error)}); {_ADVICE}"
        ) from error
    state = content.get("state_dict") if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping) or not state:
        raise CheckpointError(f"{path} has no state_dict, so Lightning did not write it; {_ADVICE}")
    strange = [str(name) for name, value in state.items() if not is_plain(value)]
    if strange:
        raise CheckpointError(f"{path}: {listed(strange)} hold no weights; {_ADVICE}")
    hyper = content.get("hyper_parameters")
    backbone = hyper.get("model") if isinstance(hyper, Mapping) else getattr(hyper, "model", None)
    return dict(state), backbone if isinstance(backbone, str) else None


def load_checkpoint(path: Path, backbone: Path) -> tuple[AlignModel, CheckpointReport]:
    """The AlignScore model of a published checkpoint.

    Args:
        path: the `.ckpt` file.
        backbone: directory with the `config.json` of the encoder it was trained on; weights
            there are not read.

    Raises:
        CheckpointError: as `read_checkpoint`; or a weight is missing, of another shape, not a
            finite number, or of a layer the backbone lacks. The message names each.
    """
    state, trained_on = read_checkpoint(path)
    hint = f"it was trained on {trained_on!r}; " if trained_on else ""
    hint += "ALIGNSCORE_MODEL must name the directory of that backbone"
    model = AlignModel(_empty_encoder(backbone, path))
    wanted = model.state_dict()
    ignored = tuple(name for name in state if name not in wanted and _NOT_NEEDED.search(name))
    others = [name for name in state if name not in wanted and name not in ignored]
    problems = []
    missing = [name for name in wanted if name not in state]
    if missing:
        problems.append(f"missing weights: {listed(missing)}")
    surplus = [name for name in others if name.startswith(_OURS)]
    if surplus:
        problems.append(f"unexpected weights: {listed(surplus)}")
    for name in wanted.keys() & state.keys():
        if wanted[name].shape != state[name].shape:
            problems.append(
                f"{name} has shape {tuple(state[name].shape)}, "
                f"the backbone wants {tuple(wanted[name].shape)}"
            )
    if problems:
        raise CheckpointError(f"{path} does not fit {backbone}: {'; '.join(problems[:8])}. {hint}")
    require_finite({name: state[name] for name in wanted}, path, _ADVICE, CheckpointError)
    if others:
        logger.warning("%s: weights of no use for scoring: %s", path, listed(others))
    model.load_state_dict({name: state[name] for name in wanted})
    report = CheckpointReport(len(wanted), ignored, tuple(others), trained_on)
    return model.eval(), report


def _empty_encoder(backbone: Path, checkpoint: Path) -> Any:
    what = (
        f"{backbone} is no backbone of ALIGNSCORE_CKPT: it needs a config.json that transformers "
        "knows, and a tokenizer"
    )
    if not (backbone / "config.json").is_file():
        raise CheckpointError(what)
    config = read_config(backbone, CheckpointError)
    require_fitting(AutoModel, config, checkpoint, CheckpointError)
    with refusing(what, CheckpointError):
        return AutoModel.from_config(
            config, attn_implementation="sdpa", dtype=torch.float32, trust_remote_code=False
        )
