"""Hostile weights: pickles that would run, bombs, lies about sizes, numbers that are none.

Each case changes one thing of a good model, so that nothing else can be why it is refused.
"""

from __future__ import annotations

import atexit
import io
import json
import pickle
import shutil
import struct
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from serve_app.generation.causal_model import load_causal_model
from serve_app.generation.prompting import Prompter
from serve_app.merge import merging
from serve_app.metrics.align_checkpoint import load_checkpoint
from serve_app.metrics.alignscore import AlignScorer
from serve_app.metrics.bertscore import BertScorer
from serve_app.training import trainer
from tests.fuzz.probe import Bomb
from tests.tiny_models import CHAT_TEMPLATE, make_tokenizer, save_adapter, save_model
from tests.tiny_suite import save_align

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "alignscore"
BILLION = 10**9
PADDING = 1 << 20
"""Bytes that make a file as large as its model, so that it is not refused for its size."""


@cache
def good(kind: str) -> Path:
    """A good model of a kind, made once: encoder, compact, causal, adapter, training."""
    place = Path(mkdtemp(prefix="plainmed-fuzz-")) / kind
    atexit.register(shutil.rmtree, place.parent, ignore_errors=True)  # forks end without it
    if kind == "encoder":
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=400, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
            intermediate_size=64, max_position_embeddings=64,
        )  # fmt: skip
        BertModel(config).save_pretrained(place)
        tokenizer: PreTrainedTokenizerFast = make_tokenizer()
        tokenizer.add_special_tokens({"cls_token": "<|begin|>", "sep_token": "<|end|>"})
        tokenizer.save_pretrained(place)
    elif kind == "compact":
        save_align(place)
    elif kind == "causal":
        save_model(place, chat_template=CHAT_TEMPLATE)
    elif kind == "adapter":
        save_adapter(place, good("causal"))
    else:
        place.mkdir()
        model = trainer.AlignModel(_empty_bert())
        progress = trainer.Progress()
        optimizer = torch.optim.AdamW(trainer.trainable(model).values())
        trainer.save_checkpoint(place / "checkpoint.pt", model, optimizer, progress)
    return place


def _empty_bert() -> Any:
    torch.manual_seed(0)
    return BertModel(BertConfig.from_pretrained(good("encoder")))


Change = Callable[[Path], None]
"""What is done to a good model in its folder."""


def changed(kind: str, change: Change) -> Callable[[Path], Path]:
    """Builds a copy of a good model with a change."""

    def build(folder: Path) -> Path:
        place = folder / kind
        shutil.copytree(good(kind), place)
        change(place)
        return place

    return build


# --- how each is loaded ----------------------------------------------------------------------


def load_encoder(place: Path) -> object:
    return BertScorer.from_reference(str(place), layer=1, device="cpu")


def load_compact(place: Path) -> object:
    return AlignScorer.from_reference(str(place), device="cpu")


def load_causal(place: Path) -> object:
    loaded = load_causal_model(place, device=torch.device("cpu"), dtype=torch.float32)
    return Prompter(loaded.tokenizer, system_prompt="Be plain.", user_prefix="Text: ")


def merge(place: Path) -> object:
    return merging.merge_adapter(place, good("causal"), place.parent / "merged")


def merge_base(place: Path) -> object:
    return merging.merge_adapter(good("adapter"), place, place.parent / "merged")


def resume(place: Path) -> object:
    return trainer.load_checkpoint(place / "checkpoint.pt", trainer.AlignModel(_empty_bert()))


def load_ckpt(path: Path) -> object:
    return load_checkpoint(path, FIXTURES / "tiny-roberta")


# kind, what is given it, how it is loaded, the file of its weights
LOADERS: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "BERTSCORE_MODEL": ("encoder", load_encoder, "model.safetensors"),
    "ALIGNSCORE_MODEL": ("compact", load_compact, "model.safetensors"),
    "MODEL_PATH": ("causal", load_causal, "model.safetensors"),
    "MODEL_PATH, an adapter": ("adapter", load_causal, "adapter_model.safetensors"),
    "merge, adapter": ("adapter", merge, "adapter_model.safetensors"),
    "merge, base": ("causal", merge_base, "model.safetensors"),
    "training, --resume": ("training", resume, "checkpoint.pt"),
}

# --- what is done to them --------------------------------------------------------------------


def as_pickle(name: str, content: Callable[[Path], object]) -> Change:
    """Takes the safetensors away and puts a pickle of the name there that other programs write."""

    def change(place: Path) -> None:
        weights = place / name
        if weights.is_file():
            weights.unlink()
        stem = "adapter_model" if name.startswith("adapter") else "pytorch_model"
        torch.save(content(place.parent), place / f"{stem}.bin")

    return change


def tensors(name: str, change: Callable[[dict[str, Any]], None]) -> Change:
    """Changes the tensors of a safetensors file."""

    def apply(place: Path) -> None:
        content = load_file(place / name)
        change(content)
        save_file(content, place / name, metadata={"format": "pt"})

    return apply


def _first_matrix(content: dict[str, Any]) -> str:
    return next(name for name, value in sorted(content.items()) if value.ndim == 2)


def poison(value: float) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        content[_first_matrix(content)].view(-1)[3] = value

    return change


def widen(content: dict[str, Any]) -> None:
    name = _first_matrix(content)
    content[name] = torch.zeros(3, 5)


def cut(name: str, share: float = 0.5) -> Change:
    def change(place: Path) -> None:
        whole = (place / name).read_bytes()
        (place / name).write_bytes(whole[: int(len(whole) * share)])

    return change


def header(name: str, document: bytes, size: int | None = None) -> Change:
    """A safetensors file of a header of one's own; `size` is what it claims of that."""

    def change(place: Path) -> None:
        claimed = len(document) if size is None else size
        (place / name).write_bytes(struct.pack("<Q", claimed) + document + bytes(PADDING))

    return change


def tensor_header(**places: tuple[int, int]) -> bytes:
    entry = {
        name: {"dtype": "F32", "shape": [(end - start) // 4], "data_offsets": [start, end]}
        for name, (start, end) in places.items()
    }
    return json.dumps(entry).encode()


def config(name: str = "config.json", **values: Any) -> Change:
    def change(place: Path) -> None:
        path = place / name
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


def adapter_config(**values: Any) -> Change:
    return config("adapter_config.json", **values)


def text(name: str, content: str | bytes) -> Change:
    def change(place: Path) -> None:
        raw = content.encode() if isinstance(content, str) else content
        (place / name).write_bytes(raw)

    return change


@cache
def _compressed() -> bytes:
    """A zip file with a GiB of zeros as the pickle, in a MiB."""
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        member = zipfile.ZipInfo("bomb/data.pkl")
        member.compress_type = zipfile.ZIP_DEFLATED
        with archive.open(member, "w") as file:
            for _ in range(256):
                file.write(bytes(4 << 20))
        archive.writestr("bomb/version", "3\n")
    return written.getvalue()


def zip_bomb(folder: Path) -> Path:
    (folder / "bomb.ckpt").write_bytes(_compressed())
    return folder / "bomb.ckpt"


def bin_bomb(place: Path) -> None:
    (place / "model.safetensors").unlink()
    (place / "pytorch_model.bin").write_bytes(_compressed())


def claims(folder: Path) -> Path:
    """A checkpoint that says a tensor has 4 TB, where there are 40 bytes."""
    path = folder / "claims.ckpt"
    torch.save({"state_dict": {"w": torch.arange(10.0)}}, path)
    whole = path.read_bytes()
    # In the pickle, the storage's length: BININT1 10, in the place of it a long of 8 bytes.
    old, new = b"K\x0a", b"\x8a\x05" + (10**12).to_bytes(5, "little")
    with zipfile.ZipFile(path) as archive:
        members = {one.filename: archive.read(one) for one in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content.replace(old, new) if name.endswith(".pkl") else content)
    assert path.read_bytes() != whole
    return path


def expanded(folder: Path) -> Path:
    """One number that claims to be a matrix of 4 TB."""
    content = torch.load(FIXTURES / "tiny-roberta.ckpt", weights_only=True)
    name = "base_model.embeddings.word_embeddings.weight"
    content["state_dict"][name] = torch.zeros(1).expand(10**6, 10**6)
    torch.save(content, folder / "wide.ckpt")
    return folder / "wide.ckpt"


def bare(folder: Path) -> Path:
    (folder / "bare.ckpt").write_bytes(pickle.dumps({"state_dict": Bomb(folder)}))
    return folder / "bare.ckpt"


def bomb_ckpt(folder: Path) -> Path:
    content = torch.load(FIXTURES / "tiny-roberta.ckpt", weights_only=True)
    content["callbacks"] = Bomb(folder)
    torch.save(content, folder / "bomb.ckpt")
    return folder / "bomb.ckpt"


def training(change: Callable[[dict[str, Any], Path], None]) -> Change:
    """Changes a checkpoint of a training run."""

    def apply(place: Path) -> None:
        path = place / "checkpoint.pt"
        document = torch.load(path, weights_only=True)
        change(document, place.parent)
        torch.save(document, path)

    return apply


def nan_weight(document: dict[str, Any], folder: Path) -> None:
    next(iter(document["weights"].values())).view(-1)[0] = float("nan")
