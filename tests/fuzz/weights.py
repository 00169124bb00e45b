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
from torch import Tensor
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from serve_app.generation.causal.prompts import Prompter
from serve_app.metrics.align_checkpoint import load_checkpoint
from serve_app.metrics.align_model import AlignModel, CompactConfig, save_compact
from serve_app.metrics.alignscore import AlignScorer
from serve_app.metrics.bertscore import BertScorer
from serve_app.models.causal_lm import load_causal_model
from serve_app.training.alignscore import trainer
from serve_app.training.merge import lora
from tests.fuzz.probe import Bomb
from tests.support.paths import ALIGNSCORE
from tests.support.tiny_models import CHAT_TEMPLATE, make_tokenizer, save_adapter, save_model
from tests.support.tiny_suite import save_align

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
    return lora.merge_adapter(place, good("causal"), place.parent / "merged")


def merge_base(place: Path) -> object:
    return lora.merge_adapter(good("adapter"), place, place.parent / "merged")


def resume(place: Path) -> object:
    return trainer.load_checkpoint(place / "checkpoint.pt", trainer.AlignModel(_empty_bert()))


def load_ckpt(path: Path) -> object:
    return load_checkpoint(path, ALIGNSCORE / "tiny-roberta")


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


def of_matrix(change: Callable[[Tensor], Tensor]) -> Callable[[dict[str, Any]], None]:
    """Puts another tensor in the place of the first matrix."""

    def apply(content: dict[str, Any]) -> None:
        name = _first_matrix(content)
        content[name] = change(content[name])

    return apply


def overflow(value: Tensor) -> Tensor:
    """A finite number that becomes infinite where it is used."""
    found = value.double()
    found.view(-1)[3] = 1e300
    return found


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


def sharded(shard: str, there: str = "") -> Change:
    """An index beside the weights that names `shard`, and the weights where that is.

    Args:
        shard: what the index names.
        there: the file in the folder that is moved there; empty: the safetensors.
    """

    def change(place: Path) -> None:
        source = place / (there or "model.safetensors")
        names = load_file(place / "model.safetensors").keys()
        document = {"metadata": {}, "weight_map": dict.fromkeys(names, shard)}
        (place / "model.safetensors.index.json").write_text(json.dumps(document))
        (place / shard).parent.mkdir(exist_ok=True)
        source.rename(place / shard)
        (place / "model.safetensors").unlink(missing_ok=True)

    return change


def bomb_of_another_name(place: Path) -> None:
    (place / "bomb").write_bytes(compressed(SMALL))
    sharded("weights.data", "bomb")(place)


def elsewhere(name: str, value: Any) -> Change:
    """A configuration that sends transformers to another one."""

    def change(place: Path) -> None:
        content = json.loads((place / "config.json").read_text())
        (place / "config.4.0.0.json").write_text(json.dumps(content))
        config(**{name: value})(place)

    return change


def compact_on(change: Change) -> Callable[[Path], Path]:
    """A compact model on a tiny encoder of its own, `base` beside it, and a change of that."""

    def build(folder: Path) -> Path:
        base, place = folder / "base", folder / "compact"
        shutil.copytree(good("encoder"), base)
        torch.manual_seed(0)
        model = AlignModel(BertModel.from_pretrained(base))
        save_compact(model, place, CompactConfig("tiny", str(base), 4, 40, "nli_sp"))
        change(base)
        return place

    return build


def without(*names: str) -> Callable[[dict[str, Any]], None]:
    """Takes tensors away."""

    def change(content: dict[str, Any]) -> None:
        for name in names:
            del content[name]

    return change


def half(content: dict[str, Any]) -> None:
    """Takes one of each two factors of an adapter away."""
    without(*[name for name in content if "lora_B" in name])(content)


def wide_factors(content: dict[str, Any]) -> None:
    """Two thin matrices in 0.2 MB, whose product would take 9 GB."""
    name = "base_model.encoder.layer.0.output.dense.weight"
    content[f"left.{name}"] = torch.zeros(50_000, 1, dtype=torch.bfloat16)
    content[f"right.{name}"] = torch.zeros(1, 50_000, dtype=torch.bfloat16)


def unknown_word(place: Path) -> None:
    """A tokenizer whose last word has a number that no row of the encoder has."""
    path = place / "tokenizer.json"
    content = json.loads(path.read_text())
    words = content["model"]["vocab"]
    words[max(words, key=words.__getitem__)] = 400_000
    path.write_text(json.dumps(content))


SMALL = 64
"""MiB of a bomb that is quick to make."""


@cache
def compressed(mib: int = 1024) -> bytes:
    """A zip file with so many MiB of zeros as the pickle, in a thousandth of that."""
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        member = zipfile.ZipInfo("bomb/data.pkl")
        member.compress_type = zipfile.ZIP_DEFLATED
        with archive.open(member, "w") as file:
            for _ in range(mib):
                file.write(bytes(1 << 20))
        archive.writestr("bomb/version", "3\n")
    return written.getvalue()


def ckpt_of(content: Callable[[], bytes]) -> Callable[[Path], Path]:
    """A checkpoint of such bytes."""

    def build(folder: Path) -> Path:
        (folder / "bomb.ckpt").write_bytes(content())
        return folder / "bomb.ckpt"

    return build


def file_of(name: str, content: Callable[[], bytes]) -> Change:
    """Puts such bytes in the place of the weights, under a name."""

    def change(place: Path) -> None:
        for weights in place.glob("*.safetensors"):
            weights.unlink()
        (place / name).write_bytes(content())

    return change


def two_lists() -> bytes:
    """A bomb with a second list of its contents, which says that they are small.

    Python reads the list before the end of the file, torch the one where the end points.
    """
    raw = compressed(SMALL)
    end = raw.rindex(b"PK\5\6")
    size, start = struct.unpack_from("<II", raw, end + 12)
    mild, at = bytearray(raw[start : start + size]), 0
    while at < size:
        struct.pack_into("<H", mild, at + 10, 0)  # not compressed
        mild[at + 24 : at + 28] = mild[at + 20 : at + 24]  # and as large as it is there
        at += 46 + sum(struct.unpack_from("<HHH", mild, at + 28))
    return raw[:end] + bytes(mild) + raw[end:]


def long_end() -> bytes:
    """A bomb that Python does not take for a zip file: it looks for the end in the last 64 KiB."""
    return compressed(SMALL) + bytes(1 << 16)


def two_disks() -> bytes:
    """A zip file that says it goes on on another disk."""
    raw = compressed(1)
    end = raw.rindex(b"PK\5\6")
    return raw[:end] + struct.pack("<4sIQI", b"PK\6\7", 0, end, 2) + raw[end:]


def ckpt(change: Callable[[Tensor], Tensor]) -> Callable[[Path], Path]:
    """A good checkpoint with another tensor in the place of one."""

    def build(folder: Path) -> Path:
        content = torch.load(ALIGNSCORE / "tiny-roberta.ckpt", weights_only=True)
        state = content["state_dict"]
        state["tri_layer.weight"] = change(state["tri_layer.weight"])
        torch.save(content, folder / "odd.ckpt")
        return folder / "odd.ckpt"

    return build


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
    content = torch.load(ALIGNSCORE / "tiny-roberta.ckpt", weights_only=True)
    name = "base_model.embeddings.word_embeddings.weight"
    content["state_dict"][name] = torch.zeros(1).expand(10**6, 10**6)
    torch.save(content, folder / "wide.ckpt")
    return folder / "wide.ckpt"


def bare(folder: Path) -> Path:
    (folder / "bare.ckpt").write_bytes(pickle.dumps({"state_dict": Bomb(folder)}))
    return folder / "bare.ckpt"


def bomb_ckpt(folder: Path) -> Path:
    content = torch.load(ALIGNSCORE / "tiny-roberta.ckpt", weights_only=True)
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
