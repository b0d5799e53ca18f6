"""Sees what passes between the proxy and the engine: every resume's body and every event, from inside the client.

The expectation that tests hold the proxy to is made from this, from the scorer and from the segmenter alone: it knows
nothing of the engine's state machine, the outbox or the cut.
"""

import json
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from proxy.upstream import UpstreamClient, UpstreamStream
from steer.segmenter import segment
from steer.triggers import DEFAULT_TRIGGERS

_LEGS = ("/v1/chat/completions", "/v1/completions", "/inference/v1/generate")


@dataclass
class Leg:
    """One request to the engine and all that came back before it was closed."""

    path: str
    body: dict[str, Any]
    events: list[dict[str, Any]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)  # arrival of each event, seconds on the performance counter

    @property
    def is_probe(self) -> bool:
        return self.body.get("max_tokens") == 1

    @property
    def prefix(self) -> list[int]:
        """Ids that the engine was told to go on from; for the first leg, the prompt's."""
        if "prompt" in self.body:
            return list(self.body["prompt"])
        if "token_ids" in self.body:
            return list(self.body["token_ids"])
        return next((event["prompt_token_ids"] for event in self.events if event.get("prompt_token_ids")), [])

    @property
    def choices(self) -> list[dict[str, Any]]:
        return [choice for event in self.events for choice in event.get("choices", [])]

    @property
    def token_ids(self) -> list[int]:
        return [id for choice in self.choices for id in choice.get("token_ids") or []]

    def cuts(self, at: int) -> list[int]:
        """Where a cut at `at` may fall, best first: no earlier than the last event boundary before it."""
        ends = [0]
        for choice in self.choices:
            delta = choice.get("delta", choice)
            ends.append(ends[-1] + len(delta.get("reasoning") or delta.get("text") or ""))
        return list(range(at, max(end for end in ends if end <= at) - 1, -1))

    @property
    def texts(self) -> tuple[str, str]:
        """Reasoning and answer, in the engine's own words; raw legs are split at their first closing marker."""
        if self.path == "/v1/chat/completions":
            deltas = [choice["delta"] for choice in self.choices]
            return (
                "".join(delta.get("reasoning") or "" for delta in deltas),
                "".join(delta.get("content") or "" for delta in deltas),
            )
        text = "".join(choice.get("text") or "" for choice in self.choices)
        return (text, "")


@dataclass
class Spy:
    """Legs in the order in which they were opened."""

    legs: list[Leg] = field(default_factory=list)

    def take(self) -> list[Leg]:
        """The legs since the last call, probes left out."""
        legs, self.legs = self.legs, []
        return [leg for leg in legs if not leg.is_probe]


@contextmanager
def spying() -> Iterator[Spy]:
    """Watch every UpstreamClient of this process."""
    spy = Spy()
    stream, batches = UpstreamClient.stream, UpstreamStream._batches

    async def watched(
        self: UpstreamClient, path: str, body: Mapping[str, Any], headers: Mapping[str, str] | None = None
    ) -> UpstreamStream:
        opened = await stream(self, path, body, headers)
        if path in _LEGS:
            leg = Leg(path, dict(body))
            spy.legs.append(leg)
            opened.leg = leg  # type: ignore[attr-defined]
        return opened

    async def noted(self: UpstreamStream) -> AsyncIterator[list[bytes]]:
        async for payloads in batches(self):
            leg = getattr(self, "leg", None)
            if leg is not None:
                leg.events += [json.loads(payload) for payload in payloads]
                leg.times += [time.perf_counter()] * len(payloads)
            yield payloads

    UpstreamClient.stream, UpstreamStream._batches = watched, noted  # type: ignore[method-assign]
    try:
        yield spy
    finally:
        UpstreamClient.stream, UpstreamStream._batches = stream, batches  # type: ignore[method-assign]


def is_as_expected(shown: str, legs: list[Leg], is_cue: Callable[[str], bool], triggers: list[str]) -> bool:
    """Whether a client was shown what it must be, given what the engine said and which triggers were drawn.

    Up to each cut: the text before the first cue, less at most the token that the cut falls into (a token may hold
    a line break and the blanks of the next line). Then the trigger. Nothing else, and nothing of the cue.
    """
    texts = {trigger.id: trigger.text for trigger in DEFAULT_TRIGGERS}
    prefix = ""
    for index, leg in enumerate(legs):
        reasoning = leg.texts[0].partition("</think>")[0]
        cut = next((s.start for s in segment(reasoning) if is_cue(reasoning[s.start : s.end])), None)
        if cut is None:
            return shown == prefix + reasoning
        if index >= len(triggers):  # refused
            return any(shown == prefix + reasoning[:kept] for kept in leg.cuts(cut))
        for kept in leg.cuts(cut):
            before = prefix + reasoning[:kept]
            after = before + ("" if not before or before[-1].isspace() else " ") + texts[triggers[index]]
            if shown.startswith(after):
                prefix = after
                break
        else:
            return False
    return shown == prefix
