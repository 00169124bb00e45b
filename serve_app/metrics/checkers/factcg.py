"""FactCG: P(supported) of a claim by its best chunk of the document.

Lei et al., "FactCG: Enhancing Fact Checkers with Graph-Based Multi-Hop Data", NAACL 2025, as
`factcg/inference.py` of github.com/derenlei/FactCG computes it with its DeBERTa-v3 checkpoint:

- Sentences are joined by line ends into chunks of at most 550 tokens of NLTK's `word_tokenize`.
- The input is one text, the prompt below, cut at its end to 2,048 tokens.
- The score is softmax(logits)[1], and the largest over the chunks.

One difference is deliberate: where the first sentence has more than 550 words, the published code
also scores an empty chunk; we do not. A summary is split into sentences and their scores averaged
as for AlignScore.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Unpack

from serve_app.core.errors import ConfigError
from serve_app.metrics.checkers.published import (
    Classifier,
    Options,
    WholeClaims,
    load_whole,
    require_labels,
    runs,
)
from serve_app.text.sentences import split_sentences

_CHUNK_WORDS = 550
_LIMIT = 2048
_PROMPT = (
    "{chunk}\n\nChoose your answer: based on the paragraph above can we conclude that "
    '"{sentence}"?\n\nOPTIONS:\n- Yes\n- No\nI think the answer is '
)


class FactCG(WholeClaims):
    """One FactCG model.

    Raises:
        ConfigError: NLTK is not installed.
    """

    def __init__(
        self, model: Any, tokenizer: Any, *, name: str, **options: Unpack[Options]
    ) -> None:
        super().__init__(Classifier(model), model, tokenizer, name=name, limit=_LIMIT, **options)
        self._words = _word_tokenizer()

    def chunks(self, context: str) -> list[str]:
        """Runs of sentences, a line each."""
        sentences = split_sentences(context)
        sizes = [
            sum(len(self._words.tokenize(part)) for part in split_sentences(sentence))
            for sentence in sentences
        ]
        found = [one.strip("\n") for one in runs(sentences, sizes, _CHUNK_WORDS, "\n".join)]
        return [*found[:-1], found[-1].replace(" \n ", "\n").strip()]

    def prompt(self, chunk: str, sentence: str) -> str:
        """The question that the model was trained on."""
        return _PROMPT.format(chunk=chunk, sentence=sentence)


def _word_tokenizer() -> Any:
    try:
        from nltk.tokenize.destructive import NLTKWordTokenizer
    except ImportError:
        raise ConfigError(
            "FACTUALITY_CHECKER=factcg counts words with NLTK, which is not installed: "
            "pip install 'plainmed[checkers]'"
        ) from None
    return NLTKWordTokenizer()


def load(directory: Path, name: str, **options: Unpack[Options]) -> FactCG:
    """The model in a directory.

    Raises:
        CheckpointError: it is no FactCG model, or its files are not what they claim.
        ConfigError: NLTK is not installed.
    """
    model, tokenizer = load_whole(directory)
    require_labels(model, 2, directory)
    return FactCG(model, tokenizer, name=name, **options)
