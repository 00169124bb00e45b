"""Who scores for a reward: models here or a server, in batches, and what neither does twice."""

from __future__ import annotations

import json
import multiprocessing
import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from serve_app.client.clients import PlainMedConnectionError
from serve_app.core.errors import ConfigError, InvalidInput, MetricFailed
from serve_app.core.settings import load_settings
from serve_app.metrics.alignscore import AlignScorer
from serve_app.metrics.bertscore import BertScorer
from serve_app.metrics.evaluation import evaluate
from serve_app.metrics.loss import LossFunction
from serve_app.metrics.profiles import load_profile
from serve_app.metrics.suite import MetricSuite
from serve_app.offline.corpus.scoring import RowError
from serve_app.training.rewards.reward import loss_reward, metric_rewards
from serve_app.training.rewards.scoring import PairScorer, PairScores, local_scorer, remote_scorer
from tests.support.servers import TARGETS, Answer, LightBackend, ScriptedServer, api_server
from tests.support.texts import GENERATED, HUMAN, ORIGINALS
from tests.support.tiny_suite import ENCODER

FAST: dict[str, Any] = {"backoff": 0.01}
PAIRS = list(zip(ORIGINALS, GENERATED, strict=True))
AGAIN = list(zip(ORIGINALS, HUMAN, strict=True))


@pytest.fixture
def suite(tiny_align: Path, one_thread: None) -> MetricSuite:
    """With a cache of its own, empty at first."""
    return MetricSuite(
        BertScorer.from_reference(ENCODER, device="cpu", cache_bytes=64 * 2**20),
        AlignScorer.from_reference(str(tiny_align), device="cpu"),
    )


class SuiteBackend(LightBackend):
    """The light backend, but with the real metrics of a suite."""

    def __init__(self, suite: MetricSuite) -> None:
        super().__init__()
        self.suite = suite

    async def evaluate(
        self, originals: Any, generated: Any, human: Any, weights: Any, profile: Any
    ) -> Any:
        return evaluate(self.suite.measure(originals, generated), self.loss, weights=weights)


class Failing(LightBackend):
    """Cannot score summaries with the word boom."""

    async def evaluate(
        self, originals: Any, generated: Any, human: Any, weights: Any, profile: Any
    ) -> Any:
        found = await super().evaluate(originals, generated, human, weights, profile)
        if any("boom" in text for text in generated):
            raise MetricFailed("relevance is not a number")
        return found


@pytest.fixture
def light() -> Iterator[tuple[LightBackend, str]]:
    backend = LightBackend()
    with api_server(backend) as url:
        yield backend, url


def numbers(found: Sequence[PairScores | RowError]) -> list[tuple[float, ...]]:
    assert all(isinstance(one, PairScores) for one in found), found
    return [(*one.values, *one.errors) for one in found if isinstance(one, PairScores)]


# --- here -------------------------------------------------------------------------------


def test_known_originals_are_not_read_again_for_relevance(suite: MetricSuite) -> None:
    scorer = local_scorer(suite=suite)
    scorer.score(PAIRS)
    cache = suite.relevance.cache
    assert (cache.hits, cache.misses) == (0, len(PAIRS))
    scorer.score(AGAIN)
    assert (cache.hits, cache.misses) == (len(PAIRS), len(PAIRS))
    assert scorer.scored == len(PAIRS) + len(AGAIN)


def test_equal_pairs_are_scored_once_and_remembered(suite: MetricSuite) -> None:
    scorer = local_scorer(suite=suite)
    first = scorer.score([PAIRS[0], PAIRS[1], PAIRS[0]])
    assert first[0] == first[2] != first[1]
    assert (scorer.scored, scorer.remembered) == (2, 0)
    assert scorer.score([PAIRS[1], PAIRS[2]])[0] == first[1]
    assert (scorer.scored, scorer.remembered) == (3, 1)


def test_what_is_remembered_is_bounded_and_the_oldest_goes_first(suite: MetricSuite) -> None:
    scorer = local_scorer(suite=suite, remember=2)
    for pair in (*PAIRS[:2], PAIRS[0], PAIRS[2]):
        scorer.score([pair])
    scorer.score([PAIRS[0]])
    assert scorer.scored == 3
    scorer.score([PAIRS[1]])
    assert scorer.scored == 4


def test_batches_give_what_one_call_gives(suite: MetricSuite) -> None:
    whole = numbers(local_scorer(suite=suite).score(PAIRS))
    parts = numbers(local_scorer(suite=suite, batch_size=3).score(PAIRS))
    for one, other in zip(whole, parts, strict=True):
        assert one == pytest.approx(other, abs=1e-5)


def test_the_errors_are_those_of_the_loss_of_the_settings(suite: MetricSuite) -> None:
    scorer = local_scorer(suite=suite)
    loss: LossFunction = scorer.metrics.loss  # type: ignore[attr-defined]
    for found in scorer.score(PAIRS):
        assert isinstance(found, PairScores)
        assert found.errors == pytest.approx(loss.errors([found.values])[0].tolist())


SHORT = ("We saw 20 people. 5 had pain.", "We saw 20 people with QZX. 6 had pain.")
"""The second sentence misleads, the first has a short name that nothing explains."""


def test_a_profile_is_the_same_reward_here_and_on_a_server(suite: MetricSuite) -> None:
    here = local_scorer(suite=suite, profile="public")
    columns = {"completions": [SHORT[1]], "original": [SHORT[0]]}
    [reward] = loss_reward(here)(prompts=[""], **columns)
    profile = load_profile("public", load_settings())
    [wanted] = profile.evaluate(suite.measure([SHORT[0]], [SHORT[1]]), [SHORT[0]], [SHORT[1]])
    assert [one.error for one in wanted.terms] == [0.5, 0.5]
    assert reward == pytest.approx(1 - wanted.loss)
    assert reward != pytest.approx(loss_reward(local_scorer(suite=suite))([""], **columns)[0])
    with api_server(LightBackend()) as url:
        there = remote_scorer(url, profile="public")
        [scores] = there.score([SHORT])
        [found] = loss_reward(there)(prompts=[""], **columns)
        again = pickle.loads(pickle.dumps(there))
        assert again.score([SHORT]) == [scores]
    assert isinstance(scores, PairScores)
    assert scores.terms == wanted.terms
    assert found == pytest.approx(1 - scores.loss)  # type: ignore[operator]


def test_a_metric_alone_is_rewarded_without_the_terms_of_the_profile(suite: MetricSuite) -> None:
    scorer = local_scorer(suite=suite, profile="patient")
    [scores] = scorer.score([SHORT])
    assert isinstance(scores, PairScores)
    for reward, error in zip(metric_rewards(scorer), scores.errors, strict=True):
        columns = {"completions": [SHORT[1]], "original": [SHORT[0]]}
        assert reward(prompts=[""], **columns) == pytest.approx([1 - error])


def test_an_unknown_profile_is_refused_before_anything_is_scored(suite: MetricSuite) -> None:
    with pytest.raises(InvalidInput, match="cochrane, public or patient"):
        local_scorer(suite=suite, profile="children")  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="cochrane, public or patient"):
        remote_scorer("http://127.0.0.1:1", profile="children")  # type: ignore[arg-type]


@pytest.mark.parametrize("option", ["batch_size", "remember"])
def test_a_number_out_of_range_is_refused(suite: MetricSuite, option: str) -> None:
    with pytest.raises(ConfigError, match=option):
        local_scorer(suite=suite, **{option: -1})  # type: ignore[arg-type]


# --- on a server ------------------------------------------------------------------------


def test_a_server_gives_what_the_models_behind_it_give_here(suite: MetricSuite) -> None:
    backend = SuiteBackend(suite)
    here = numbers(
        [
            PairScores(one.measured.values, one.loss, one.errors)
            for one in evaluate(suite.measure(ORIGINALS, GENERATED), LossFunction(TARGETS))
        ]
    )
    suite.relevance.cache.clear()
    hits = suite.relevance.cache.hits
    with api_server(backend) as url:
        scorer = remote_scorer(url, **FAST)
        there = numbers(scorer.score(PAIRS))
        # The server keeps the originals: another completion of them finds all of them read.
        scorer.score(AGAIN)
    for one, other in zip(here, there, strict=True):
        assert one == pytest.approx(other, abs=1e-5)
    assert suite.relevance.cache.hits == hits + len(PAIRS)


def test_pairs_are_sent_in_batches_and_none_twice(light: tuple[LightBackend, str]) -> None:
    backend, url = light
    scorer = remote_scorer(url, batch_size=3, connections=2, **FAST)
    found = scorer.score([*PAIRS, *AGAIN, *PAIRS])
    assert sorted(map(len, backend.scored)) == [2, 3, 3]
    assert found[: len(PAIRS)] == found[-len(PAIRS) :]
    scorer.score([*AGAIN, (ORIGINALS[0], "Something new.")])
    assert backend.scored[-1] == ["Something new."]
    assert len(backend.scored) == 4


def evaluation_answer(url: str) -> Answer:
    """What the real gateway answers about the first pair."""
    import httpx

    body = {"texts_original": [ORIGINALS[0]], "texts_generated": [GENERATED[0]]}
    return Answer(body=httpx.post(f"{url}/evaluate", json=body).content)


def test_requests_share_a_connection_and_a_busy_server_is_asked_again(
    light: tuple[LightBackend, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = evaluation_answer(light[1])
    busy = Answer(503, json.dumps({"error": {"code": "unavailable", "message": "busy"}}).encode())
    with ScriptedServer([busy, answer]) as server:
        accepted: list[Any] = []
        accept = server._server.get_request
        monkeypatch.setattr(
            server._server, "get_request", lambda: accepted.append(accept()) or accepted[-1]
        )
        scorer = remote_scorer(server.url, batch_size=1, connections=1, **FAST)
        found = scorer.score([(ORIGINALS[0], "A."), (ORIGINALS[0], "B.")])
        assert len(server.received) == 3
        assert len(accepted) == 1
    assert numbers(found)[0] == numbers(found)[1]


def test_a_server_that_cannot_score_one_pair_scores_the_others() -> None:
    with api_server(Failing()) as url:
        completions = ["Fine words.", "Now boom.", "More words.", "Other words."]
        pairs = [(ORIGINALS[0], text) for text in completions]
        found = remote_scorer(url, **FAST).score(pairs)
        assert [isinstance(one, RowError) for one in found] == [False, True, False, False]
        columns = {"completions": completions, "original": [ORIGINALS[0]] * 4}
        with pytest.raises(MetricFailed, match=r"completion 1 of 4 .*not a number.*HTTP 500"):
            loss_reward(remote_scorer(url, **FAST))(prompts=[""] * 4, **columns)
        lenient = loss_reward(remote_scorer(url, **FAST), on_failure="none")
        rewards = lenient(prompts=[""] * 4, **columns)
    assert [one is None for one in rewards] == [False, True, False, False]


@pytest.mark.parametrize("on_failure", ["raise", "none"])
def test_a_server_that_is_gone_ends_the_training_either_way(on_failure: Any) -> None:
    with ScriptedServer([Answer()]) as server:
        url = server.url
    reward = loss_reward(remote_scorer(url, retries=1, **FAST), on_failure=on_failure)
    with pytest.raises(PlainMedConnectionError, match="2 attempts"):
        reward(prompts=[""], completions=["Words."], original=ORIGINALS[:1])


def test_a_server_without_metrics_is_an_error_of_its_own() -> None:
    body = json.dumps({"error": {"code": "not_served", "message": "no metrics here"}}).encode()
    with ScriptedServer([Answer(404, body)]) as server:
        reward = loss_reward(remote_scorer(server.url, **FAST), on_failure="none")
        with pytest.raises(Exception, match="no metrics here"):
            reward(prompts=[""], completions=["Words."], original=ORIGINALS[:1])


# --- in several processes ---------------------------------------------------------------


def _rewards_there(pickled: bytes) -> tuple[list[float | None], int]:
    """Run in another process: what the reward gives there, and how many pairs it has scored."""
    import torch

    torch.set_num_threads(1)
    reward = pickle.loads(pickled)
    found = reward(prompts=[""] * 4, completions=GENERATED, original=ORIGINALS)
    return found, reward.scorer.scored


def test_each_process_scores_for_itself_and_they_agree(one_thread: None) -> None:
    reward = loss_reward(local_scorer())
    here = reward(prompts=[""] * 4, completions=GENERATED, original=ORIGINALS)
    before = reward.scorer.scored
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        there, scored = pool.apply(_rewards_there, [pickle.dumps(reward)])
    assert there == pytest.approx(here, abs=1e-6)
    assert scored - before == len(GENERATED)


def test_a_remote_reward_can_be_sent_and_one_with_loaded_models_says_why_not(
    light: tuple[LightBackend, str], suite: MetricSuite
) -> None:
    backend, url = light
    reward = loss_reward(remote_scorer(url, **FAST))
    sent = pickle.loads(pickle.dumps(reward))
    assert sent.__name__ == "plainmed_reward"
    columns = {"completions": GENERATED, "original": ORIGINALS}
    assert sent(prompts=[""] * 4, **columns) == reward(prompts=[""] * 4, **columns)
    assert len(backend.scored) == 2
    with pytest.raises(ConfigError, match="settings instead of a suite"):
        pickle.dumps(PairScorer(local_scorer(suite=suite).metrics))
