"""What the routes do: prompts from requests, sequences run to deltas, deltas to frames or one body.

A job is cancelled from outside (the client left); cancelling it aborts its sequences in the engine."""

import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import anyio
from tokenizers import Tokenizer

from proxy.embedded.engine import Engine
from proxy.embedded.errors import BadRequest, ModelFilesError
from proxy.embedded.frames import Shape
from proxy.embedded.protocol import ChatRequest, CompletionRequest, DetokenizeRequest, TokenizeRequest
from proxy.embedded.sampling import SamplingParams
from proxy.embedded.template import END_OF_TURN, render
from proxy.embedded.textstream import ChatSplitter, Delta, TextStream


class UnknownModel(BadRequest):
    """The request names another model."""


Emit = Callable[[dict[str, Any]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Job:
    """One request ready to run."""

    engine: Engine
    tokenizer: Tokenizer
    shape: Shape
    params: SamplingParams
    choices: int
    include_usage: bool
    skip_special_tokens: bool
    is_thinking: bool = False
    has_tools: bool = False
    shows_reasoning: bool = True

    async def stream(self, emit: Emit) -> None:
        """Emit the chunks of a streamed answer."""
        is_chat = self.shape.kind == "chat"
        for index in range(self.choices if is_chat else 0):
            await emit(self.shape.role(index))
        started: set[int] = set()

        async def handle(index: int, delta: Delta) -> None:
            is_first = index not in started
            started.add(index)
            frame = self.shape.chat(index, delta) if is_chat else self.shape.text(index, delta, is_first=is_first)
            if frame is not None:
                await emit(frame)

        counts = await self._run(handle)
        if self.include_usage:
            await emit(self.shape.usage_chunk(self.shape.usage(counts.generated, counts.reasoning)))

    async def body(self) -> dict[str, Any]:
        """A whole answer."""
        choices: list[list[Delta]] = [[] for _ in range(self.choices)]

        async def handle(index: int, delta: Delta) -> None:
            choices[index].append(delta)

        counts = await self._run(handle)
        usage = self.shape.usage(counts.generated, counts.reasoning)
        whole = self.shape.chat_body if self.shape.kind == "chat" else self.shape.text_body
        return whole(choices, usage)

    async def _run(self, handle: Callable[[int, Delta], Awaitable[None]]) -> "_Counts":
        """Generate all choices side by side; cancelling this aborts them all."""
        counts = _Counts()
        async with anyio.create_task_group() as group:
            for index in range(self.choices):
                group.start_soon(self._choice, index, handle, counts)
        return counts

    async def _choice(self, index: int, handle: Callable[[int, Delta], Awaitable[None]], counts: "_Counts") -> None:
        text = TextStream(self.tokenizer, stop=self.params.stop, skip_special_tokens=self.skip_special_tokens)
        splitter = ChatSplitter(self.tokenizer, is_thinking=self.is_thinking, has_tools=self.has_tools)
        async with aclosing(self.engine.generate(self.shape.prompt_ids, self.params, index)) as tokens:
            async for token in tokens:
                delta = text.push(token.id, token.finish_reason)
                counts.generated += 1
                if self.shape.kind == "chat":
                    splitter.sort(delta)
                    if not self.shows_reasoning:
                        delta.reasoning = ""
                await handle(index, delta)
                if delta.finish_reason is not None:
                    break
        counts.reasoning += splitter.num_reasoning


@dataclass(slots=True)
class _Counts:
    generated: int = 0
    reasoning: int = 0


class Service:
    """The model's engine, tokenizer and name."""

    def __init__(self, engine: Engine, folder: Path, name: str) -> None:
        self.engine, self.name, self.created = engine, name, int(time.time())
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._think, self._think_end = (self._marker(marker, folder) for marker in ("<think>", "</think>"))

    def chat(self, request: ChatRequest) -> Job:
        """Raises BadRequest when the prompt does not fit."""
        self._check_model(request.model)
        ids = self.encode(
            self._render(
                request.messages,
                request.tools,
                request.chat_template_kwargs,
                request.add_generation_prompt,
                request.continue_final_message,
            )
        )
        tools = bool(request.tools) and request.tool_choice != "none"
        # As the engine's tool parser does: markers must survive decoding. They are no special tokens here anyway.
        job = self._job("chat", ids, request)
        return replace(
            job, is_thinking=self._ends_thinking(ids), has_tools=tools, shows_reasoning=request.include_reasoning
        )

    def complete(self, request: CompletionRequest) -> Job:
        self._check_model(request.model)
        ids = self.encode(request.prompt) if isinstance(request.prompt, str) else list(request.prompt)
        return self._job("text", ids, request)

    def tokenize(self, request: TokenizeRequest) -> dict[str, Any]:
        self._check_model(request.model)
        if (request.prompt is None) == (request.messages is None):
            raise BadRequest("give either `prompt` or `messages`")
        text = (
            request.prompt
            if request.prompt is not None
            else self._render(
                request.messages or [],
                request.tools,
                request.chat_template_kwargs,
                request.add_generation_prompt,
                request.continue_final_message,
            )
        )
        encoded = self.tokenizer.encode(text)
        strings = encoded.tokens if request.return_token_strs else None
        return {
            "count": len(encoded.ids),
            "max_model_len": self.engine.model.max_length,
            "tokens": encoded.ids,
            "token_strs": strings,
        }

    def detokenize(self, request: DetokenizeRequest) -> str:
        self._check_model(request.model)
        self._check_ids(request.tokens)
        text: str = self.tokenizer.decode(request.tokens, skip_special_tokens=False)
        return text

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text).ids
        return ids

    def metrics(self) -> str:
        """Prometheus text: the counters and gauges that the engine has under the same names."""
        counters = self.engine.counters
        labels = f'{{engine="0",model_name="{self.name}"}}'
        lines = []
        for name, kind, value in (
            ("vllm:num_requests_running", "gauge", counters.running),
            ("vllm:num_requests_waiting", "gauge", self.engine.num_waiting),
            ("vllm:prompt_tokens_total", "counter", counters.prompt_tokens),
            ("vllm:generation_tokens_total", "counter", counters.generation_tokens),
        ):
            lines += [f"# TYPE {name} {kind}", f"{name}{labels} {float(value)}"]
        lines.append("# TYPE vllm:request_success_total counter")
        for reason, count in counters.finished.items():
            label = f'{{engine="0",finished_reason="{reason}",model_name="{self.name}"}}'
            lines.append(f"vllm:request_success_total{label} {float(count)}")
        return "\n".join(lines) + "\n"

    def _job(self, kind: Any, ids: list[int], request: ChatRequest | CompletionRequest) -> Job:
        self._check_ids(ids)
        room = self.engine.model.max_length - len(ids)
        if not ids:
            raise BadRequest("the prompt is empty")
        if room < 1:
            raise BadRequest(
                f"This model's maximum context length is {self.engine.model.max_length} tokens. However, your "
                f"request has {len(ids)} input tokens. Please reduce the length of the input messages."
            )
        shape = Shape(kind, self.name, ids, bool(request.return_token_ids), Shape.new_id(kind))
        return Job(
            self.engine,
            self.tokenizer,
            shape,
            request.sampling(room),
            request.n,
            request.include_usage,
            request.skip_special_tokens,
        )

    def _render(
        self,
        messages: list[dict[str, Any]],
        tools: list[dict[str, Any]] | None,
        options: dict[str, Any] | None,
        add_generation_prompt: bool,
        continue_final_message: bool,
    ) -> str:
        if continue_final_message and add_generation_prompt:
            raise BadRequest("`continue_final_message` and `add_generation_prompt` exclude one another")
        thinking = (options or {}).get("enable_thinking", True) is not False
        try:
            text = render(messages, tools, enable_thinking=thinking, add_generation_prompt=add_generation_prompt)
        except (KeyError, TypeError, AttributeError) as error:
            raise BadRequest(f"messages are malformed: {error!r}") from error
        return text.removesuffix(END_OF_TURN + "\n") if continue_final_message else text

    def _ends_thinking(self, ids: list[int]) -> bool:
        """Whether the prompt ends inside an opened think block."""
        for id in reversed(ids):
            if id in (self._think, self._think_end):
                return id == self._think
        return False

    def _check_model(self, name: str | None) -> None:
        if name is not None and name != self.name:
            raise UnknownModel(f"The model `{name}` does not exist. Valid aliases: {self.name}.")

    def _check_ids(self, ids: list[int]) -> None:
        size = self.tokenizer.get_vocab_size()
        if any(id >= size for id in ids):
            raise BadRequest(f"token ids must be below {size}, the size of the vocabulary")

    def _marker(self, marker: str, folder: Path) -> int:
        id = self.tokenizer.token_to_id(marker)
        if id is None:
            raise ModelFilesError(f"{folder / 'tokenizer.json'} has no token {marker}")
        return int(id)
