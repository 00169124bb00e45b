"""Published checkpoints load without running their pickle, and bad ones are refused by name."""

from __future__ import annotations

import argparse
import os
import pickle
import random
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from serve_app.core.errors import CheckpointError
from serve_app.metrics.align_checkpoint import load_checkpoint, read_checkpoint
from tests.support.paths import ALIGNSCORE

CKPT = ALIGNSCORE / "tiny-roberta.ckpt"
BACKBONE = ALIGNSCORE / "tiny-roberta"


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[Callable[[dict[str, Any]], None]], Path]:
    """Saves the good checkpoint once more, after a change."""

    def save(change: Callable[[dict[str, Any]], None]) -> Path:
        content = torch.load(CKPT, weights_only=True)
        change(content)
        torch.save(content, tmp_path / "changed.ckpt")
        return tmp_path / "changed.ckpt"

    return save


class Bomb:
    """Writes a file when unpickled by a loader that runs code."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.canary),))


@pytest.mark.parametrize("kind", ["roberta", "bert", "albert"])
def test_a_checkpoint_lightning_wrote_loads_whole(kind: str) -> None:
    path = ALIGNSCORE / f"tiny-{kind}.ckpt"
    model, report = load_checkpoint(path, ALIGNSCORE / f"tiny-{kind}")
    stored = torch.load(path, weights_only=True)["state_dict"]
    assert report.used == len(model.state_dict())
    for name, value in model.state_dict().items():
        assert torch.equal(value, stored[name]), name
    assert not model.training


def test_the_report_tells_what_was_left_out() -> None:
    _, report = load_checkpoint(CKPT, BACKBONE)
    assert report.ignored
    assert all(name.startswith("mlm_head.") for name in report.ignored)
    assert report.unexpected == ()
    assert report.backbone == "tiny-roberta"


def test_the_old_table_of_positions_is_ignored(saved: Any) -> None:
    key = "base_model.embeddings.position_ids"
    path = saved(lambda c: c["state_dict"].update({key: torch.arange(514)[None]}))
    _, report = load_checkpoint(path, BACKBONE)
    assert key in report.ignored


def test_missing_weights_are_named(saved: Any) -> None:
    def change(content: dict[str, Any]) -> None:
        del content["state_dict"]["tri_layer.weight"]
        del content["state_dict"]["base_model.pooler.dense.bias"]

    with pytest.raises(CheckpointError, match="missing") as error:
        load_checkpoint(saved(change), BACKBONE)
    assert "tri_layer.weight" in str(error.value)
    assert "base_model.pooler.dense.bias" in str(error.value)


def test_weights_of_a_deeper_backbone_are_named(saved: Any) -> None:
    extra = "base_model.encoder.layer.7.output.dense.bias"
    path = saved(lambda c: c["state_dict"].update({extra: torch.zeros(32)}))
    with pytest.raises(CheckpointError, match="unexpected weights") as error:
        load_checkpoint(path, BACKBONE)
    assert extra in str(error.value)
    assert "tiny-roberta" in str(error.value)


def test_weights_of_no_use_are_named_in_report_and_log(
    saved: Any, caplog: pytest.LogCaptureFixture
) -> None:
    path = saved(lambda c: c["state_dict"].update({"calibrator.scale": torch.ones(1)}))
    _, report = load_checkpoint(path, BACKBONE)
    assert report.unexpected == ("calibrator.scale",)
    assert "calibrator.scale" in caplog.text


def test_wrong_shapes_are_named(saved: Any) -> None:
    path = saved(lambda c: c["state_dict"].update({"bin_layer.weight": torch.zeros(2, 31)}))
    with pytest.raises(CheckpointError, match=r"bin_layer.weight has shape \(2, 31\).*\(2, 32\)"):
        load_checkpoint(path, BACKBONE)


def test_another_backbone_is_refused_with_what_to_set() -> None:
    with pytest.raises(CheckpointError, match="ALIGNSCORE_MODEL must name"):
        load_checkpoint(CKPT, ALIGNSCORE / "tiny-bert")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(saved: Any, value: float) -> None:
    def change(content: dict[str, Any]) -> None:
        content["state_dict"]["reg_layer.weight"][0, 3] = value

    with pytest.raises(CheckpointError, match=r"NaN or infinity in reg_layer.weight"):
        load_checkpoint(saved(change), BACKBONE)


def test_half_precision_weights_load(saved: Any) -> None:
    def change(content: dict[str, Any]) -> None:
        content["state_dict"] = {k: v.half() for k, v in content["state_dict"].items()}

    model, _ = load_checkpoint(saved(change), BACKBONE)
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32}


def test_lightning_metadata_is_read_as_plain_containers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Older Lightning pickled its own dict class, and scripts their argparse namespace."""
    names = ["pytorch_lightning", "pytorch_lightning.utilities"]
    names.append("pytorch_lightning.utilities.parsing")
    for name in names:
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    made = type("AttributeDict", (dict,), {"__module__": names[-1]})
    monkeypatch.setattr(sys.modules[names[-1]], "AttributeDict", made, raising=False)
    content = torch.load(CKPT, weights_only=True)
    content["hyper_parameters"] = made(model="some-roberta", lr=1e-5)
    content["args"] = argparse.Namespace(batch=32, data=["a"])
    content["optimizer_states"] = [{"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": []}]
    torch.save(content, tmp_path / "old.ckpt")
    for name in names:
        monkeypatch.delitem(sys.modules, name)
    _, report = load_checkpoint(tmp_path / "old.ckpt", BACKBONE)
    assert report.backbone == "some-roberta"


@pytest.mark.parametrize("place", ["hyper_parameters", "state_dict", "callbacks"])
def test_a_pickle_that_names_code_is_refused_and_not_run(tmp_path: Path, place: str) -> None:
    canary = tmp_path / "canary"
    content = torch.load(CKPT, weights_only=True)
    content.setdefault(place, {})["bomb"] = Bomb(canary)
    path = tmp_path / "bomb.ckpt"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"posix\.mkdir|nt\.mkdir"):
        load_checkpoint(path, BACKBONE)
    assert not canary.exists()
    # The bomb is live: a loader that trusts the file sets it off.
    torch.load(path, weights_only=False)
    assert canary.exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_bare_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    path = tmp_path / "bare.ckpt"
    path.write_bytes(pickle.dumps({"state_dict": Bomb(canary)}))
    with pytest.raises(CheckpointError):
        read_checkpoint(path)
    assert not canary.exists()


@pytest.mark.parametrize(
    "content",
    [b"", b"not a checkpoint", b"<html>404</html>" * 50, b"PK\x03\x04" + bytes(200), b"\x80\x02."],
    ids=["empty", "text", "web page", "zip head", "pickle head"],
)
def test_other_files_are_refused_with_what_to_do(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.ckpt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="ALIGNSCORE_CKPT must name a published AlignScore"):
        read_checkpoint(path)


@pytest.mark.parametrize("content", [[1], {"a": 1}, {"state_dict": {}}, {"state_dict": {"w": 3}}])
def test_saved_objects_that_are_no_checkpoint_are_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "x.ckpt")
    with pytest.raises(CheckpointError, match="ALIGNSCORE_CKPT must name"):
        read_checkpoint(tmp_path / "x.ckpt")


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_download_is_refused(tmp_path: Path, kept: float) -> None:
    whole = CKPT.read_bytes()
    path = tmp_path / "cut.ckpt"
    path.write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(CheckpointError, match="download it again"):
        read_checkpoint(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.ckpt", tmp_path):
        with pytest.raises(CheckpointError, match="there is no checkpoint file"):
            read_checkpoint(path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol", "ignore:TypedStorage")
def test_a_damaged_pickle_never_escapes_as_another_error(tmp_path: Path) -> None:
    """Random damage to the pickled part gives a checkpoint or a CheckpointError."""
    rng = random.Random(5)
    plain = tmp_path / "plain.ckpt"
    torch.save({"state_dict": {"w": torch.ones(2)}}, plain, _use_new_zipfile_serialization=False)
    whole = plain.read_bytes()
    refused = 0
    for _ in range(150):
        damaged = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        path = tmp_path / "damaged.ckpt"
        path.write_bytes(bytes(damaged))
        try:
            read_checkpoint(path)
        except CheckpointError:
            refused += 1
    assert refused > 30


def test_the_format_before_torch_1_6_is_read(tmp_path: Path) -> None:
    content = torch.load(CKPT, weights_only=True)
    path = tmp_path / "old.ckpt"
    torch.save(content, path, _use_new_zipfile_serialization=False)
    load_checkpoint(path, BACKBONE)


def test_a_folder_without_a_config_is_no_backbone(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"needs a config\.json"):
        load_checkpoint(CKPT, tmp_path)
