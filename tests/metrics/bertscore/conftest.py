"""The encoders that BERTScore is tested on: MiniLM, and a RoBERTa of four layers made here."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import RobertaConfig, RobertaModel, RobertaTokenizer

from serve_app.metrics.bertscore import BertScorer
from tests.metrics.bertscore.samples import EMBEDDED, sample_text


@pytest.fixture(scope="package", autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(min(2, before))
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="package")
def minilm() -> BertScorer:
    return BertScorer.from_reference(EMBEDDED, device="cpu")


@pytest.fixture(scope="package")
def roberta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A RoBERTa of 4 layers that reads 96 tokens, and a byte-level BPE trained on our words."""
    directory = tmp_path_factory.mktemp("models") / "tiny-roberta"
    bpe = ByteLevelBPETokenizer()
    rng = random.Random(5)
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    corpus = [sample_text(rng, 40) for _ in range(50)]
    bpe.train_from_iterator(corpus, vocab_size=500, special_tokens=special, show_progress=False)
    directory.mkdir()
    bpe.save_model(str(directory))
    merges = (directory / "merges.txt").read_text(encoding="utf-8").splitlines()[1:]
    tokenizer = RobertaTokenizer(
        vocab=json.loads((directory / "vocab.json").read_text(encoding="utf-8")),
        merges=[tuple(line.split(" ")) for line in merges if line],
        add_prefix_space=True,
        model_max_length=96,
    )
    tokenizer.save_pretrained(directory)
    torch.manual_seed(3)
    config = RobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=48,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=96,
        max_position_embeddings=98,
        type_vocab_size=1,
        initializer_range=0.15,
    )
    RobertaModel(config).save_pretrained(directory)
    return directory
