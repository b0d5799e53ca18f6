"""Builds the leg that resumes a halted stream, by what the engine can do (`proxy.capabilities`)."""

from collections.abc import Mapping

from proxy.capabilities import Capabilities
from proxy.errors import UpstreamError
from proxy.frames import ChatReader
from proxy.guard import ChatRequest
from proxy.legs import ContinuedLeg, Leg, RawLeg, Target
from proxy.records import Transcript
from proxy.resume import continued_body, generate_body, leg_seed, raw_body, remaining_tokens
from proxy.think import ThinkMarkers
from proxy.toolcalls import ToolCallReader
from proxy.upstream import UpstreamClient
from steer.events import Channel


class GenerateLeg(RawLeg):
    """A raw leg on `/inference/v1/generate`, whose sampling parameters the engine renders when it is opened."""

    def __init__(
        self,
        target: Target,
        markers: ThinkMarkers,
        channel: Channel,
        resumer: "Resumer",
        seed: int | None,
        max_tokens: int,
        prefix: list[int],
    ) -> None:
        super().__init__(target, markers, channel, ToolCallReader() if resumer.request.tools else None)
        self._resumer = resumer
        self._seed = seed
        self._max_tokens = max_tokens
        self._prefix = prefix

    async def open(self) -> None:
        """Renders, then opens."""
        resumer = self._resumer
        self._target.body = await generate_body(
            resumer.client, resumer.request, resumer.headers, self._prefix, self._max_tokens, self._seed
        )
        await super().open()


class Resumer:
    """One choice's way back into the engine."""

    def __init__(
        self,
        client: UpstreamClient,
        capabilities: Capabilities,
        markers: ThinkMarkers,
        request: ChatRequest,
        headers: Mapping[str, str],
        choice: int,
    ) -> None:
        self.client = client
        self.request = request
        self.headers = headers
        self._capabilities = capabilities
        self._markers = markers
        self._choice = choice
        self._attempt = 0

    @property
    def can_resume(self) -> bool:
        """Structured output survives a resume only where the engine gates it itself."""
        by = self._capabilities.resume_by
        if self.request.structured:
            return by == "token_ids" and self._capabilities.has_generate
        return by == "token_ids" or (by == "chat" and not self.request.tools)

    @property
    def marker_ids(self) -> frozenset[int]:
        """Ids of the think markers."""
        return self._capabilities.marker_ids

    @property
    def end_marker(self) -> str:
        """The literal that closes reasoning."""
        return self._markers.end

    async def decode(self, ids: list[int]) -> str:
        """Text of ids. Raises DecodeError."""
        return await self._capabilities.tokens.decode(ids, self.headers)

    async def encode(self, text: str) -> list[int] | None:
        """Ids of a trigger; None where the engine is resumed by text. Raises UpstreamError."""
        if self._capabilities.resume_by != "token_ids":
            return None
        return await self._capabilities.tokens.encode(text, self.headers)

    def leg(self, transcript: Transcript, channel: Channel) -> Leg | None:
        """The next leg, not opened yet; None when the client's token budget is spent. Raises UpstreamError."""
        self._attempt += 1
        seed = leg_seed(self.request, self._choice, self._attempt)
        if self._capabilities.resume_by == "chat":
            return self._continued(transcript, channel, seed)
        if transcript.prompt_ids is None:
            raise UpstreamError("the upstream stopped sending prompt token ids; it cannot be resumed")
        prefix = transcript.prompt_ids + transcript.ids
        max_tokens = remaining_tokens(self.request, self._capabilities, len(prefix), transcript.num_shown)
        if max_tokens == 0:
            return None
        if (is_open := self._capabilities.is_thinking_open(prefix)) is not None:
            channel = "reasoning" if is_open else "answer"
        if self.request.structured:
            target = Target(self.client, "/inference/v1/generate", {}, self.headers)
            return GenerateLeg(target, self._markers, channel, self, seed, max_tokens, prefix)
        body = raw_body(self.request, prefix, max_tokens, seed)
        tools = ToolCallReader() if self.request.tools else None
        return RawLeg(Target(self.client, "/v1/completions", body, self.headers), self._markers, channel, tools)

    def _continued(self, transcript: Transcript, channel: Channel, seed: int | None) -> Leg:
        partial = f"{self._markers.start}\n{transcript.reasoning}"
        if channel == "answer":
            partial += f"{self._markers.end}{transcript.answer}"
        body = continued_body(self.request, partial, self.request.max_tokens, seed)
        reader = ChatReader(
            self._markers,
            ids_as_null=False,
            keep_ids=True,
            is_open=lambda ids: True,
            starts_in_reasoning=channel == "reasoning",
        )
        return ContinuedLeg(Target(self.client, "/v1/chat/completions", body, self.headers), reader)
