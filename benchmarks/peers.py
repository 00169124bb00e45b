"""The other side of every case: what people use today, on the same weights.

`bert-score` and `textstat` are the packages themselves. AlignScore's inference cannot be
installed beside this torch, so it is stated here again from the paper and the published code's
behaviour: sample by sample, every (chunk, sentence) padded to 512 tokens, 32 at a time, with the
masked-language-model head run on all of them and its output thrown away.
"""

from __future__ import annotations

from typing import Any

import bert_score
import textstat
import torch
from torch import nn
from transformers import AutoTokenizer, BertConfig
from transformers.models.bert.modeling_bert import BertOnlyMLMHead

from serve_app.metrics.align_model import load_compact
from serve_app.metrics.alignscore import context_chunks
from serve_app.storage.artifacts import resolve
from serve_app.text.sentences import split_sentences

ENCODER = "embedded:all-MiniLM-L6-v2"
ALIGNSCORE = "embedded:alignscore-mini"
_BATCH, _LENGTH = 32, 512


class BertScorePeer:
    """bert-score's own scorer, loaded once, with its default batch size."""

    def __init__(self, layer: int) -> None:
        self.scorer = bert_score.BERTScorer(
            model_type=str(resolve(ENCODER)), num_layers=layer, device="cpu", idf=False
        )

    def score(self, originals: list[str], generated: list[str]) -> list[float]:
        _, _, f1 = self.scorer.score(generated, originals, batch_size=64)
        return [float(value) for value in f1]


class AlignScoreReference:
    """The published inference on the weights of a compact model."""

    def __init__(self) -> None:
        model, self.config, directory = load_compact(resolve(ALIGNSCORE))
        self.model = model.eval()
        config: BertConfig = model.base_model.config
        self.head = BertOnlyMLMHead(config).eval()
        # Published backbones tie it to the word embeddings; its values reach no score.
        self.head.predictions.decoder.weight = model.base_model.embeddings.word_embeddings.weight
        self.tokenizer = AutoTokenizer.from_pretrained(directory)

    def score(
        self, contexts: list[str], claims: list[str], *, chunk_words: int, mode: str
    ) -> list[float]:
        return [
            self._one(context, claim, chunk_words, mode)
            for context, claim in zip(contexts, claims, strict=True)
        ]

    def _one(self, context: str, claim: str, chunk_words: int, mode: str) -> float:
        chunks, sentences = context_chunks(context, chunk_words), split_sentences(claim)
        first = [chunk for chunk in chunks for _ in sentences]
        second = [sentence for _ in chunks for sentence in sentences]
        scores: list[float] = []
        for at in range(0, len(first), _BATCH):
            scores += self._batch(first[at : at + _BATCH], second[at : at + _BATCH], mode)
        table = torch.tensor(scores).view(len(chunks), len(sentences))
        return float(table.max(dim=0).values.mean())

    @torch.no_grad()
    def _batch(self, first: list[str], second: list[str], mode: str) -> list[float]:
        inputs: Any = self.tokenizer(
            first,
            second,
            truncation="only_first",
            padding="max_length",
            max_length=_LENGTH,
            return_tensors="pt",
        )
        output = self.model.base_model(**inputs)
        self.head(output.last_hidden_state)
        pooled = output.pooler_output
        values: torch.Tensor
        if mode.startswith("nli"):
            values = nn.functional.softmax(self.model.tri_layer(pooled), dim=-1)[:, 0]
        elif mode.startswith("bin"):
            values = nn.functional.softmax(self.model.bin_layer(pooled), dim=-1)[:, 1]
        else:
            values = self.model.reg_layer(pooled)[:, 0]
        return [float(value) for value in values]


def textstat_scores(texts: list[str]) -> list[tuple[float, float, float]]:
    """The three scores as the earlier system asked for them."""
    return [
        (
            textstat.flesch_kincaid_grade(text),
            textstat.smog_index(text),
            textstat.dale_chall_readability_score(text),
        )
        for text in texts
    ]
