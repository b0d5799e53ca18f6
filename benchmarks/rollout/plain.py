"""The plain side: the same numbers of tokens for the same prompts, without a detector, a cut or a second round."""

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
import anyio

from benchmarks.rollout.steered import cpu_seconds


@dataclass(frozen=True)
class Style:
    """How a plain client asks. `concurrency` None: everything at once, the engine's queue decides."""

    concurrency: int | None
    is_seeded: bool


async def generate(
    url: str, model: str, legs: Sequence[tuple[list[int], int]], style: Style, temperature: float
) -> dict[str, Any]:
    """Every leg from its bare prompt, as many tokens as the steered side generated; longest prompts in no order."""
    order = list(range(len(legs)))
    random.Random(1).shuffle(order)
    room = anyio.CapacityLimiter(style.concurrency or len(legs))
    tokens = 0

    async def one(session: aiohttp.ClientSession, number: int) -> None:
        nonlocal tokens
        prompt, count = legs[number]
        body = {
            "model": model,
            "prompt": prompt,
            "max_tokens": count,
            "ignore_eos": True,
            "temperature": temperature,
            **({"seed": number} if style.is_seeded else {}),
        }
        async with room, session.post(f"{url}/v1/completions", json=body) as response:
            answer = await response.json()
            if response.status != 200:
                raise RuntimeError(f"{url}: status {response.status} ({str(answer)[:300]})")
        tokens += answer["usage"]["completion_tokens"]

    began, cpu = time.perf_counter(), cpu_seconds()
    timeout, connector = aiohttp.ClientTimeout(total=None), aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session, anyio.create_task_group() as all:
        for number in order:
            all.start_soon(one, session, number)
    wall_s = time.perf_counter() - began
    return {
        "requests": len(legs),
        "wall_s": round(wall_s, 2),
        "decoded_tokens": tokens,
        "decoded_tokens_per_s": round(tokens / wall_s, 1),
        "client_cpu_s": round(cpu_seconds() - cpu, 2),
    }
