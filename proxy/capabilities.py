"""What the engine behind a model name can do, found out once by asking it (one token each), not by its version.

The answers decide how a halted stream is resumed: by token ids (exact), by continuing a chat message (only where the
rendered prompt is seen to end inside an open think block), or not at all (then a halt becomes a refusal).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import anyio
from tokenizers import Tokenizer

from proxy.errors import UpstreamError, UpstreamStatusError
from proxy.think import ThinkMarkers
from proxy.tokens import ModelTokens
from proxy.upstream import UpstreamClient

ResumeBy = Literal["token_ids", "chat", "none"]

_PROBE_MESSAGES = [{"role": "user", "content": "Hello"}]
_PROBE_REASONING = "Okay, let me think about this first."


@dataclass(frozen=True, slots=True)
class Capabilities:
    """One model's answers. `ids_as_null`: unasked chunks carry the token-id keys as null rather than not at all."""

    model: str
    resume_by: ResumeBy
    ids_as_null: bool
    has_generate: bool
    max_model_len: int | None
    start_ids: frozenset[int]
    end_ids: frozenset[int]
    tokens: ModelTokens

    @property
    def marker_ids(self) -> frozenset[int]:
        """Ids that are think markers by themselves."""
        return self.start_ids | self.end_ids

    def is_thinking_open(self, ids: list[int]) -> bool | None:
        """Whether a sequence ends inside an open think block, by its last marker; None where it holds none."""
        for id in reversed(ids):
            if id in self.end_ids:
                return False
            if id in self.start_ids:
                return True
        return None


class Prober:
    """Finds and remembers capabilities per model; concurrent first requests for a model share one probe."""

    def __init__(self, client: UpstreamClient, markers: ThinkMarkers, tokenizer: Tokenizer | None) -> None:
        self._client = client
        self._markers = markers
        self._tokenizer = tokenizer
        self._known: dict[str, Capabilities] = {}
        self._lock = anyio.Lock()

    async def models(self, headers: Mapping[str, str]) -> dict[str, int | None]:
        """Model ids that the engine serves, with their context length where it says. Raises UpstreamError."""
        try:
            listed = json.loads(await self._client.get("/v1/models", headers))["data"]
            lengths = {str(item["id"]): item.get("max_model_len") for item in listed}
            parents = {str(item["id"]): str(item.get("parent")) for item in listed}
            # An adapter has its base model's length, and says whose it is.
            return {id: length or lengths.get(parents[id]) for id, length in lengths.items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UpstreamError("the upstream's /v1/models is not an OpenAI model list") from error

    async def of(self, model: str, headers: Mapping[str, str]) -> Capabilities:
        """Capabilities of a model. Raises UpstreamError, UpstreamStatusError; failures are not remembered."""
        if (known := self._known.get(model)) is not None:
            return known
        async with self._lock:
            if (known := self._known.get(model)) is None:
                known = await self._probe(model, headers)
                if len(self._known) < 256:  # bounds memory against clients that invent adapter names
                    self._known[model] = known
        return known

    async def _probe(self, model: str, headers: Mapping[str, str]) -> Capabilities:
        lengths = await self.models(headers)
        unasked = await self._first_events(model, headers, asked=False)
        tokens = ModelTokens(self._client, model, self._tokenizer)
        try:
            asked = await self._first_events(model, headers, asked=True)
        except UpstreamStatusError as error:
            if error.status != 400:
                raise
            asked = b""  # an engine that knows no return_token_ids
        prompt_ids = _prompt_ids(asked)
        start_ids = await self._marker_ids(tokens, self._markers.start, headers)
        end_ids = await self._marker_ids(tokens, self._markers.end, headers)
        resume_by: ResumeBy = "none"
        if prompt_ids and await self._takes_ids(model, prompt_ids, headers):
            resume_by = "token_ids"
        elif not prompt_ids and await self._continues_chat(model, headers):
            resume_by = "chat"
        return Capabilities(
            model=model,
            resume_by=resume_by,
            ids_as_null=b'"token_ids":null' in unasked,
            has_generate=resume_by == "token_ids" and await self._has_generate(headers),
            max_model_len=lengths.get(model),
            start_ids=start_ids,
            end_ids=end_ids,
            tokens=tokens,
        )

    async def _first_events(self, model: str, headers: Mapping[str, str], *, asked: bool) -> bytes:
        body: dict[str, Any] = {"model": model, "messages": _PROBE_MESSAGES, "max_tokens": 1, "stream": True}
        if asked:
            body["return_token_ids"] = True
        async with await self._client.stream("/v1/chat/completions", body, headers) as stream:
            return b"\n".join([payload async for batch in stream for payload in batch])

    async def _marker_ids(self, tokens: ModelTokens, marker: str, headers: Mapping[str, str]) -> frozenset[int]:
        """The id of a marker that is one token; none where it is spelt in several (then the text decides)."""
        try:
            ids = await tokens.encode(marker, headers)
        except UpstreamError:
            return frozenset()
        return frozenset(ids) if len(ids) == 1 else frozenset()

    async def _takes_ids(self, model: str, prompt_ids: list[int], headers: Mapping[str, str]) -> bool:
        body = {
            "model": model,
            "prompt": prompt_ids,
            "max_tokens": 1,
            "stream": True,
            "return_token_ids": True,
        }
        try:
            async with await self._client.stream("/v1/completions", body, headers) as stream:
                payloads = [payload async for batch in stream for payload in batch]
        except UpstreamError:
            return False
        return any(b'"token_ids":[' in payload.replace(b" ", b"") for payload in payloads)

    async def _has_generate(self, headers: Mapping[str, str]) -> bool:
        """Both routes exist when an empty body is a bad request rather than an unknown path."""
        for path in ("/v1/chat/completions/render", "/inference/v1/generate"):
            try:
                await self._client.post(path, {}, headers)
            except UpstreamStatusError as error:
                if error.status in (404, 405, 501):
                    return False
            except UpstreamError:
                return False
        return True

    async def _continues_chat(self, model: str, headers: Mapping[str, str]) -> bool:
        """Whether a continued assistant message is rendered inside an open think block, reasoning intact."""
        body = {
            "model": model,
            **continued_chat(_PROBE_MESSAGES, self._markers.start + "\n" + _PROBE_REASONING),
        }
        try:
            ids = json.loads(await self._client.post("/tokenize", body, headers))["tokens"]
            answer = await self._client.post("/detokenize", {"model": model, "tokens": ids}, headers)
            text = str(json.loads(answer)["prompt"])
        except (UpstreamError, ValueError, KeyError, TypeError):
            return False
        # A template that puts an empty, closed block first would give the model two thoughts, the second unexpected.
        is_only_block = text.count(self._markers.start) == 1 and self._markers.end not in text
        return is_only_block and text.endswith(_PROBE_REASONING)


def continued_chat(messages: list[dict[str, Any]], partial: str) -> dict[str, Any]:
    """Body fields that make an engine go on with an unfinished assistant message."""
    return {
        "messages": [*messages, {"role": "assistant", "content": partial}],
        "continue_final_message": True,
        "add_generation_prompt": False,
    }


def _prompt_ids(payloads: bytes) -> list[int]:
    for line in payloads.splitlines():
        try:
            ids = json.loads(line).get("prompt_token_ids")
        except (ValueError, AttributeError):
            continue
        if isinstance(ids, list):
            return ids
    return []
