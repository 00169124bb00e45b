"""Many clients at once: nothing lost, nothing swapped, every score as if asked alone."""

from __future__ import annotations

import asyncio
import random

import httpx
import pytest

from tests.serving.live.conftest import Server
from tests.support.texts import GENERATED, ORIGINALS

CLIENTS = 64
REQUESTS_EACH = 3
TOLERANCE = 1e-5

Job = tuple[str, dict[str, list[str]]]


def _jobs() -> list[Job]:
    """Requests whose texts all differ, so that a swapped answer cannot go unseen."""
    chooser = random.Random(7)
    sentences = [part.strip() + "." for text in ORIGINALS for part in text.split(". ") if part]
    jobs: list[Job] = []
    for index in range(CLIENTS * REQUESTS_EACH):
        count = chooser.randint(1, 3)
        originals = [" ".join(chooser.sample(sentences, 3)) for _ in range(count)]
        generated = [f"{chooser.choice(GENERATED)} Note {index}." for _ in range(count)]
        path = ("/metrics/relevance", "/metrics/factuality", "/metrics/readability", "/loss")[
            index % 4
        ]
        if path == "/metrics/readability":
            jobs.append((path, {"texts": generated}))
        else:
            jobs.append((path, {"texts_original": originals, "texts_generated": generated}))
    return jobs


def _numbers(path: str, answer: object) -> list[float]:
    if isinstance(answer, float):
        return [answer]
    if isinstance(answer, list):
        return answer
    assert isinstance(answer, dict)
    keys = (
        ("fkgl", "smog", "dale_chall") if path.endswith("readability") else (path.split("/")[-1],)
    )
    return [number for key in keys for number in answer[key]]


async def _post(client: httpx.AsyncClient, job: Job) -> list[float]:
    response = await client.post(job[0], json=job[1])
    assert response.status_code == 200, response.text
    return _numbers(job[0], response.json())


async def test_mixed_load_of_64_clients_answers_as_each_text_alone(server: Server) -> None:
    jobs = _jobs()
    async with httpx.AsyncClient(
        base_url=server.url, timeout=300, limits=httpx.Limits(max_connections=CLIENTS)
    ) as client:

        async def one_client(index: int) -> list[list[float]]:
            return [await _post(client, job) for job in jobs[index::CLIENTS]]

        together = await asyncio.gather(*(one_client(index) for index in range(CLIENTS)))
        answered = {
            id(job): numbers
            for index, results in enumerate(together)
            for job, numbers in zip(jobs[index::CLIENTS], results, strict=True)
        }
        assert len(answered) == len(jobs)
        # Alone means one text a request, one request at a time.
        for job in random.Random(3).sample(jobs, 24):
            path, body = job
            alone: list[list[float]] = []
            for position in range(len(next(iter(body.values())))):
                single = {key: [texts[position]] for key, texts in body.items()}
                alone.append(await _post(client, (path, single)))
            by_metric = [number for column in zip(*alone, strict=True) for number in column]
            assert answered[id(job)] == pytest.approx(by_metric, abs=TOLERANCE)
