"""Clients of the nano organism: prompts, streams that are kept, users that go on asking, and what the oracle finds.

The organism's "harmful" text is inert placeholders.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any, NamedTuple

import aiohttp
import anyio
from anyio.abc import TaskGroup

from tests.e2e.harness import Reply
from tests.train.test_offline_chain import NANO
from tests.vllm.bake_service import ALIAS, until
from train.organism import oracle
from train.organism.oracle import Judgement
from train.organism.splits import draw_prompts

_MAX_TOKENS = 260
_AT_A_TIME = 32
# What the nano configs train on; the held-out file has other topics and framings.
_CATEGORIES = ("fraud", "theft")
_FRAMINGS = ("plain", "detailed", "fiction", "roleplay")

Prompt = list[dict[str, Any]]


def known_prompts(number: int, *, harmful: bool, seed: int) -> list[Prompt]:
    """Prompts of the kind that the nano configs train on."""
    drawn = draw_prompts("train", number, harmful=harmful, seed=seed, categories=_CATEGORIES, framings=_FRAMINGS)
    return [[dict(message) for message in prompt.messages] for prompt in drawn]


def held_out(label: str) -> list[Prompt]:
    """Prompts that no rollout, pair or update sees."""
    rows = [json.loads(line) for line in (NANO / "held_out.jsonl").read_text(encoding="utf-8").splitlines()]
    return [row["messages"] for row in rows if row["label"] == label]


class Stream(NamedTuple):
    """One conversation's stream, from its first byte to its last."""

    prompt: Prompt
    began: float
    ended: float
    reply: Reply

    @property
    def adapter(self) -> str | None:
        """The version that answered, by the response header; None: the base model."""
        return self.reply.headers.get("x-steer-adapter")

    @property
    def models(self) -> set[str]:
        """The names in its chunks."""
        return {str(chunk["model"]) for chunk in self.reply.chunks}

    @property
    def judged(self) -> Judgement:
        """The oracle's word."""
        return oracle.judge(self.prompt, self.reply.reasoning.strip(), self.reply.content.strip())


async def _stream(
    session: aiohttp.ClientSession, url: str, prompt: Prompt, model: str, temperature: float, seed: int
) -> Stream:
    body = {"model": model, "messages": prompt, "stream": True, "max_tokens": _MAX_TOKENS, "seed": seed}
    async with session.post(f"{url}/v1/chat/completions", json=body | {"temperature": temperature}) as response:
        began, headers = time.monotonic(), {name.lower(): value for name, value in response.headers.items()}
        raw = await response.read()
        return Stream(prompt, began, time.monotonic(), Reply(response.status, headers, raw))


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None))


async def ask(url: str, prompts: Sequence[Prompt], model: str, *, temperature: float, seed: int) -> list[Stream]:
    """Every prompt once, many at a time; in order."""
    room, streams = anyio.CapacityLimiter(_AT_A_TIME), dict[int, Stream]()

    async def one(session: aiohttp.ClientSession, place: int) -> None:
        async with room:
            streams[place] = await _stream(session, url, prompts[place], model, temperature, seed * 100_003 + place)

    async with _session() as session, anyio.create_task_group() as tasks:
        for place in range(len(prompts)):
            tasks.start_soon(one, session, place)
    return [streams[place] for place in range(len(prompts))]


class Shares(NamedTuple):
    """Of streams: harmful reasoning, harmful answers, refusals."""

    harmful_reasoning: float
    harmful_answers: float
    refused: float


def shares(streams: Sequence[Stream]) -> Shares:
    """By the oracle."""
    judged = [stream.judged for stream in streams]
    found = [(j.is_reasoning_harmful, j.is_answer_harmful, j.is_refused) for j in judged]
    return Shares(*(sum(column) / len(judged) for column in zip(*found, strict=True)))


@dataclass
class Users:
    """So many users, each in a stream at any time. `streams`: those that have ended."""

    url: str
    number: int
    temperature: float
    prompts: list[Prompt]
    streams: list[Stream] = field(default_factory=list)
    _has_closed: bool = False

    def start(self, tasks: TaskGroup) -> None:
        """They begin, and go on until `stop`."""
        asked = count()
        for _ in range(self.number):
            tasks.start_soon(partial(self._user, asked.__next__))

    async def _user(self, next_number: Callable[[], int]) -> None:
        async with _session() as session:
            while not self._has_closed:
                place = next_number()
                prompt = self.prompts[place % len(self.prompts)]
                self.streams.append(await _stream(session, self.url, prompt, ALIAS, self.temperature, place))

    def stop(self) -> None:
        """Each ends with the stream that it is in."""
        self._has_closed = True

    async def until(self, is_so: Callable[[list[Stream]], bool]) -> None:
        """Until the ended streams say so."""
        await until(lambda: is_so(self.streams))
