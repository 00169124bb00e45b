"""Makes tests/fixtures/alignscore: scores of the published AlignScore code on tiny models.

It runs the real reference (PyPI `alignscore-SpeedOfMagic` 0.1.4: the published inference.py
and model.py, packaged), so it needs an environment of its own, which the tests do not:

    python3 -m venv REF && REF/bin/pip install torch==2.13.0
    REF/bin/pip install 'transformers<5' 'numpy<2' spacy pytorch-lightning nltk scikit-learn
    REF/bin/pip install --no-deps alignscore-speedofmagic==0.1.4 llama-index-core
    REF/bin/python scripts/make_alignscore_fixture.py tests/fixtures/alignscore

llama-index-core is there for one thing: its wheel holds NLTK's own punkt_tab data, so the
splitter is `nltk.sent_tokenize` itself. The reference also loads a spaCy model that none of
the six modes uses; a blank one stands in. Models are random but spread out (attention and
heads are drawn wide), so that scores tell chunks and sentences apart; checkpoints are written
by Lightning's Trainer. All text is made here, from a seed.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.metadata
import json
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SEED = 20261122
MODES = ("nli_sp", "bin_sp", "reg_sp", "nli", "bin", "reg")

SUBJECTS = """aspirin;the new inhaler;metformin;a daily walk;the vaccine;Dr. Okafor's team;
low-dose steroid cream;the control group;children under 5;women with migraine;the review;
vitamin D;cognitive therapy;the J. B. Stone trial;older adults;the placebo""".split(";")  # noqa: SIM905
VERBS = """reduced;did not change;increased;may slightly improve;probably lowers;was linked to;
had no effect on;doubled;made little difference to;shortened""".split(";")  # noqa: SIM905
OBJECTS = """blood pressure;the risk of stroke;pain at 12 weeks;hospital stays;nausea;quality of
life;deaths from any cause;the number of attacks;wheezing at night;school absence""".split(";")  # noqa: SIM905
TAILS = """;; in 14 trials (1,204 people);, but the evidence is uncertain; by 3.5 mmHg on average;
 vs. usual care; (low-certainty evidence); at approx. 6 months; in the U.S. and the U.K.;
 (RR 0.84, 95% CI 0.71 to 0.99); compared with no treatment, e.g. rest; after surgery""".split(";")  # noqa: SIM905
STARTS = ["", "", "", "However, ", "In contrast, ", "We found that ", "According to Fig. 2, "]

# Borders of splitting: each is a context and a claim.
ODDITIES = {
    "abbreviations": (
        "Dr. A. Lee et al. saw 5 patients at approx. 9 a.m. on Jan. 3. See Fig. 2 and No. 5. "
        "They met Mr. Stone (cf. p. 12) in the U.S. The dose was 0.5 mg. It helped.",
        "Dr. Lee saw patients at 9 a.m. They took 0.5 mg. See No. 5 for details.",
    ),
    "newlines": (
        "BACKGROUND\n\nAsthma is common.\nIt wheezes\nat night.\n\n\tMAIN RESULTS\r\n"
        "We included 9 trials.  They were small .\n",
        "\n  Asthma is common\n\nTrials were small.\n",
    ),
    "quotes": (
        'She said: "It helped. I slept." (It did!) \u201cReally?\u201d they asked. '
        "\u2018Yes.\u2019 [No harm.] 'So what?' \xabNothing.\xbb Then she left.",
        '"It helped." (She slept!) \u201cNo harm.\u201d',
    ),
    "marks": (
        "Wait . . . what?! No!!! It works... maybe. Does it?? Yes!",
        "It works!!! Really?! . . . Maybe...",
    ),
    "unicode": (
        "Müller\u2019s étude fand 12 µg/l \u2013 naïve patients. 治療は有効です。 "
        "\u200bZero width\u00a0space. Emoji 😀 end. Ελληνικά. Да.",
        "12 µg/l 😀. Naïve patients. 有効です。",
    ),
    "special_tokens": ("A </s> mark <mask> in the text. <pad> and <s> too.", "A </s> mark."),
    "one_word": ("Aspirin", "Aspirin"),
    "no_final_mark": ("Aspirin reduced pain", "pain"),
    "wordless_sentence": ("It hurt. It stopped.", "It stopped. !!! ... It hurt."),
}


def sentence(rng: random.Random) -> str:
    words = rng.choice(STARTS) + rng.choice(SUBJECTS).strip()
    body = f"{words} {rng.choice(VERBS).strip()} {rng.choice(OBJECTS).strip()}"
    text = " ".join((body + rng.choice(TAILS).rstrip("\n")).split())
    return text[0].upper() + text[1:] + rng.choice([".", ".", ".", ".", "!", "?"])


def document(rng: random.Random, words: int) -> str:
    """Text of exactly `words` words."""
    parts: list[str] = []
    while len(parts) < words:
        parts.extend(sentence(rng).split())
    parts = parts[:words]
    parts[-1] = parts[-1].rstrip(".,!?;(") + "."
    return " ".join(parts)


def claim(rng: random.Random, sentences: int) -> str:
    return " ".join(sentence(rng) for _ in range(sentences))


def cases(rng: random.Random) -> Iterator[dict[str, Any]]:
    lengths = [1, 2, 7, 50, 200, 349, 350, 351, 699, 700, 701, 1049, 1050, 1400, 2000]
    counts = [1, 2, 1, 3, 5, 1, 2, 3, 8, 4, 2, 6, 13, 20, 40]
    for words, count in zip(lengths, counts, strict=True):
        text = document(rng, words)
        yield {"name": f"{words}w_{count}s", "context": text, "claim": claim(rng, count)}
    long_words = [word.strip(".,!?") for word in document(rng, 900).split()]
    one = " ".join(long_words).replace(". ", " ") + "."
    yield {"name": "one_sentence_900w", "context": one, "claim": claim(rng, 2)}
    few = f"{' '.join(long_words[:600])}. Short one. {' '.join(long_words[600:])}."
    yield {"name": "fewer_sentences_than_chunks", "context": few, "claim": claim(rng, 3)}
    yield {
        "name": "indented",
        "context": f"  \n{document(rng, 350)}\n ",
        "claim": f" {claim(rng, 2)} ",
    }
    over = " and ".join(long_words[:450]) + "."
    half = " or ".join(long_words[450:530]) + " or so."
    yield {"name": "claim_over_limit", "context": document(rng, 120), "claim": over, "alone": True}
    yield {
        "name": "claim_over_limit_with_mates",
        "context": document(rng, 800),
        "claim": f"{half} {over} {claim(rng, 2)}",
        "alone": True,
    }
    yield {"name": "both_over_limit", "context": one, "claim": over, "alone": True}
    yield {"name": "short_context_claim_over", "context": "Aspirin.", "claim": over, "alone": True}
    for name, (context, text) in ODDITIES.items():
        yield {"name": name, "context": context, "claim": text}
    for name, context, text in (
        ("empty_claim", document(rng, 30), ""),
        ("blank_claim", document(rng, 30), " \n "),
        ("empty_context", "", claim(rng, 2)),
        ("blank_context", " \n ", claim(rng, 2)),
    ):
        yield {"name": name, "context": context, "claim": text}


def save_backbone(kind: str, folder: Path, corpus: list[str]) -> None:
    """A tiny encoder directory of the given kind, tokenizer trained on `corpus`."""
    import tokenizers
    import torch
    import transformers as tf

    folder.mkdir()
    shape: dict[str, Any] = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
    }
    if kind == "roberta":
        bpe = tokenizers.ByteLevelBPETokenizer()
        marks = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
        bpe.train_from_iterator(corpus, vocab_size=480, special_tokens=marks, show_progress=False)
        bpe.save_model(str(folder))
        tokenizer = tf.RobertaTokenizerFast.from_pretrained(str(folder), model_max_length=512)
        config: Any = tf.RobertaConfig(
            vocab_size=len(tokenizer), max_position_embeddings=514, type_vocab_size=1, **shape
        )
    elif kind == "bert":
        piece = tokenizers.BertWordPieceTokenizer()
        piece.train_from_iterator(corpus, vocab_size=420, show_progress=False)
        piece.save_model(str(folder))
        tokenizer = tf.BertTokenizerFast.from_pretrained(str(folder), model_max_length=512)
        config = tf.BertConfig(vocab_size=len(tokenizer), max_position_embeddings=512, **shape)
    else:
        unigram = tokenizers.SentencePieceUnigramTokenizer()
        marks = ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"]
        unigram.train_from_iterator(
            corpus,
            vocab_size=380,
            special_tokens=marks,
            unk_token="<unk>",
            show_progress=False,  # nosec B106 - a mark
        )
        backend = unigram._tokenizer
        ends = [(mark, backend.token_to_id(mark)) for mark in ("[CLS]", "[SEP]")]
        backend.post_processor = tokenizers.processors.TemplateProcessing(
            single="[CLS]:0 $A:0 [SEP]:0",
            pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
            special_tokens=ends,
        )
        tokenizer = tf.AlbertTokenizerFast(tokenizer_object=backend, model_max_length=512)
        config = tf.AlbertConfig(
            vocab_size=len(tokenizer), max_position_embeddings=512, embedding_size=16, **shape
        )
    tokenizer.save_pretrained(str(folder))
    torch.manual_seed(SEED)
    name = {"roberta": "Roberta", "bert": "Bert", "albert": "Albert"}[kind]
    # The pre-training class, as published backbones are: the reference reads its LM head too.
    head = "ForMaskedLM" if kind != "bert" else "ForPreTraining"
    getattr(tf, f"{name}{head}")(config).save_pretrained(str(folder))


def centre_heads(model: Any, name: str, corpus: list[str]) -> None:
    """Scales and shifts each head so that its outputs spread around zero on sample pairs."""
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(name)
    halves = [text.split() for text in corpus]
    contexts = [" ".join(half[: 20 * n]) for n, half in enumerate(halves, 1)]
    claims = [" ".join(half[-4 - n :]) for n, half in enumerate(halves)]
    batch = tokenizer(contexts, claims, truncation="only_first", padding=True, return_tensors="pt")
    model.eval()
    with torch.no_grad():
        pooled = model.base_model(**batch).pooler_output
        for head in (model.bin_layer, model.tri_layer, model.reg_layer):
            head.weight.div_(head(pooled).std(dim=0)[:, None])
            head.bias.sub_(head(pooled).mean(dim=0))


def spread(model: Any, seed: int) -> None:
    """Redraws the weights wide enough that inputs differ in their scores."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    for key, value in model.named_parameters():
        if key.startswith("mlm_head") or value.ndim < 2:
            continue
        if "embeddings" in key:
            width = 1.0
        elif "query" in key or "key" in key:
            width = 2.0 / value.shape[1] ** 0.5
        elif key.startswith(("bin_layer", "tri_layer", "reg_layer")):
            width = 2.5 / value.shape[1] ** 0.5
        else:
            width = 1.2 / value.shape[1] ** 0.5
        with torch.no_grad():
            value.copy_(torch.randn(value.shape, generator=generator) * width)


def reference_scores(scorer: Any, case: dict[str, Any]) -> dict[str, Any]:
    """What the reference says of one case: scores or error by mode, and what it fed the model."""
    scores: dict[str, Any] = {}
    outcome: dict[str, Any] = {"scores": scores}
    fed: list[tuple[list[str], list[str], Any]] = []

    def spy(premise: list[str], hypo: list[str]) -> Any:
        # The three `_sp` modes ask the same of the model and read different heads of the answer.
        for known_premise, known_hypo, result in fed:
            if (known_premise, known_hypo) == (premise, hypo):
                return result
        fed.append((premise, hypo, type(scorer).inference(scorer, premise, hypo)))
        return fed[-1][2]

    for mode in MODES:
        scorer.nlg_eval_mode = mode
        if mode.endswith("_sp"):
            scorer.inference = spy
        else:
            vars(scorer).pop("inference", None)
        try:
            value = scorer.nlg_eval([case["context"]], [case["claim"]])[1]
            scores[mode] = float(value[0])
        except (RuntimeError, ValueError) as error:
            scores[mode] = {"error": f"{type(error).__name__}: {error}"}
    if fed:
        premise, hypo, result = fed[0]
        outcome["chunks"] = list(dict.fromkeys(premise))
        outcome["sentences"] = hypo[: len(hypo) // len(outcome["chunks"])]
        outcome["matrix"] = [round(float(value), 7) for value in result[2][:, 0]]
    return outcome


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[None]:
    """The backbone's name is written into the checkpoint: keep it relative."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def write_checkpoint(name: str, path: Path, seed: int, corpus: list[str]) -> None:
    lightning = importlib.import_module("pytorch_lightning")
    model = importlib.import_module("alignscore.model").BERTAlignModel(
        model=name,
        using_pretrained=True,
        adam_epsilon=1e-8,
        learning_rate=1e-5,
        weight_decay=0.1,
        warmup_steps_portion=0.06,
    )
    spread(model, seed)
    centre_heads(model, name, corpus)
    trainer = lightning.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, max_epochs=3
    )
    trainer.strategy.connect(model)
    trainer.save_checkpoint(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("output", type=Path)
    output = parser.parse_args().output.resolve()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")

    import torch

    nltk: Any = importlib.import_module("nltk")
    spacy: Any = importlib.import_module("spacy")
    data = importlib.metadata.distribution("llama-index-core")
    nltk.data.path.insert(0, str(data.locate_file("llama_index/core/_static/nltk_cache")))
    spacy.load = lambda _: spacy.blank("en")
    inferencer = importlib.import_module("alignscore.inference").Inferencer
    torch.set_num_threads(1)
    rng = random.Random(SEED)
    corpus = [document(rng, 400) for _ in range(20)]
    table = list(cases(rng))
    others: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as work, inside(Path(work)):
        for seed, kind in enumerate(("roberta", "bert", "albert"), SEED):
            name = f"tiny-{kind}"
            save_backbone(kind, Path(name), corpus)
            write_checkpoint(name, Path(f"{name}.ckpt"), seed, corpus)
            chosen = table if kind == "roberta" else [c for c in table if len(c["context"]) < 2000]
            scorer = inferencer(f"{name}.ckpt", name, 32, "cpu", verbose=False)
            for case in chosen:
                if case.get("alone"):
                    # What batch mates make of it, for the record; then each pair by itself.
                    scorer.batch_size = 32
                    case.setdefault("batched", reference_scores(scorer, case)["scores"])
                scorer.batch_size = 1 if case.get("alone") else 32
                found = reference_scores(scorer, case)
                if kind == "roberta":
                    case.update(found)
                else:
                    others.setdefault(name, {})[case["name"]] = found["scores"]
                print(name, case["name"], found["scores"]["nli_sp"], file=sys.stderr)
            target = output / name
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(name, target, ignore=shutil.ignore_patterns("*.safetensors"))
            shutil.copy(f"{name}.ckpt", output / f"{name}.ckpt")
    versions = ("alignscore-SpeedOfMagic", "torch", "transformers", "pytorch-lightning", "nltk")
    lines = [
        '{"versions": ' + json.dumps({name: importlib.metadata.version(name) for name in versions}),
        ', "others": ' + json.dumps(others),
        ', "cases": [',
        ",\n".join(json.dumps(case, ensure_ascii=False) for case in table),
        "]}\n",
    ]
    (output / "cases.json").write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
