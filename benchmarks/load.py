"""Clients that keep a server busy over HTTP; knows URLs and times, not what is computed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import httpx

Body = dict[str, Any]


async def _post(client: httpx.AsyncClient, url: str, body: Body) -> tuple[float, Any]:
    start = time.perf_counter()
    response = await client.post(url, json=body)
    response.raise_for_status()
    return time.perf_counter() - start, response.json()


async def _clients(url: str, shares: Sequence[Sequence[Body]]) -> list[list[tuple[float, Any]]]:
    limits = httpx.Limits(max_connections=len(shares), max_keepalive_connections=len(shares))
    async with httpx.AsyncClient(timeout=600, limits=limits) as client:

        async def one(bodies: Sequence[Body]) -> list[tuple[float, Any]]:
            return [await _post(client, url, body) for body in bodies]

        return await asyncio.gather(*(one(bodies) for bodies in shares))


def closed_loop(url: str, shares: Sequence[Sequence[Body]]) -> list[list[tuple[float, Any]]]:
    """One client a share, each sending its bodies one after the other.

    Returns:
        For each client, (seconds, answer) of each of its bodies.

    Raises:
        httpx.HTTPStatusError: an answer was not a 2xx.
    """
    return asyncio.run(_clients(url, shares))


async def _open(url: str, bodies: Sequence[Body], rate: float) -> list[tuple[float, int]]:
    async with httpx.AsyncClient(timeout=600, limits=httpx.Limits(max_connections=None)) as client:
        origin = time.perf_counter()

        async def one(number: int, body: Body) -> tuple[float, int]:
            due = origin + number / rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            response = await client.post(url, json=body)
            # From when it was due, not from when it was sent: a slow server hides nothing.
            return time.perf_counter() - due, response.status_code

        return await asyncio.gather(*(one(n, body) for n, body in enumerate(bodies)))


def open_loop(url: str, bodies: Sequence[Body], rate: float) -> list[tuple[float, int]]:
    """Sends a body every 1/rate seconds, whatever comes back: (seconds since due, status) each."""
    return asyncio.run(_open(url, bodies, rate))
