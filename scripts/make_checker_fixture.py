"""Makes tests/fixtures/checkers.json: scores of the published checkers' own code on tiny models.

    git clone https://github.com/Liyan06/MiniCheck && git -C MiniCheck checkout b58b9fa
    git clone https://github.com/derenlei/FactCG && git -C FactCG checkout 41f1854
    pip install --no-deps --target SUMMAC summac==0.0.4
    python scripts/make_checker_fixture.py MiniCheck FactCG SUMMAC

The models are those of tests/support/tiny_checkers.py, drawn again by the tests, so the fixture has
numbers only. The published code runs as it is, but for what it takes from elsewhere: models and
tokenizers come from the tiny folders (tokenizer.json unchanged, as in transformers 4); NLTK's
`sent_tokenize`, which needs a download, is `split_sentences`, which tests hold to it; SummaC calls
`batch_encode_plus`, which transformers 5 has no longer. HHEM's code is in its model repository and
not on GitHub: `hhem` restates its `predict`.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import sys
import tempfile
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import nltk  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

from serve_app.metrics.alignscore import load_tokenizer  # noqa: E402
from serve_app.text.sentences import split_sentences  # noqa: E402
from tests.support import tiny_checkers as tiny  # noqa: E402

OUTPUT = ROOT / "tests" / "fixtures" / "checkers.json"
Result = tuple[float, list[str] | None]
"""A score, and the chunks where the code tells them."""

QUOTED = (
    "The authors wrote: \"It didn't help (p = 0.03) -- they can't explain it.\" Dr. Lee et al. saw "
    "5% vs. 12.5% at 9 a.m. on Jan. 3; the U.S. trial cost $1,000.50... Gonna stop? "
    "\u201cYes.\u201d N.B. a/b, x<y & 'so on'."
)
MARKS = "A </s> mark [SEP] <pad>. And <s> [CLS] too, in 14 trials."
SCRIPTS = "Müller fand 12 µg/l – naïve. 治療は有効です。 😀 end it here."


def cases() -> list[dict[str, str]]:
    rng = random.Random(20261130)
    found = []
    for count in (1, 2, 5, 20, 40, 60, 80):
        for name, gaps in (("plain", (" ",)), ("lines", (" ", "\n", "\n\n", " \n "))):
            context = tiny.text(rng, count, gaps)
            found.append((f"{count} {name}", context, tiny.text(rng, 1 + count // 12)))
    few, many = tiny.text(rng, 3), tiny.text(rng, 130)
    long = " ".join(tiny.sentence(rng).rstrip(".!?") for _ in range(60)) + "."
    found += [
        ("a long sentence first", f"{long} {few}", tiny.text(rng, 2)),
        ("a long sentence last", f"{few} {long}", tiny.text(rng, 2)),
        ("a long claim", tiny.text(rng, 20), long),
        ("a claim of 14", tiny.text(rng, 12), tiny.text(rng, 14)),
        ("a source of 130", many, tiny.text(rng, 2)),
        ("short sentences", f"It hurt. {few} No.", f"Yes. {tiny.text(rng, 2)} Why?"),
        ("marks", MARKS, "It has a </s> mark."),
        ("quotes", QUOTED, "It didn't help them, in the U.S. trial."),
        ("other scripts", SCRIPTS, "12 µg/l 有効です。 End it here."),
        ("blank lines", f"\n\nTITLE\n\n{few}\n\t\n \n{long}\n", "A title of it."),
    ]
    return [{"name": name, "context": context, "claim": claim} for name, context, claim in found]


def minicheck(folder: Path, kind: str, chunk_size: int) -> Callable[[str, str], Result]:
    code = importlib.import_module("minicheck.inference")
    scorer = object.__new__(code.Inferencer)
    scorer.model_name = {"roberta": "roberta-large", "deberta": "deberta-v3-large"}.get(
        kind, "flan-t5-large"
    )
    scorer.max_model_len = 512 if kind == "roberta" else 2048
    hub: Any = transformers
    family = hub.AutoModelForSeq2SeqLM if kind == "t5" else hub.AutoModelForSequenceClassification
    scorer.model = family.from_pretrained(folder).eval()
    scorer.tokenizer = load_tokenizer(folder)
    scorer.batch_size, scorer.chunk_size = 16, chunk_size
    seen: list[list[str]] = []

    def spy(doc: list[str], claim: list[str]) -> Any:
        seen.append(list(doc))
        return type(scorer).inference(scorer, doc, claim)

    scorer.inference = spy
    return lambda context, claim: (scorer.fact_check([context], [claim])[0][0], seen[-1])


def factcg(folder: Path) -> Callable[[str, str], Result]:
    code = importlib.import_module("factcg.inference")
    scorer = object.__new__(code.Inferencer)
    scorer.device, scorer.use_hf_ckpt, scorer.verbose = torch.device("cpu"), True, False
    scorer.model_name, scorer.batch_size = "microsoft/deberta-v3-large", 8
    scorer.softmax = torch.nn.Softmax(dim=-1)
    family = transformers.AutoModelForSequenceClassification
    scorer.model = family.from_pretrained(folder).eval()
    scorer.tokenizer = load_tokenizer(folder)
    return lambda *pair: (
        scorer.eval([pair[0]], [pair[1]])[0].tolist()[0],
        scorer.chunking_src(pair[0]),
    )


def hhem(backbone: Path, weights: Path) -> Callable[[str, str], Result]:
    """`HHEMv2ForSequenceClassification.predict` of modeling_hhem_v2.py."""
    config = transformers.AutoConfig.from_pretrained(backbone)
    config.num_labels = 2
    model = transformers.T5ForTokenClassification(config).eval()
    state = load_file(weights / "model.safetensors")
    model.load_state_dict({name.removeprefix("t5."): one for name, one in state.items()}, False)
    model.tie_weights()
    tokenizer = load_tokenizer(backbone)
    prompt = (
        "<pad> Determine if the hypothesis is true given the premise?\n\n"
        "Premise: {text1}\n\nHypothesis: {text2}"
    )

    def score(context: str, claim: str) -> Result:
        asked = tokenizer([prompt.format(text1=context, text2=claim)], return_tensors="pt")
        asked.pop("token_type_ids", None)
        with torch.no_grad():
            logits = model(**asked).logits[:, 0, :]
        return float(torch.softmax(logits, dim=-1)[0, 1]), None

    return score


def summac(folder: Path, key: str, conv: Path | None) -> Callable[[str, str], Result]:
    code: Any = importlib.import_module("summac.model_summac")
    code.model_map[key]["model_card"] = str(folder)
    code.AutoTokenizer = types.SimpleNamespace(from_pretrained=_SummacTokenizer)
    how = {"granularity": "sentence", "device": "cpu", "imager_load_cache": False}
    if conv is None:
        scorer = code.SummaCZS(model_name=key, **how)
    else:
        scorer = code.SummaCConv(
            models=[key], bins="percentile", nli_labels="e", start_file=str(conv), agg="mean", **how
        )
    return lambda *pair: (float(scorer.score([pair[0]], [pair[1]])["scores"][0]), None)


class _SummacTokenizer:
    def __init__(self, folder: str) -> None:
        self._tokenizer = load_tokenizer(Path(folder))
        config = transformers.AutoConfig.from_pretrained(folder)
        self._types = config.type_vocab_size > 1

    def batch_encode_plus(self, pairs: list[tuple[str, str]], **options: Any) -> Any:
        options.pop("truncation_strategy")  # without effect beside `truncation=True`
        first, second = map(list, zip(*pairs, strict=True))
        return self._tokenizer(first, second, return_token_type_ids=self._types, **options)


def main() -> None:
    for place in sys.argv[1:]:
        sys.path.append(str(Path(place).resolve()))
    # Its training code imports Lightning; inference needs only the name.
    for name in ("grounding_model", "factcg_score"):
        sys.modules[f"factcg.{name}"] = types.SimpleNamespace(  # type: ignore[assignment]
            GroundingModel=None, FactCGScore=None
        )
    nltk.download = lambda _: None  # their packages ask for it when imported
    nltk.sent_tokenize = nltk.tokenize.sent_tokenize = lambda text, language="": split_sentences(
        text
    )
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as work:
        made = tiny.save_all(Path(work))
        scorers = {
            "minicheck-roberta": minicheck(made["minicheck-roberta"], "roberta", 400),
            "minicheck-deberta": minicheck(made["minicheck-deberta"], "deberta", 400),
            "minicheck-t5": minicheck(made["minicheck-t5"], "t5", 500),
            "factcg": factcg(made["factcg"]),
            "hhem": hhem(made["t5"], made["hhem"]),
        }
        for kind, key in tiny.NLI_KEYS.items():
            scorers[f"summac-zs-{kind}"] = summac(made[f"nli-{kind}"], key, None)
            scorers[f"summac-conv-{kind}"] = summac(made[f"nli-{kind}"], key, made["conv"])
        table = cases()
        found: dict[str, Any] = {name: {"scores": {}, "chunks": {}} for name in scorers}
        for name, scorer in scorers.items():
            for case in table:
                score, chunks = scorer(case["context"], case["claim"])
                found[name]["scores"][case["name"]] = score
                if chunks is not None:
                    found[name]["chunks"][case["name"]] = tiny.digests(chunks)
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    document = {"versions": versions, "cases": table, "checkers": found}
    OUTPUT.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
