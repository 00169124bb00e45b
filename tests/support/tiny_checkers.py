"""Tiny models of the published checkers' architectures, with random weights, made on the spot.

Each is written as its publisher stores it. Weights are drawn wide enough that scores tell texts
apart. `paragraphs` makes texts from a seed.
"""

from __future__ import annotations

import random
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch
import transformers as tf
from safetensors.torch import load_file, save_file

from serve_app.metrics.alignscore import load_tokenizer
from tests.support.paths import ALIGNSCORE

_WHO = ["Aspirin", "The new inhaler", "Dr. Lee's team", "A daily walk", "The control group"]
_DID = ["lowered", "did not change", "raised", "may slightly improve", "was linked to", "halved"]
_WHAT = ["pain at 12 weeks", "blood pressure", "the risk of stroke", "nausea", "hospital stays"]
_TAIL = ["", "in 14 trials", "by 3.5 mmHg, on average", "vs. usual care", "(RR 0.84, 95% CI)"]

MINICHECKS = ("roberta", "deberta", "t5")
NLI_LABELS = {  # as published: tals/albert-xlarge-vitaminc-mnli, roberta-large-mnli
    "albert": ["SUPPORTS", "REFUTES", "NOT ENOUGH INFO"],
    "roberta": ["CONTRADICTION", "NEUTRAL", "ENTAILMENT"],
}
NLI_KEYS = {"albert": "vitc", "roberta": "mnli"}
"""What SummaC calls models with these labels."""


def sentence(rng: random.Random) -> str:
    parts = [rng.choice(words) for words in (_WHO, _DID, _WHAT, _TAIL)]
    return " ".join(part for part in parts if part) + rng.choice(".....!?")


def text(rng: random.Random, sentences: int, gaps: tuple[str, ...] = (" ",)) -> str:
    """So many sentences, with one of `gaps` after each."""
    return "".join(sentence(rng) + rng.choice(gaps) for _ in range(sentences)).strip()


def save_all(folder: Path) -> dict[str, Path]:
    """Every model, by name."""
    made = {f"minicheck-{kind}": folder / f"minicheck-{kind}" for kind in MINICHECKS}
    for kind in MINICHECKS:
        save_minicheck(kind, made[f"minicheck-{kind}"])
    for kind, labels in NLI_LABELS.items():
        made[f"nli-{kind}"] = save_nli(kind, labels, folder / f"nli-{kind}")
    made["factcg"] = save_deberta(folder / "factcg")
    made |= {"t5": folder / "t5", "hhem": folder / "hhem"}
    save_hhem(made["t5"], made["hhem"])
    made["conv"] = save_conv(folder / "conv.bin")
    return made


def digests(chunks: list[str]) -> list[int]:
    """Numbers that tell chunks apart."""
    return [zlib.crc32(chunk.encode()) for chunk in chunks]


def save_minicheck(kind: str, folder: Path) -> Path:
    """`roberta`, `deberta` or `t5`, as lytang/MiniCheck-* store them: in torch's own format."""
    if kind == "deberta":
        save_deberta(folder)
    elif kind == "roberta":
        model = _classifier("roberta", 2, max_position_embeddings=514)
        _save(model, _tokenizer(kind), folder)
    else:
        model = tf.T5ForConditionalGeneration(_t5_config())
        # Flan-T5's last layer is not its embeddings, which transformers 5 finds out when it loads.
        model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.lm_head.weight))
        _save(model, _tokenizer(kind), folder)
    safe = folder / "model.safetensors"
    torch.save(load_file(safe), folder / "pytorch_model.bin")
    safe.unlink()
    return folder


def save_deberta(folder: Path) -> Path:
    """A DeBERTa-v3 classifier of two labels: MiniCheck's and FactCG's."""
    tokenizer = _tokenizer("deberta")
    config = tf.DebertaV2Config(  # what v3 sets otherwise than the class
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        relative_attention=True,
        position_buckets=16,
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        pos_att_type=["p2c", "c2p"],
        position_biased_input=False,
        max_position_embeddings=64,
        max_relative_positions=-1,
        type_vocab_size=0,
        layer_norm_eps=1e-7,
        pooler_hidden_size=32,
        num_labels=2,
    )
    return _save(tf.DebertaV2ForSequenceClassification(config), tokenizer, folder)


def save_nli(kind: str, labels: list[str], folder: Path) -> Path:
    """`roberta`, `bert` or `albert` with the labels of an NLI model."""
    model = _classifier(kind, 3, id2label=dict(enumerate(labels)))
    return _save(model, _tokenizer(kind), folder)


def save_hhem(backbone: Path, weights: Path) -> None:
    """T5's config and tokenizer, and apart from them the weights under `t5.`."""
    tokenizer = _tokenizer("t5")
    config = _t5_config(num_labels=2)
    start = "<pad> Determine if the hypothesis is true given the premise?\n\nPremise: "
    model = spread(tf.T5ForTokenClassification(config), tokenizer, start)
    backbone.mkdir(parents=True)
    _t5_config().save_pretrained(backbone)
    tokenizer.save_pretrained(backbone)
    weights.mkdir(parents=True)
    state = model.state_dict()
    del state["transformer.encoder.embed_tokens.weight"]  # the same table as `shared`
    save_file({f"t5.{name}": value for name, value in state.items()}, weights / "model.safetensors")
    (weights / "config.json").write_text(
        '{"model_type": "HHEMv2Config", "auto_map": {"AutoConfig": "configuration_hhem_v2.X"}}'
    )


def save_conv(path: Path) -> Path:
    """SummaC-Conv's two layers, as torch saves them."""
    rng = np.random.default_rng(3)
    shapes = {"mlp.weight": (1, 23), "mlp.bias": (1,), "layer_final.weight": (2, 3)}
    shapes["layer_final.bias"] = (2,)
    state = {name: torch.from_numpy(rng.normal(0, 0.3, size)) for name, size in shapes.items()}
    torch.save({name: value.float() for name, value in state.items()}, path)
    return path


def spread(model: Any, tokenizer: Any, start: str = "") -> Any:
    """Redraws the weights so that inputs differ in their scores, and scores lie around a half.

    `start`: how inputs begin.
    """
    rng = np.random.default_rng(20261130)  # the same numbers on every processor
    for name, value in model.named_parameters():
        if value.ndim < 2:
            continue
        width = 1.0 if "embed" in name or "shared" in name else 1.2 / value.shape[1] ** 0.5
        if name.endswith((".q.weight", "relative_attention_bias.weight")):
            width *= 0.5  # T5 does not scale its attention
        with torch.no_grad():
            value.copy_(torch.from_numpy(rng.standard_normal(value.shape) * width))
    texts, draw = [], random.Random(2)
    for count in range(1, 25):
        texts.append(start + text(draw, count))
    found = tokenizer(texts, padding=True, truncation=True, max_length=400, return_tensors="pt")
    batch = {name: found[name] for name in ("input_ids", "attention_mask")}
    model.eval()
    with torch.no_grad():
        if hasattr(model, "lm_head"):
            _centre_answers(model, batch)
            return model
        logits = model(**batch).logits
        logits = logits[:, 0] if logits.ndim == 3 else logits
        last = getattr(model.classifier, "out_proj", model.classifier)
        last.bias.sub_(logits.mean(dim=0))
        for part in (last.weight, last.bias):
            part.mul_((1.5 / logits.std(dim=0)).view(-1, *[1] * (part.ndim - 1)))
    return model


def _centre_answers(model: Any, batch: dict[str, Any]) -> None:
    """The same for the two answers among a T5's tokens, whose layer has no bias."""
    start = torch.zeros((len(batch["input_ids"]), 1), dtype=torch.long)
    out = model(**batch, decoder_input_ids=start, output_hidden_states=True)
    states, weight = out.decoder_hidden_states[-1][:, 0], model.lm_head.weight
    mean, towards = states.mean(dim=0), weight[209] - weight[3]
    towards = towards - mean * (towards @ mean) / (mean @ mean)
    weight[209] = weight[3] + towards * 1.5 / (states @ towards).std()


def _save(model: Any, tokenizer: Any, folder: Path) -> Path:
    spread(model, tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _classifier(kind: str, count: int, **changes: Any) -> Any:
    config = tf.AutoConfig.from_pretrained(ALIGNSCORE / f"tiny-{kind}")
    config.num_labels = count
    for name, value in changes.items():
        setattr(config, name, value)
    return tf.AutoModelForSequenceClassification.from_config(config)


def _t5_config(**changes: Any) -> tf.T5Config:
    return tf.T5Config(  # as flan-t5: gated, and not tied
        vocab_size=320,
        d_model=32,
        d_kv=16,
        d_ff=64,
        num_layers=2,
        num_heads=2,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        decoder_start_token_id=0,
        **changes,
    )


def _tokenizer(kind: str) -> Any:
    if kind not in ("t5", "deberta"):
        return load_tokenizer(ALIGNSCORE / f"tiny-{kind}")
    marks = ["<pad>", "</s>", "<unk>"] if kind == "t5" else ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]
    # Not trained: the trainer's pieces differ from run to run.
    words = {f"\u2581{word}" for word in " ".join([*_WHO, *_DID, *_WHAT, *_TAIL]).split()}
    pieces = [*sorted(words), *map(chr, range(33, 127)), "\u2581"]
    pieces += [first + second for first in "aeioulnrst" for second in "aeioulnrst"]
    scores = [(mark, 0.0) for mark in marks]
    scores += [(piece, 2.0 * len(piece) - 20.0) for piece in dict.fromkeys(pieces)]
    backend = tokenizers.Tokenizer(tokenizers.models.Unigram(scores, unk_id=len(marks) - 1))
    backend.normalizer = tokenizers.normalizers.Replace(tokenizers.Regex(r"\s+"), " ")
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    single, ends = ("$A </s>", ["</s>"]) if kind == "t5" else ("[CLS] $A [SEP]", ["[CLS]", "[SEP]"])
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single=single,
        special_tokens=[(mark, backend.token_to_id(mark)) for mark in ends],
    )
    names = {"t5": ("pad", "eos", "unk"), "deberta": ("pad", "cls", "sep", "unk")}[kind]
    tokens = {f"{name}_token": mark for name, mark in zip(names, marks, strict=True)}
    tokens.setdefault("eos_token", marks[2])  # DeBERTa-v3's is [SEP]
    return tf.PreTrainedTokenizerFast(tokenizer_object=backend, **tokens)
