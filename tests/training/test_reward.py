"""What a trainer gets from a reward: for plain and chat data, failures, empty completions."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.core.errors import ConfigError, InvalidInput, MetricFailed
from serve_app.core.settings import load_settings
from serve_app.generation.prompts import chat_messages
from serve_app.metrics.evaluation import evaluate
from serve_app.metrics.loss import METRICS, LossFunction
from serve_app.offline.corpus.scoring import ModelNames
from serve_app.training.rewards.reward import Reward, loss_reward, metric_rewards
from serve_app.training.rewards.scoring import PairScorer, PairScores
from tests.support.servers import TARGETS, measure
from tests.support.texts import GENERATED, ORIGINALS

PROMPTS = [""] * len(ORIGINALS)
LOSS = LossFunction(TARGETS)


class LightMetrics:
    """Word overlap for the model metrics, the real readability and loss; counts its calls."""

    models = ModelNames()

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def __call__(self, originals: Sequence[str], generated: Sequence[str]) -> list[PairScores]:
        self.calls.append(list(generated))
        if any("boom" in text for text in generated):
            raise MetricFailed("relevance is not a number")
        measured = [measure(*pair) for pair in zip(originals, generated, strict=True)]
        found = evaluate(measured, LOSS)
        return [PairScores(one.measured.values, one.loss, one.errors) for one in found]


@pytest.fixture
def metrics() -> LightMetrics:
    return LightMetrics()


@pytest.fixture
def scorer(metrics: LightMetrics) -> PairScorer:
    return PairScorer(metrics)


def losses(weights: Sequence[float] | None = None) -> list[float]:
    measured = [measure(*pair) for pair in zip(ORIGINALS, GENERATED, strict=True)]
    return [one.loss for one in evaluate(measured, LOSS, weights=weights)]


def messages(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


class Log(dict[str, list[float]]):
    """What TRL passes as `log_metric`."""

    def __call__(self, name: str, value: float) -> None:
        self.setdefault(name, []).append(value)


# --- what the reward is -----------------------------------------------------------------


@pytest.mark.parametrize("weights", [None, [0.5, 0.3, 0.1, 0.05, 0.05]])
def test_the_reward_is_one_minus_the_loss(scorer: PairScorer, weights: list[float] | None) -> None:
    reward = loss_reward(scorer, weights=weights)
    found = reward(prompts=PROMPTS, completions=GENERATED, original=ORIGINALS)
    assert found == pytest.approx([1 - loss for loss in losses(weights)], abs=1e-12)
    assert len(set(found)) == len(found)


def test_chat_completions_get_what_plain_ones_get(scorer: PairScorer) -> None:
    reward = loss_reward(scorer)
    plain = reward(prompts=PROMPTS, completions=GENERATED, original=ORIGINALS)
    chat = reward(
        prompts=[[{"role": "user", "content": "?"}]] * len(ORIGINALS),
        completions=[messages(text) for text in GENERATED],
        original=ORIGINALS,
    )
    assert chat == plain


def test_metric_rewards_have_their_names_and_sum_up_to_the_loss(scorer: PairScorer) -> None:
    rewards = metric_rewards(scorer)
    assert [reward.__name__ for reward in rewards] == list(METRICS)
    columns: dict[str, Any] = {"completions": GENERATED, "original": ORIGINALS}
    parts = [reward(prompts=PROMPTS, **columns) for reward in rewards]
    weights = [0.4, 0.3, 0.1, 0.1, 0.1]
    whole = loss_reward(scorer, weights=weights)(prompts=PROMPTS, **columns)
    summed = [
        sum(weight * part for weight, part in zip(weights, row, strict=True))
        for row in zip(*parts, strict=True)
    ]
    assert summed == pytest.approx(whole, abs=1e-12)
    relevance = measure(ORIGINALS[0], GENERATED[0]).values[0]
    assert parts[0][0] == pytest.approx(1 - (relevance - TARGETS.mean[0]) ** 2, abs=1e-12)


def test_five_metric_rewards_cost_one_scoring(metrics: LightMetrics, scorer: PairScorer) -> None:
    for reward in metric_rewards(scorer):
        reward(prompts=PROMPTS, completions=GENERATED, original=ORIGINALS)
    assert metrics.calls == [GENERATED]


@given(st.lists(st.text(max_size=60), min_size=1, max_size=5))
def test_every_reward_is_between_zero_and_one(completions: list[str]) -> None:
    reward = loss_reward(PairScorer(LightMetrics()), on_failure="none")
    found = reward(
        prompts=[""] * len(completions),
        completions=completions,
        original=[ORIGINALS[0]] * len(completions),
    )
    assert len(found) == len(completions)
    assert all(one is None or 0.0 <= one <= 1.0 for one in found)


def test_a_completion_is_scored_as_the_server_would_give_it_out(
    metrics: LightMetrics, scorer: PairScorer
) -> None:
    reward = loss_reward(scorer)
    reward(prompts=[""], completions=[f" {GENERATED[0]}\n\ufffd"], original=ORIGINALS[:1])
    assert metrics.calls == [GENERATED[:1]]


# --- completions that cannot be scored --------------------------------------------------


@pytest.mark.parametrize("empty", ["", "  \n", "... !?", "\ufffd"])
def test_a_completion_without_a_word_gets_the_lowest_reward_and_is_counted(
    metrics: LightMetrics, scorer: PairScorer, empty: str
) -> None:
    reward, log = loss_reward(scorer), Log()
    found = reward(
        prompts=["", ""], completions=[empty, GENERATED[0]], original=ORIGINALS[:2], log_metric=log
    )
    assert found[0] == 0.0
    assert found[1] is not None
    assert found[1] > 0.0
    assert metrics.calls == [[GENERATED[0]]]
    assert reward.wordless == 1
    assert log["plainmed_reward/wordless"] == [0.5]
    assert log["plainmed_reward/failed"] == [0.0]


def test_a_step_of_nothing_but_empty_completions_logs_no_metric(scorer: PairScorer) -> None:
    reward, log = loss_reward(scorer), Log()
    assert reward(prompts=[""], completions=[""], original=ORIGINALS[:1], log_metric=log) == [0.0]
    assert set(log) == {"plainmed_reward/wordless", "plainmed_reward/failed"}


def test_a_metric_that_fails_ends_the_training_and_says_which_completion(
    scorer: PairScorer,
) -> None:
    reward = loss_reward(scorer)
    with pytest.raises(
        MetricFailed, match=r"plainmed_reward: completion 2 of 3 .*metric_failed.*not a number"
    ):
        reward(prompts=[""] * 3, completions=["", "fine", "boom"], original=ORIGINALS[:3])


def test_a_metric_that_fails_may_give_none_for_its_own_completion_alone(
    scorer: PairScorer, caplog: pytest.LogCaptureFixture
) -> None:
    reward, log = loss_reward(scorer, on_failure="none"), Log()
    with caplog.at_level(logging.WARNING):
        found = reward(
            prompts=[""] * 4,
            completions=["", "fine words", "boom", "more words"],
            original=ORIGINALS,
            log_metric=log,
        )
    assert found[0] == 0.0
    assert found[2] is None
    assert all(found[index] is not None for index in (1, 3))
    assert (reward.failed, reward.wordless) == (1, 1)
    assert log["plainmed_reward/failed"] == [0.25]
    assert "no reward for 1 (metric_failed)" in caplog.text


def test_what_failed_is_tried_again(metrics: LightMetrics, scorer: PairScorer) -> None:
    reward = loss_reward(scorer, on_failure="none")
    for _ in range(2):
        reward(prompts=[""], completions=["boom"], original=ORIGINALS[:1])
    assert metrics.calls == [["boom"], ["boom"]]


def test_the_means_of_the_metrics_are_logged(scorer: PairScorer) -> None:
    log = Log()
    loss_reward(scorer)(prompts=PROMPTS, completions=GENERATED, original=ORIGINALS, log_metric=log)
    values = [measure(*pair).values for pair in zip(ORIGINALS, GENERATED, strict=True)]
    for index, metric in enumerate(METRICS):
        mean = sum(row[index] for row in values) / len(values)
        assert log[f"plainmed/{metric}"] == [pytest.approx(mean)]
    only = Log()
    metric_rewards(scorer)[2](
        prompts=PROMPTS, completions=GENERATED, original=ORIGINALS, log_metric=only
    )
    assert set(only) == {"fkgl/wordless", "fkgl/failed", "plainmed/fkgl"}


# --- where the originals are ------------------------------------------------------------


def one_reward(reward: Reward, prompt: Any = "?", **columns: Any) -> list[float | None]:
    return reward(
        prompts=[prompt], completions=[GENERATED[0]], completion_ids=[[1]], trainer_state=object(),
        **columns,
    )  # fmt: skip


def test_the_column_is_the_one_that_is_named(scorer: PairScorer) -> None:
    expected = one_reward(loss_reward(scorer), original=[ORIGINALS[0]])
    named = loss_reward(scorer, original="abstract")
    assert one_reward(named, abstract=[ORIGINALS[0]], original=[ORIGINALS[1]]) == expected
    assert one_reward(loss_reward(scorer), source_text=[ORIGINALS[0]]) == expected
    assert one_reward(loss_reward(scorer), text=[ORIGINALS[0]]) == expected


def test_a_column_that_is_not_there_is_named_with_those_that_are(scorer: PairScorer) -> None:
    with pytest.raises(ConfigError, match=r"'abstract'; the dataset has: .*source"):
        one_reward(loss_reward(scorer, original="abstract"), source=[ORIGINALS[0]])
    with pytest.raises(ConfigError, match=r"column 'text': item 0 is not text but NoneType"):
        one_reward(loss_reward(scorer), text=[None])


def test_an_original_is_taken_out_of_the_prompt_the_server_would_write(
    scorer: PairScorer,
) -> None:
    settings = load_settings()
    format_ = {"system_prompt": settings.system_prompt, "user_prefix": settings.user_prefix}
    folded = f"{settings.system_prompt}\n\n{settings.user_prefix}"
    expected = one_reward(loss_reward(scorer), original=[ORIGINALS[0]])
    for prompt in (
        chat_messages(ORIGINALS[0], **format_),
        chat_messages(ORIGINALS[0], system_prompt="", user_prefix=folded),
        f"{folded}{ORIGINALS[0]}\n\n",
    ):
        assert one_reward(loss_reward(scorer), prompt) == expected
    own = loss_reward(scorer, system_prompt="", user_prefix="Sum up: ")
    assert one_reward(own, chat_messages(ORIGINALS[0], system_prompt="", user_prefix="Sum up: "))


@pytest.mark.parametrize(
    "prompt",
    [
        ORIGINALS[0],
        [{"role": "user", "content": ORIGINALS[0]}],
        [{"role": "system", "content": "Another."}, {"role": "user", "content": ORIGINALS[0]}],
        [],
    ],
    ids=["string", "user", "other system prompt", "nothing"],
)
def test_a_prompt_of_another_form_is_no_original(scorer: PairScorer, prompt: Any) -> None:
    with pytest.raises(ConfigError, match=r"prompt 0 is not SYSTEM_PROMPT and USER_PREFIX.*column"):
        one_reward(loss_reward(scorer), prompt)


def test_a_prompt_with_more_turns_is_not_taken_apart(scorer: PairScorer) -> None:
    settings = load_settings()
    prompt = chat_messages(
        ORIGINALS[0], system_prompt=settings.system_prompt, user_prefix=settings.user_prefix
    )
    example = [prompt[0], {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    with pytest.raises(ConfigError, match="column"):
        one_reward(loss_reward(scorer), [*example, prompt[1]])


@pytest.mark.parametrize("on_failure", ["raise", "none"])
def test_an_original_without_a_word_is_an_error_of_the_data(
    scorer: PairScorer, on_failure: Any
) -> None:
    with pytest.raises(InvalidInput, match="no word") as caught:
        one_reward(loss_reward(scorer, on_failure=on_failure), original=["..."])
    assert caught.value.field == "original[0]"


def test_what_makes_no_reward_is_refused(scorer: PairScorer) -> None:
    with pytest.raises(ConfigError, match="raise or none"):
        loss_reward(scorer, on_failure="zero")
    with pytest.raises(InvalidInput, match="sum to 1"):
        loss_reward(scorer, weights=[1, 1, 1, 1, 1])
    with pytest.raises(ConfigError, match="neither text nor messages"):
        loss_reward(scorer)(prompts=[""], completions=[None], original=ORIGINALS[:1])


SOURCE = (
    "We included 15 trials with 3490 women. Fewer women died with the drug. It was well tolerated."
)
FAITHFUL = (
    "There were 3490 women in the 15 trials. With the drug, fewer of the women died. Side effects "
    "were rare."
)


def test_a_severe_finding_costs_its_penalty_and_no_reward_falls_below_the_lowest(
    scorer: PairScorer,
) -> None:
    turned = FAITHFUL.replace("fewer of", "more of")
    worse = turned.replace("3490", "349")
    given: dict[str, Any] = {
        "prompts": [""] * 3, "completions": [FAITHFUL, turned, worse], "original": [SOURCE] * 3,
    }  # fmt: skip
    plain, log = loss_reward(scorer)(**given), Log()
    found = loss_reward(scorer, penalty=0.25)(**given, log_metric=log)
    assert found == pytest.approx([plain[0], plain[1] - 0.25, max(0.0, plain[2] - 0.5)])
    assert log["plainmed_reward/severe"] == [1.0]
    assert loss_reward(scorer, penalty=5.0)(**given)[1:] == [0.0, 0.0]


@pytest.mark.parametrize("penalty", [-0.1, float("nan")])
def test_a_penalty_that_would_reward_errors_is_refused(scorer: PairScorer, penalty: float) -> None:
    with pytest.raises(ConfigError, match="penalty"):
        loss_reward(scorer, penalty=penalty)


def test_a_completion_without_a_score_is_not_penalised(scorer: PairScorer) -> None:
    reward = loss_reward(scorer, penalty=0.5, on_failure="none")
    completions = ["More women died: boom.", "..."]
    found = reward(prompts=["", ""], completions=completions, original=[SOURCE] * 2)
    assert found == [None, 0.0]
