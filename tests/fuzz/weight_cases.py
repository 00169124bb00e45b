"""Which hostile weights there are: each change of `weights`, for each loader it is about."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor

from tests.fuzz import weights as make
from tests.fuzz.probe import Bomb, Case, sparse
from tests.fuzz.weights import (
    BILLION,
    LOADERS,
    PADDING,
    Change,
    adapter_config,
    as_pickle,
    bare,
    bomb_ckpt,
    changed,
    ckpt,
    ckpt_of,
    claims,
    compact_on,
    compressed,
    config,
    cut,
    elsewhere,
    expanded,
    file_of,
    header,
    load_ckpt,
    nan_weight,
    of_matrix,
    poison,
    sharded,
    tensor_header,
    tensors,
    text,
    training,
    widen,
    without,
)
from tests.support.paths import ALIGNSCORE

READ_CONFIGS = ("BERTSCORE_MODEL", "MODEL_PATH")
ADAPTERS = ("MODEL_PATH, an adapter", "merge, adapter")
RESUME = ("training, --resume",)
ENCODER = ("BERTSCORE_MODEL",)
_RUN = "which is not a weight; it was not run"
_LOOPS = "{% for i in range(10**12) %}x{% endfor %}"
_TWICE = b'{"a":%b,"a":%b}' % ((tensor_header(a=(0, 16))[6:-1],) * 2)


def _endless(place: Path) -> None:
    sparse(place / "config.json", 1 << 30)


def _small() -> bytes:
    return compressed(make.SMALL)


_TOKENIZER = "no usable tokenizer|cannot load the tokenizer"
_NO_FILE = "is no file of weights beside it"
_BIN = "pytorch_model.bin"
_COMPACT = ("ALIGNSCORE_MODEL",)
_OWN = "model.safetensors"

# For which loaders, what is wrong, how it is made so, what the refusal says.
_OTHERS: list[tuple[tuple[str, ...], str, Change, str]] = [
    (READ_CONFIGS, "pytorch_model.bin: 64 MiB of zeros, compressed", file_of(_BIN, _small),
        "is compressed"),
    (READ_CONFIGS, "pytorch_model.bin: a GiB of zeros, compressed", file_of(_BIN, compressed),
        "is compressed"),
    (READ_CONFIGS, "pytorch_model.bin: a bomb with two lists of contents",
        file_of(_BIN, make.two_lists), "has another end"),
    (ADAPTERS, "adapter_model.bin: 64 MiB of zeros, compressed",
        file_of("adapter_model.bin", _small), "is compressed"),
    (RESUME, "checkpoint.pt: 64 MiB of zeros, compressed", file_of("checkpoint.pt", _small),
        "is compressed"),
    (READ_CONFIGS, "an index and one file", sharded("model-00001-of-00001.safetensors"), ""),
    (READ_CONFIGS, "an index that names a bomb weights.data", make.bomb_of_another_name, _NO_FILE),
    (READ_CONFIGS, "an index that names a file in a folder", sharded("sub/a.safetensors"),
        _NO_FILE),
    (READ_CONFIGS, "an index that leads out of the folder", sharded("../a.safetensors"), _NO_FILE),
    (READ_CONFIGS, "an index without names",
        lambda place: sharded("a.safetensors")(place) or text(
            "model.safetensors.index.json", "{}")(place), "must have a weight_map"),
    (READ_CONFIGS, "no weights", lambda place: (place / _OWN).unlink(), "has no weights"),
    (READ_CONFIGS, "config.json: another configuration in its place",
        elsewhere("configuration_files", ["config.4.0.0.json"]), "names other files"),
    (READ_CONFIGS, "config.json: other weights in their place",
        elsewhere("transformers_weights", "sub/a.safetensors"), "names other files"),
    (READ_CONFIGS, "config.json: NaN", config(layer_norm_eps=float("nan"), rms_norm_eps=1),
        "layer_norm_eps is nan"),
    (READ_CONFIGS, "config.json: NaN as transformers writes it",
        config(rms_norm_eps={"__float__": "NaN"}), "rms_norm_eps is nan"),
    (READ_CONFIGS, "config.json: 1e400", config(initializer_range=float("inf")), "is inf"),
    (READ_CONFIGS, "config.json: 10^9 units wide", config(hidden_size=BILLION), "a network of"),
    (READ_CONFIGS, "config.json: 10^9 words", config(vocab_size=BILLION), "a network of"),
    (READ_CONFIGS, "config.json: 10^9 layers", config(num_hidden_layers=BILLION), "layers is 1e"),
    (READ_CONFIGS, "config.json: 10^9 labels", config(num_labels=BILLION), "labels is 1e"),
    (READ_CONFIGS, "config.json: code of its own", config(
        auto_map={"AutoConfig": "evil.Config"}, model_type="evil"), "cannot read the model config"),
    (READ_CONFIGS, "config.json: nested", text("config.json", "[" * 100_000), "too deeply"),
    (READ_CONFIGS, "config.json: a list", text("config.json", "[]"), "must hold a JSON object"),
    (READ_CONFIGS, "config.json: not UTF-8", text("config.json", b"\xff\xfe{}"), "not UTF-8"),
    (READ_CONFIGS, "config.json: a GiB of zeros", _endless, "larger than"),
    (READ_CONFIGS, "tokenizer.json: no JSON", text("tokenizer.json", "{"), _TOKENIZER),
    (READ_CONFIGS, "tokenizer.json: nested", text("tokenizer.json", "[" * 100_000), _TOKENIZER),
    (READ_CONFIGS, "tokenizer.json: of another kind",
        text("tokenizer.json", '{"model": {"type": "evil"}}'), _TOKENIZER),
    (ENCODER, "config.json: 1,000 experts in each of 1,000 layers", config(
        model_type="switch_transformers", num_layers=1000, num_decoder_layers=1000,
        num_sparse_encoder_layers=1000, num_sparse_decoder_layers=1000, num_experts=1000,
        d_model=8, d_ff=8, d_kv=2, num_heads=2), "a network of so many parts"),
    (ENCODER, "config.json: 10^12 positions", config(max_position_embeddings=10**12), "network of"),
    (READ_CONFIGS, "tokenizer.json: a word that the model has no row for", make.unknown_word,
        "that the model does not know"),
    *((READ_CONFIGS, f"tokenizer_config.json: {value!r} tokens at most", config(
        "tokenizer_config.json", model_max_length=value),
        "no usable tokenizer|cannot load the tokenizer|is no number of")
        for value in ("x", float("inf"), [1])),
    (ENCODER, "tensors that overlap",
        header("model.safetensors", tensor_header(a=(0, 16), b=(8, 24))), "cannot load"),
    (ENCODER, "a tensor past the end of the file",
        header("model.safetensors", tensor_header(a=(0, 1 << 40))), "cannot load"),
    (ENCODER, "a header nested a million deep",
        header("model.safetensors", b"[" * 1_000_000), "cannot load"),
    (ENCODER, "a tensor twice", header("model.safetensors", _TWICE), "cannot load"),
    (_COMPACT, "no weight of a head", tensors(_OWN, without("full.tri_layer.weight")),
        "no weights for tri_layer.weight"),
    (_COMPACT, "no bias of a head", tensors(_OWN, without("full.bin_layer.bias")),
        "no weights for bin_layer.bias"),
    (_COMPACT, "a factor without the other", tensors(_OWN, lambda content: content.update(
        {"right.base_model.pooler.dense.weight": torch.zeros(1, 384)})), "only half of its"),
    (_COMPACT, "a weight of another kind", tensors(_OWN, lambda content: content.update(
        {"half.bin_layer.bias": torch.zeros(2)})), "half.bin_layer.bias is not a weight"),
    (_COMPACT, "factors whose product would take 9 GB", tensors(_OWN, make.wide_factors),
        r"has shape \(50000, 50000\)"),
    (_COMPACT, "config.json: a number as base", config(base=5), "base is 5; it must be str"),
    (_COMPACT, "config.json: a text as a number", config(chunk_words="x"), "it must be int"),
    (_COMPACT, "config.json: a base to download", config(base="hf://org/name"), "is downloaded"),
    (("MODEL_PATH",), "a chat template that loops 10^12 times",
        text("chat_template.jinja", _LOOPS), "chat template"),
    (ADAPTERS, "a rank of 10^9", adapter_config(r=BILLION), "r is 1e.09; at most 10000"),
    (ADAPTERS, "a rank of 10^9 for some", adapter_config(rank_pattern={"q_proj": BILLION}),
        "q_proj is 1e.09; at most 10000"),
    (ADAPTERS, "factors without the others", tensors("adapter_model.safetensors", make.half),
        "lora_B.* hold no plain numbers"),
    (ADAPTERS, "a scale of NaN", adapter_config(lora_alpha=float("nan")), "lora_alpha is nan"),
    (RESUME, "a pickle that would run",
        training(lambda content, folder: content.update(progress=Bomb(folder))), _RUN),
    (RESUME, "a NaN weight", training(nan_weight), "NaN or infinity in"),
    (RESUME, "half of the file", cut("checkpoint.pt"), "has another end"),
]  # fmt: skip

# What is wrong with the encoder that a compact model is a difference from.
_BASES: list[tuple[str, Change, str]] = [
    ("unchanged, on an encoder of its own", lambda _: None, ""),
    ("a base without a weight of its last layer", tensors(
        _OWN, without("encoder.layer.1.output.dense.weight")),
        "no weights for base_model.encoder.layer.1.output.dense.weight"),
    ("a base with a NaN weight", tensors(_OWN, poison(float("nan"))), "NaN or infinity in"),
    ("a base that is a bomb", file_of(_BIN, _small), "is compressed"),
    ("a base whose tokenizer has a word too many", make.unknown_word,
        "that the model does not know"),
    *((f"a base that takes {value!r} tokens at most", config(
        "tokenizer_config.json", model_max_length=value), "no usable tokenizer|is no number of")
        for value in ("x", float("inf"), [1])),
]  # fmt: skip


def _of_tensors(loader: str, name: str) -> Iterable[tuple[str, Change, str]]:
    """What can be wrong with the tensors of any model that is kept as safetensors."""
    if loader != "ALIGNSCORE_MODEL":  # which is never read from a pickle
        yield "a pickle that would run", as_pickle(name, _bomb), _RUN
    yield "half of the file", cut(name), r"[Hh]eader|incomplete|safetensors|invalid"
    yield "a NaN weight", tensors(name, poison(float("nan"))), "NaN or infinity in"
    yield "an infinite weight", tensors(name, poison(float("inf"))), "NaN or infinity in"
    yield "1e300 as a weight", tensors(name, of_matrix(make.overflow)), "NaN or infinity in"
    yield "a complex weight", tensors(name, of_matrix(_complex)), "hold no plain numbers"
    yield "a matrix of another shape", tensors(name, widen), "shape|mismatch|fit|size"
    lie = header(name, b"{}", size=2 << 30)
    yield "a header that claims 2 GiB", lie, "[Hh]eader|safetensors"


def _bomb(folder: Path) -> object:
    return {"weight": Bomb(folder), "padding": torch.zeros(PADDING // 4)}


def _complex(value: Tensor) -> Tensor:
    return value.to(torch.complex64)


def _quantised(value: Tensor) -> Tensor:
    return torch.quantize_per_tensor(value, 0.1, 0, torch.qint8)


_SECONDS = "a GiB of zeros, compressed"
"""In the names of those that take seconds to make."""

_CKPTS: list[tuple[str, Callable[[Path], Path], str]] = [
    ("unchanged", lambda _: ALIGNSCORE / "tiny-roberta.ckpt", ""),
    ("a pickle that would run", bomb_ckpt, "it was not run"),
    ("a bare pickle that would run", bare, r"is not a readable checkpoint \("),
    ("64 MiB of zeros, compressed", ckpt_of(_small), "is compressed"),
    ("a GiB of zeros, compressed", ckpt_of(compressed), "is compressed"),
    ("a bomb with two lists of contents", ckpt_of(make.two_lists), "has another end"),
    ("a bomb with 64 KiB behind it", ckpt_of(make.long_end), "has another end"),
    ("a file on two disks", ckpt_of(make.two_disks), "has another end"),
    ("40 bytes that claim 4 TB", claims, "not a readable checkpoint"),
    ("one number as a matrix of 4 TB", expanded, "hold no weights"),
    ("a sparse weight", ckpt(lambda value: value.to_sparse()), "hold no weights"),
    ("a weight without content", ckpt(lambda value: value.to("meta")), "hold no weights"),
    ("a quantised weight", ckpt(_quantised), "hold no weights"),
    ("a complex weight", ckpt(_complex), "hold no weights"),
    ("1e300 as a weight", ckpt(make.overflow), "NaN or infinity in"),
]


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
            heavy = _SECONDS in what
            found.append(Case(loader, what, changed(kind, change), load, says, heavy))
    for what, change, says in _BASES:
        found.append(Case("ALIGNSCORE_MODEL", what, compact_on(change), make.load_compact, says))
    for what, build, says in _CKPTS:
        heavy = _SECONDS in what
        found.append(Case("ALIGNSCORE_CKPT", what, build, load_ckpt, says, heavy))
    return found
