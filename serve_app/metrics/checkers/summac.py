"""SummaC: entailment of each summary sentence by single sentences of the source.

Laban et al., "SummaC: Re-Visiting NLI-based Models for Inconsistency Detection in Summarization",
TACL 10, 2022, as `summac/model_summac.py` of github.com/tingofurro/summac (PyPI `summac` 0.0.4)
computes it in the configuration of its README (`granularity="sentence"`):

- Sentences of at most 10 characters are dropped, of the source those after the first 100 too. An
  NLI model reads every pair, cut to 500 tokens, the longer sentence first.
- ZS: the largest P(entailment) less the largest P(contradiction) over the source, averaged over
  the summary: in [-1, 1].
- Conv: the histogram of P(entailment) over the source in 23 bins, through a trained layer; the
  mean over the first 10 sentences of the summary, through a second one: in [0, 1].

The published code reads which label is which from a table of eight models; other models say it by
their `id2label`. Where no sentence is left, it gives a fixed number; here the text is refused.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor, nn

from serve_app.core.errors import CheckpointError
from serve_app.metrics.alignscore import Sample, Values
from serve_app.metrics.checkers.published import (
    ADVICE,
    Classifier,
    Options,
    PublishedChecker,
    load_whole,
    require_labels,
)
from serve_app.models.encoder_runtime import Batch
from serve_app.models.verification import refusing, require_finite, require_sound_files
from serve_app.text.sentences import split_sentences

_LIMIT = 500
_SHORTEST = 11  # characters
_MOST_CHUNKS, _MOST_ROWS = 100, 10
# Quantiles of P(entailment) on summaries, by the authors; the last bin holds 1.
_BINS = [0.0, 0.01, 0.02, 0.03, 0.04, 0.07, 0.13, 0.37, 0.9, 0.91, 0.92, 0.93, 0.94, 0.95, 0.955]
_BINS += [0.96, 0.965, 0.97, 0.975, 0.98, 0.985, 0.99, 0.995, 1.0]
# Entailment and contradiction of the models that SummaC knows.
_LABELS = {
    "SNLI_roberta-base": (0, 2),
    "SNLI_roberta-large": (0, 2),
    "deberta-base-mnli": (2, 0),
    "roberta-large-mnli": (2, 0),
    "roberta-large-snli_mnli_fever_anli_R1_R2_R3-nli": (0, 2),
    "albert-base-vitaminc-mnli": (0, 1),
    "albert-xlarge-vitaminc-mnli": (0, 1),
    "albert-xlarge-vitaminc": (0, 1),
}
_ENTAILMENT, _CONTRADICTION = ("entail", "support"), ("contradict", "refute")


class SummaCZS(PublishedChecker):
    """SummaC-ZS with one NLI model.

    Raises:
        CheckpointError: the model's labels do not say which is entailment and which contradiction.
    """

    def __init__(
        self, model: Any, tokenizer: Any, *, name: str, **options: Unpack[Options]
    ) -> None:
        known = _LABELS.get(name.rpartition(":")[2])
        self._labels = list(known or _named_labels(model.config.id2label, name))
        super().__init__(Classifier(model), model, tokenizer, name=name, limit=_LIMIT, **options)

    def chunks(self, context: str) -> list[str]:
        """The sentences long enough to count."""
        return self.sentences(context)

    def sentences(self, claim: str) -> list[str]:
        """The sentences long enough to count."""
        return [one for one in split_sentences(claim) if len(one) >= _SHORTEST]

    def split(self, context: str, claim: str) -> Sample:
        """Sentences of both, of the context the first 100."""
        chunks = self.chunks(context)
        return Sample(chunks[:_MOST_CHUNKS], self.sentences(claim), len(chunks) > _MOST_CHUNKS)

    def read(self, output: Tensor, batch: Batch) -> Sequence[Values]:
        """The probabilities of entailment and of contradiction."""
        found: list[list[float]] = output.float().softmax(dim=-1)[:, self._labels].tolist()
        return list(map(tuple, found))

    def combine(self, columns: Sequence[Sequence[Values]]) -> float:
        """Mean over the sentences of largest entailment less largest contradiction."""
        scores = [
            max(entails for entails, _ in one) - max(contradicts for _, contradicts in one)
            for one in columns
        ]
        return math.fsum(scores) / len(scores)


class SummaCConv(SummaCZS):
    """SummaC-Conv with one NLI model.

    Args:
        final: the layers `mlp` (bins to 1) and `layer_final` (3 to 2).
        model, tokenizer, name, options: as for `SummaCZS`.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        final: nn.ModuleDict,
        *,
        name: str,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(model, tokenizer, name=name, **options)
        self._final = final.eval()

    def split(self, context: str, claim: str) -> Sample:
        """As ZS; only the first 10 sentences of the claim count for its score."""
        found = super().split(context, claim)
        return found._replace(cut=found.cut or len(found.sentences) > _MOST_ROWS)

    @torch.inference_mode()
    def combine(self, columns: Sequence[Sequence[Values]]) -> float:
        """The trained layers on the histograms of entailment."""
        rows = [
            np.histogram([entails for entails, _ in one], bins=_BINS)[0]
            for one in columns[:_MOST_ROWS]
        ]
        mean = self._final["mlp"](torch.tensor(np.array(rows), dtype=torch.float32)).mean()
        logits: Tensor = self._final["layer_final"](mean.repeat(3))
        return float(logits.softmax(dim=-1)[1])


def _named_labels(id2label: dict[Any, Any], name: str) -> list[int]:
    labels = {int(at): str(label).lower() for at, label in id2label.items()}
    found = []
    for words in (_ENTAILMENT, _CONTRADICTION):
        named = [at for at, label in labels.items() if any(word in label for word in words)]
        if len(named) != 1:
            raise CheckpointError(
                f"{name}: the labels of its config.json are {', '.join(labels.values())}, and not "
                f"one of them says {' or '.join(words)}; name each under id2label as the model was "
                "trained"
            )
        found += named
    return found


def load(directory: Path, weights: Path | None, name: str, **options: Unpack[Options]) -> SummaCZS:
    """SummaC with the NLI model in a directory.

    Args:
        directory: such as a copy of tals/albert-xlarge-vitaminc-mnli.
        weights: Conv's layers, `summac_conv_vitc_sent_perc_e.bin`; None: ZS.
        name: name of the model in results.
        options: as for `ClaimScorer`.

    Raises:
        CheckpointError: it is no NLI model of three labels, or the files are not what they claim.
    """
    model, tokenizer = load_whole(directory)
    require_labels(model, 3, directory)
    if weights is None:
        return SummaCZS(model, tokenizer, name=name, **options)
    return SummaCConv(model, tokenizer, _load_final(weights), name=name, **options)


def _load_final(path: Path) -> nn.ModuleDict:
    if not path.is_file():
        raise CheckpointError(f"FACTUALITY_WEIGHTS: {path} is no file; {ADVICE}")
    final = nn.ModuleDict({"mlp": nn.Linear(len(_BINS) - 1, 1), "layer_final": nn.Linear(3, 2)})
    require_sound_files(path, CheckpointError)
    with refusing(f"{path} does not hold the layers of SummaC-Conv", CheckpointError):
        state = torch.load(path, map_location="cpu", weights_only=True)
        require_finite(state, path, ADVICE, CheckpointError)
        final.load_state_dict(state)
    return final
