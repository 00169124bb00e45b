"""Which hostile weights there are: each change of `weights`, for each loader it is about."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch

from tests.fuzz.probe import Bomb, Case, sparse
from tests.fuzz.weights import (
    BILLION,
    LOADERS,
    PADDING,
    Change,
    adapter_config,
    as_pickle,
    bare,
    bin_bomb,
    bomb_ckpt,
    changed,
    claims,
    config,
    cut,
    expanded,
    header,
    load_ckpt,
    nan_weight,
    poison,
    tensor_header,
    tensors,
    text,
    training,
    widen,
    zip_bomb,
)

READ_CONFIGS = ("BERTSCORE_MODEL", "MODEL_PATH")
ADAPTERS = ("MODEL_PATH, an adapter", "merge, adapter")
RESUME = ("training, --resume",)
ENCODER = ("BERTSCORE_MODEL",)
_RUN = "which is not a weight; it was not run"
_LOOPS = "{% for i in range(10**12) %}x{% endfor %}"
_TWICE = b'{"a":%b,"a":%b}' % ((tensor_header(a=(0, 16))[6:-1],) * 2)


def _endless(place: Path) -> None:
    sparse(place / "config.json", 1 << 30)


# For which loaders, what is wrong, how it is made so, what the refusal says.
_OTHERS: list[tuple[tuple[str, ...], str, Change, str]] = [
    (READ_CONFIGS, "pytorch_model.bin: a GiB of zeros, compressed", bin_bomb, "is compressed"),
    (READ_CONFIGS, "config.json: 10^9 units wide", config(hidden_size=BILLION), "weights"),
    (READ_CONFIGS, "config.json: 10^9 words", config(vocab_size=BILLION), "a network of"),
    (READ_CONFIGS, "config.json: 10^9 layers", config(num_hidden_layers=BILLION), "layers is 1e"),
    (READ_CONFIGS, "config.json: 10^9 labels", config(num_labels=BILLION), "labels is 1e"),
    (READ_CONFIGS, "config.json: code of its own", config(
        auto_map={"AutoConfig": "evil.Config"}, model_type="evil"), "cannot read the model config"),
    (READ_CONFIGS, "config.json: nested", text("config.json", "[" * 100_000), "too deeply"),
    (READ_CONFIGS, "config.json: a list", text("config.json", "[]"), "must hold a JSON object"),
    (READ_CONFIGS, "config.json: not UTF-8", text("config.json", b"\xff\xfe{}"), "not UTF-8"),
    (READ_CONFIGS, "config.json: a GiB of zeros", _endless, "larger than"),
    (READ_CONFIGS, "tokenizer.json: no JSON", text("tokenizer.json", "{"), "tokenizer"),
    (READ_CONFIGS, "tokenizer.json: nested", text("tokenizer.json", "[" * 100_000), "tokenizer"),
    (READ_CONFIGS, "tokenizer.json: of another kind",
        text("tokenizer.json", '{"model": {"type": "evil"}}'), "tokenizer"),
    (ENCODER, "config.json: 10^12 positions", config(max_position_embeddings=10**12), "network of"),
    (ENCODER, "tensors that overlap",
        header("model.safetensors", tensor_header(a=(0, 16), b=(8, 24))), "cannot load"),
    (ENCODER, "a tensor past the end of the file",
        header("model.safetensors", tensor_header(a=(0, 1 << 40))), "cannot load"),
    (ENCODER, "a header nested a million deep",
        header("model.safetensors", b"[" * 1_000_000), "cannot load"),
    (ENCODER, "a tensor twice", header("model.safetensors", _TWICE), "cannot load"),
    (("MODEL_PATH",), "a chat template that loops 10^12 times",
        text("chat_template.jinja", _LOOPS), "chat template"),
    (ADAPTERS, "a rank of 10^9", adapter_config(r=BILLION), "adapter"),
    (RESUME, "a pickle that would run",
        training(lambda content, folder: content.update(progress=Bomb(folder))), _RUN),
    (RESUME, "a NaN weight", training(nan_weight), "NaN or infinity in"),
    (RESUME, "half of the file", cut("checkpoint.pt"), "not a training checkpoint"),
]  # fmt: skip


def _of_tensors(loader: str, name: str) -> Iterable[tuple[str, Change, str]]:
    """What can be wrong with the tensors of any model that is kept as safetensors."""
    if loader != "ALIGNSCORE_MODEL":  # which is never read from a pickle
        yield "a pickle that would run", as_pickle(name, _bomb), _RUN
    yield "half of the file", cut(name), r"[Hh]eader|incomplete|safetensors|invalid"
    yield "a NaN weight", tensors(name, poison(float("nan"))), "NaN or infinity in"
    yield "an infinite weight", tensors(name, poison(float("inf"))), "NaN or infinity in"
    yield "a matrix of another shape", tensors(name, widen), "shape|mismatch|fit|size"
    lie = header(name, b"{}", size=2 << 30)
    yield "a header that claims 2 GiB", lie, "[Hh]eader|safetensors"


def _bomb(folder: Path) -> object:
    return {"weight": Bomb(folder), "padding": torch.zeros(PADDING // 4)}


def cases() -> list[Case]:
    """All of them, and each good model unchanged (`says` is empty), which must load."""
    found = []
    for loader, (kind, load, name) in LOADERS.items():
        found.append(Case(loader, "unchanged", changed(kind, lambda _: None), load, ""))
        if name.endswith(".safetensors"):
            for what, change, says in _of_tensors(loader, name):
                found.append(Case(loader, what, changed(kind, change), load, says))
    for loaders, what, change, says in _OTHERS:
        for loader in loaders:
            kind, load, _ = LOADERS[loader]
            found.append(Case(loader, what, changed(kind, change), load, says))
    for what, build, says in (
        ("a pickle that would run", bomb_ckpt, "it was not run"),
        ("a bare pickle that would run", bare, "ckpt"),
        ("a GiB of zeros, compressed", zip_bomb, "is compressed"),
        ("40 bytes that claim 4 TB", claims, "not a readable checkpoint"),
        ("one number as a matrix of 4 TB", expanded, "has shape"),
    ):
        found.append(Case("ALIGNSCORE_CKPT", what, build, load_ckpt, says))
    return found
