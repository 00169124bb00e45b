"""The transformers engine decodes as transformers does, whatever else is in the batch."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    Lfm2Config,
    MistralConfig,
    Qwen3Config,
)

from serve_app.core.errors import PlainMedError
from serve_app.generation.causal.decoding import Row
from serve_app.generation.causal.engine import TransformersGenerator
from serve_app.generation.causal.scheduler import Scheduler, SequenceStream
from serve_app.generation.protocol import GenerationParams
from serve_app.generation.text_stream import final_text
from serve_app.models.causal_lm import CausalModel, load_causal_model
from tests.generation.causal.engines import GREEDY, PROMPT, TEXTS, engine, model_of
from tests.support.tiny_models import make_llama, make_tokenizer, speak

CPU = torch.device("cpu")


def by_transformers(
    engine: TransformersGenerator, module: Any, texts: list[str], new: int
) -> list[list[int]]:
    """The ids transformers' own `generate` writes for one left-padded batch of prompts."""
    prompts = [engine._prompter.encode(text) for text in texts]
    batch = make_tokenizer().pad(
        {"input_ids": prompts}, padding=True, padding_side="left", return_tensors="pt"
    )
    output = module.generate(**batch, do_sample=False, repetition_penalty=1.1, max_new_tokens=new)
    written: list[list[int]] = output[:, batch["input_ids"].shape[1] :].tolist()
    return written


def by_us(engine: TransformersGenerator, texts: list[str], params: GenerationParams) -> Any:
    """The ids our loop writes for the same batch, without a stop token to end it."""
    rows = [Row(tuple(engine._prompter.encode(t)), params) for t in texts]
    streams = [SequenceStream(row) for row in rows]
    Scheduler(model_of(engine), stop_ids={1}, max_rows=16).submit(streams)
    return [list(stream) for stream in streams]


# --- decoding ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["plain", "chat", "adapter"])
def test_greedy_equals_transformers_generate_alone_and_left_padded(folder: Path, name: str) -> None:
    subject = engine(folder / name)
    module = load_causal_model(folder / name, device=CPU, dtype=torch.float32).model
    expected = by_transformers(subject, module, TEXTS, 60)
    assert by_us(subject, TEXTS, GREEDY) == expected
    for text, theirs in zip(TEXTS, expected, strict=True):
        alone = by_transformers(subject, module, [text], 60)
        assert alone == by_us(subject, [text], GREEDY) == [theirs]
        assert len(set(theirs)) > 20, "degenerate output proves nothing"
    texts = [final_text(subject._prompter.decode(theirs)) for theirs in expected]
    assert [summary.text for summary in subject.generate(TEXTS, [GREEDY] * len(TEXTS))] == texts
    assert len(set(texts)) == len(texts)


@pytest.mark.parametrize(
    ("family", "options"),
    [
        (MistralConfig, {"sliding_window": 16}),
        (Qwen3Config, {"head_dim": 16}),
        (GPT2Config, {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256}),
        (Lfm2Config, {"full_attn_idxs": [1]}),
    ],
    ids=["sliding-window", "qwen3", "learned-positions", "recurrent"],
)
def test_other_families_equal_transformers_too(family: Any, options: dict[str, Any]) -> None:
    tokenizer = make_tokenizer()
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    ends = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    sizes = {} if family is GPT2Config else shape | heads
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        family(vocab_size=len(tokenizer), **sizes, **ends, **options)
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(0.0, 0.2)
        model.get_output_embeddings().weight[tokenizer.all_special_ids] = 0.0
    subject = TransformersGenerator(CausalModel(model, tokenizer, 256), name="other", **PROMPT)
    for text in TEXTS[:2]:
        (theirs,) = by_transformers(subject, model, [text], 30)
        assert by_us(subject, [text], replace(GREEDY, max_new_tokens=30)) == [theirs]
        assert len(set(theirs)) > 5
    params = [replace(GREEDY, max_new_tokens=n) for n in (30, 4, 30)]
    together = subject.generate(TEXTS[:3], params)
    alone = [subject.generate([t], [p])[0] for t, p in zip(TEXTS[:3], params, strict=True)]
    assert together == alone


def test_seeded_sampling_does_not_depend_on_the_batch(plain: TransformersGenerator) -> None:
    params = [
        GenerationParams(max_new_tokens=20 + 9 * i, temperature=t, top_p=p, seed=40 + i)
        for i, (t, p) in enumerate([(0.2, 0.9), (1.0, 1.0), (0.7, 0.5), (0.0, 0.9), (1.5, 0.95)])
    ]
    alone = [plain.generate([t], [p])[0] for t, p in zip(TEXTS, params, strict=True)]
    assert plain.generate(TEXTS, params) == alone
    assert plain.generate(TEXTS[::-1], params[::-1]) == alone[::-1]
    twice = plain.generate([TEXTS[1], TEXTS[1]], [params[1], params[1]])
    assert twice[0] == twice[1] == alone[1]


def test_more_texts_than_a_batch_come_back_in_order(
    folder: Path, plain: TransformersGenerator
) -> None:
    small = engine(folder / "plain", batch_size=2)
    params = [GREEDY] * len(TEXTS)
    assert small.generate(TEXTS, params) == plain.generate(TEXTS, params)


def test_different_seeds_differ_and_no_seed_draws_afresh(plain: TransformersGenerator) -> None:
    def write(seed: int | None) -> str:
        params = GenerationParams(max_new_tokens=30, temperature=1.0, seed=seed)
        return plain.generate(TEXTS[:1], [params])[0].text

    assert len({write(1), write(2), write(3)}) == 3
    assert len({write(None), write(None), write(None)}) == 3


def test_a_small_nucleus_is_greedy_and_sampling_follows_the_distribution() -> None:
    # Two tokens with probabilities 3/4 and 1/4 after the prompt, all others next to none.
    tokenizer = make_tokenizer()
    model = make_llama(tokenizer)
    last, a, b = (tokenizer(t)["input_ids"][-1] for t in ("\n\n", "A", "B"))
    speak(model, [last, a])
    with torch.no_grad():
        hidden = model.model(torch.tensor([[last]])).last_hidden_state[0, -1]
        direction = hidden / hidden.dot(hidden)
        model.lm_head.weight.zero_()
        model.lm_head.weight[a] = direction * 30
        model.lm_head.weight[b] = direction * (30 - torch.log(torch.tensor(3.0)))
    subject = TransformersGenerator(
        CausalModel(model, tokenizer, 256), name="coin", batch_size=64, **PROMPT
    )

    def share_of_a(**options: Any) -> float:
        params = [
            GenerationParams(max_new_tokens=1, repeat_penalty=1.0, seed=i, **options)
            for i in range(400)
        ]
        texts = [s.text for s in subject.generate(["Pain."] * 400, params)]
        assert set(texts) <= {"A", "B"}
        return texts.count("A") / 400

    assert share_of_a(temperature=1.0, top_p=1.0) == pytest.approx(0.75, abs=0.07)
    # At temperature 2 the odds 3:1 become sqrt(3):1.
    assert share_of_a(temperature=2.0, top_p=1.0) == pytest.approx(0.634, abs=0.08)
    assert share_of_a(temperature=1.0, top_p=0.7) == 1.0
    assert share_of_a(temperature=1.0, top_p=0.8) < 1.0
    assert share_of_a(temperature=0.0, top_p=1.0) == 1.0


def test_threads_do_not_disturb_each_other(plain: TransformersGenerator) -> None:
    params = [GenerationParams(max_new_tokens=25, temperature=0.9, seed=i) for i in range(5)]
    expected = [plain.generate([t], [p])[0] for t, p in zip(TEXTS, params, strict=True)]
    with ThreadPoolExecutor(5) as pool:
        found = list(
            pool.map(
                lambda pair: plain.generate([pair[0]], [pair[1]])[0],
                list(zip(TEXTS, params, strict=True)) * 3,
            )
        )
    assert found == expected * 3


def test_logits_that_are_not_finite_are_an_error() -> None:
    tokenizer = make_tokenizer()
    model = make_llama(tokenizer)
    with torch.no_grad():
        model.model.norm.weight[3] = float("nan")
    subject = TransformersGenerator(CausalModel(model, tokenizer, 256), name="broken", **PROMPT)
    with pytest.raises(PlainMedError, match="not finite") as caught:
        subject.generate(TEXTS[:1], [GREEDY])
    assert caught.value.code == "generation_failed"
    assert caught.value.status == 500


# --- streaming and cancelling -----------------------------------------------------------


def test_variants_of_a_seed_differ_and_each_repeats(plain: TransformersGenerator) -> None:
    params = [
        GenerationParams(max_new_tokens=20, temperature=1.0, seed=5, variant=variant)
        for variant in range(4)
    ]
    together = plain.generate(TEXTS[:1] * 4, params)
    assert len({summary.text for summary in together}) == 4
    assert [plain.generate(TEXTS[:1], [one])[0] for one in params] == together
    ordinary = replace(params[0], variant=0)
    assert plain.generate(TEXTS[:1], [ordinary])[0] == together[0]
