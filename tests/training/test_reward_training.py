"""TRL's trainers take the rewards, and a model learns from them."""

from __future__ import annotations

from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from serve_app.core.settings import load_settings
from serve_app.generation.openai.messages import chat_messages
from serve_app.metrics.loss import METRICS
from serve_app.metrics.suite import MetricSuite
from serve_app.training.rewards.reward import local_scorer, loss_reward, metric_rewards
from tests.support.scripts import load_script
from tests.support.slow import slow
from tests.support.texts import ORIGINALS
from tests.support.tiny_models import CHAT_TEMPLATE, make_llama, make_tokenizer

COMMON: dict[str, Any] = {
    "max_steps": 2,
    "per_device_train_batch_size": 4,
    "num_generations": 4,
    "max_completion_length": 12,
    "gradient_checkpointing": False,
    "use_cpu": True,
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": [],
    "disable_tqdm": True,
}


@pytest.fixture(autouse=True)
def _threads(one_thread: None) -> None:
    """For every test here."""


@pytest.fixture(scope="module")
def curve(one_thread: None) -> Any:
    """The example's run with the embedded models, shorter than its default."""
    example = load_script("train_with_reward")
    return example.train(loss_reward(local_scorer()), steps=16, seed=0, learning_rate=1e-2)


@slow(25)
def test_the_reward_rises_while_the_example_trains(curve: Any) -> None:
    first, last = curve.steps[:4], curve.steps[-4:]
    assert len(curve.steps) == 16
    # Means of 24 completions each: the spread between steps says what chance can do.
    noise = (stdev(first) ** 2 / len(first) + stdev(last) ** 2 / len(last)) ** 0.5
    assert mean(last) - mean(first) > max(0.05, 3 * noise)


@slow(25)
def test_completions_drawn_with_one_seed_are_better_afterwards(curve: Any) -> None:
    before, after = curve.before, curve.after
    assert len(before) == len(after) == 40
    noise = (stdev(before) ** 2 / len(before) + stdev(after) ** 2 / len(after)) ** 0.5
    assert mean(after) - mean(before) > max(0.05, 3 * noise)


def test_without_a_learning_rate_the_example_stands_still() -> None:
    example = load_script("train_with_reward")
    still = example.train(loss_reward(local_scorer()), steps=1, seed=0, learning_rate=0.0)
    assert still.before == still.after


def test_a_trainer_gets_what_the_reward_gives_by_itself(
    tiny_suite: MetricSuite, tmp_path: Path
) -> None:
    tokenizer = make_tokenizer(CHAT_TEMPLATE)
    reward = loss_reward(local_scorer(suite=tiny_suite), original="abstract")
    seen: list[dict[str, Any]] = []

    def recorded(**given: Any) -> list[float | None]:
        found = reward(**given)
        seen.append({**given, "found": found})
        return found

    # In bfloat16: the trainer's precision must not become the metrics'.
    config = GRPOConfig(output_dir=str(tmp_path), bf16=True, **COMMON)
    prompts = [[{"role": "user", "content": text}] for text in ORIGINALS]
    trainer = GRPOTrainer(
        model=make_llama(tokenizer, context=1024),
        reward_funcs=recorded,
        args=config,
        train_dataset=Dataset.from_dict({"prompt": prompts, "abstract": ORIGINALS}),
        processing_class=tokenizer,
    )
    trainer.train()
    assert len(seen) == 2
    alone = loss_reward(local_scorer(suite=tiny_suite), original="abstract")
    for call in seen:
        again = alone(
            prompts=call["prompts"], completions=call["completions"], abstract=call["abstract"]
        )
        assert call["found"] == pytest.approx(again, abs=1e-6)
        assert len(set(call["abstract"])) == 1  # one group: four completions of one prompt
    logged = [log for log in trainer.state.log_history if "reward" in log]
    assert [log["reward"] for log in logged] == pytest.approx(
        [mean(call["found"]) for call in seen], abs=1e-5
    )
    assert all("plainmed/fkgl" in log and "plainmed_reward/wordless" in log for log in logged)


def test_rloo_takes_weighted_metric_rewards_and_prompts_of_the_server(
    tiny_suite: MetricSuite, tmp_path: Path
) -> None:
    tokenizer = make_tokenizer(CHAT_TEMPLATE)
    settings = load_settings()
    prompts = [
        chat_messages(text, system_prompt=settings.system_prompt, user_prefix=settings.user_prefix)
        for text in ORIGINALS
    ]
    weights = [0.4, 0.3, 0.1, 0.1, 0.1]
    trainer = RLOOTrainer(
        model=make_llama(tokenizer, context=2048),
        reward_funcs=metric_rewards(local_scorer(suite=tiny_suite)),
        args=RLOOConfig(
            output_dir=str(tmp_path), bf16=False, beta=0.0, reward_weights=weights, **COMMON
        ),
        train_dataset=Dataset.from_dict({"prompt": prompts}),
        processing_class=tokenizer,
    )
    trainer.train()
    logged = [log for log in trainer.state.log_history if "reward" in log]
    assert len(logged) == 2
    for log in logged:
        parts = [log[f"rewards/{metric}/mean"] for metric in METRICS]
        assert all(0 <= part <= 1 for part in parts)
        whole = sum(weight * part for weight, part in zip(weights, parts, strict=True))
        assert log["reward"] == pytest.approx(whole, abs=1e-5)


def test_what_cannot_be_scored_is_left_out_of_the_step(
    tiny_suite: MetricSuite, tmp_path: Path
) -> None:
    tokenizer = make_tokenizer(CHAT_TEMPLATE)
    reward = loss_reward(local_scorer(suite=tiny_suite))

    def with_gaps(**given: Any) -> list[float | None]:
        return [None, *reward(**given)[1:]]

    trainer = GRPOTrainer(
        model=make_llama(tokenizer, context=1024),
        reward_funcs=with_gaps,
        args=GRPOConfig(output_dir=str(tmp_path), bf16=False, **COMMON),
        train_dataset=Dataset.from_dict({"prompt": ORIGINALS, "original": ORIGINALS}),
        processing_class=tokenizer,
    )
    trainer.train()
    for log in trainer.state.log_history:
        if "reward" in log:
            assert 0 < log["reward"] < 1
            assert log["grad_norm"] == log["grad_norm"]
