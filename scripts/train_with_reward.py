"""Example: GRPO teaches a tiny language model to write towards the loss, on a CPU.

    python scripts/train_with_reward.py
    python scripts/train_with_reward.py --reward-url http://127.0.0.1:8000

The model is a Llama of two layers with random weights and a vocabulary of whole words, made here:
it begins with word salad. What it learns is the length of sentences and the mixture of plain and
difficult words that human summaries measure; nobody could read what it writes. What is shown is
how the reward is used, and that it moves a model: for a real one see train_generator.py.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Annotated, Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
import typer
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    PrinterCallback,
    set_seed,
)
from trl import GRPOConfig, GRPOTrainer

from serve_app.training.rewards.reward import Reward, local_scorer, loss_reward, remote_scorer

PLAIN = (
    "people who took the tablets had fewer strokes than those given a dummy pill and treatment "
    "lowers blood pressure side effects were not common but some stopped because of them we are "
    "sure that this helps women after birth antibiotics prevent infections pain was lower"
)
DIFFICULT = (
    "hypertension diuretics incidence randomised hypokalaemia cardiovascular moderate certainty "
    "evidence participants prophylaxis caesarean endometritis complications significantly"
)
WORDS = tuple(dict.fromkeys([*PLAIN.split(), *DIFFICULT.split()]))

ORIGINALS = (
    "Low-dose thiazide diuretics reduced the incidence of stroke in adults with hypertension.",
    "Antibiotic prophylaxis before caesarean section reduced the incidence of endometritis.",
)
COMPLETION_TOKENS = 36
GENERATIONS = 12

app = typer.Typer(add_completion=False, pretty_exceptions_show_locals=False)


@dataclass(frozen=True)
class Curve:
    """What came of a run.

    `steps` are the mean rewards of the completions drawn in each step; `before` and `after`, the
    rewards of completions drawn with one seed from the model as it was and as it is.
    """

    steps: list[float]
    before: list[float]
    after: list[float]


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Whole words and full stops; every other word is unknown."""
    tokens = ["<pad>", "<begin>", "<end>", "<unk>", ".", *WORDS]
    backend = Tokenizer(
        models.WordLevel({word: index for index, word in enumerate(tokens)}, unk_token="<unk>")  # nosec B106
    )
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.decoder = decoders.WordPiece(cleanup=True)  # no space before a full stop
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",  # nosec B106
        bos_token="<begin>",
        eos_token="<end>",
        unk_token="<unk>",
        padding_side="left",
    )


def make_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=256,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def drawn_rewards(model: Any, tokenizer: Any, reward: Reward, count: int = 40) -> list[float]:
    """Rewards of completions drawn with a fixed seed, as many of each original."""
    originals = [original for original in ORIGINALS for _ in range(count // len(ORIGINALS))]
    batch = tokenizer(originals, return_tensors="pt", padding=True, return_token_type_ids=False)
    state = torch.get_rng_state()
    torch.manual_seed(1234)
    with torch.inference_mode():
        ids = model.generate(
            **batch, do_sample=True, top_k=0, max_new_tokens=COMPLETION_TOKENS, disable_compile=True
        )
    torch.set_rng_state(state)
    written = tokenizer.batch_decode(
        ids[:, batch["input_ids"].shape[1] :], skip_special_tokens=True
    )
    rewards = reward(prompts=originals, completions=written, original=originals)
    return [found for found in rewards if found is not None]


def train(reward: Reward, *, steps: int, seed: int, learning_rate: float) -> Curve:
    """Trains a new model for some steps."""
    set_seed(seed)
    tokenizer = make_tokenizer()
    model = make_model(tokenizer)
    before = drawn_rewards(model, tokenizer, reward)
    with tempfile.TemporaryDirectory() as folder:
        trainer = GRPOTrainer(
            model=model,
            reward_funcs=reward,
            args=GRPOConfig(
                output_dir=folder,
                max_steps=steps,
                learning_rate=learning_rate,
                lr_scheduler_type="constant",
                per_device_train_batch_size=GENERATIONS * len(ORIGINALS),
                num_generations=GENERATIONS,
                max_completion_length=COMPLETION_TOKENS,
                gradient_checkpointing=False,
                bf16=False,
                use_cpu=True,
                logging_steps=1,
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
                seed=seed,
            ),
            # Any column besides the prompt reaches the reward: here, the originals.
            train_dataset=Dataset.from_list(
                [{"prompt": original, "original": original} for original in ORIGINALS]
            ),
            processing_class=tokenizer,
        )
        trainer.remove_callback(PrinterCallback)  # it prints every number there is
        trainer.train()
    logged = [log["reward"] for log in trainer.state.log_history if "reward" in log]
    return Curve(logged, before, drawn_rewards(trainer.model, tokenizer, reward))


def spread(rewards: Sequence[float]) -> str:
    """Mean and standard error."""
    return f"{mean(rewards):.3f} ± {stdev(rewards) / len(rewards) ** 0.5:.3f}"


@app.command(help=__doc__)
def main(
    steps: int = 24,
    seed: int = 0,
    learning_rate: float = 1e-2,
    reward_url: Annotated[
        str | None, typer.Option(help="a PlainMed server that scores; unset: models in here")
    ] = None,
) -> None:
    scorer = remote_scorer(reward_url) if reward_url else local_scorer()
    curve = train(loss_reward(scorer), steps=steps, seed=seed, learning_rate=learning_rate)
    for start in range(0, len(curve.steps), 5):
        part = curve.steps[start : start + 5]
        level = mean(part)
        bar = "#" * round(50 * level)
        print(f"steps {start + 1:>3}-{start + len(part):<3} reward {level:.3f} {bar}")
    print(f"drawn with one seed: before {spread(curve.before)}, after {spread(curve.after)}")
    print(f"pairs scored {scorer.scored}, known already {scorer.remembered}")


if __name__ == "__main__":
    app()
