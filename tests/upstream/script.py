"""What a scripted upstream is told to do: texts to replay, how to cut them into frames, and where to fail."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from tests.upstream.tokens import THINK_END, THINK_START, encode

Style = Literal["reasoning", "reasoning_content", "inline"]
TokenIds = Literal["null", "absent", "unsupported"]
Action = Literal[
    "fin", "rst", "half_frame", "half_event", "garbage", "not_json", "stall", "no_done", "huge", "error_frame"
]
Path = Literal["chat", "raw", "generate"]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the model makes after its answer text. `arguments` is JSON text."""

    name: str
    arguments: str

    @property
    def markup(self) -> str:
        """The call as the model writes it, before any parser."""
        return f'<tool_call>\n{{"name": "{self.name}", "arguments": {self.arguments}}}\n</tool_call>'


@dataclass(frozen=True, slots=True)
class Trace:
    """One generation. `reasoning` None: the model does not think. `finish`: its own end; max_tokens may come first."""

    reasoning: str | None
    answer: str
    tool_calls: tuple[ToolCall, ...] = ()

    def raw(self, *, is_open: bool) -> str:
        """The text as tokens have it. `is_open`: the prompt already ends inside a think block."""
        thought = ""
        if self.reasoning is not None:
            thought = ("" if is_open else THINK_START) + self.reasoning + THINK_END
        return thought + self.answer + "".join(call.markup for call in self.tool_calls)


@dataclass(frozen=True, slots=True)
class Generation:
    """What a script is asked to continue: `prompt_ids` is the exact prefix, `seed` the seed of this choice."""

    path: Path
    prompt_ids: list[int]
    prompt_text: str
    body: dict[str, Any]
    choice: int = 0
    seed: int | None = None

    @property
    def is_resume(self) -> bool:
        """Whether this goes on from a prefix that the client did not send: ids, or an unfinished message."""
        return self.path != "chat" or bool(self.body.get("continue_final_message"))

    @property
    def is_thinking(self) -> bool:
        """Whether the prompt ends inside an open think block."""
        return self.prompt_text.rfind(THINK_START) > self.prompt_text.rfind(THINK_END)

    @property
    def is_probe(self) -> bool:
        """One-token requests ask what the engine can do; scripts and faults usually leave them alone."""
        return (self.body.get("max_tokens") or self.body.get("max_completion_tokens")) == 1


@dataclass(frozen=True, slots=True)
class Fault:
    """A failure of one response: an error `status` at once, or an `action` once `after_frames` events are out.

    fin, rst: the connection ends mid-body. half_frame: ends inside an event. half_event: the same, but the body ends
    properly. garbage, not_json, huge, error_frame: one bad
    event, then on as before. stall: silence for `stall_s`, then on. no_done: a proper end of the body, without [DONE].
    """

    action: Action | None = None
    after_frames: int = 3
    stall_s: float = 30.0
    status: int | None = None
    body: bytes = b'{"error":{"message":"scripted failure","type":"InternalServerError","param":null,"code":500}}'
    content_type: str | None = None


@dataclass(frozen=True, slots=True)
class Framing:
    """How events are spelt in bytes. `write_bytes`: bytes per write to the socket, None for whole events."""

    newline: Literal["\n", "\r\n", "\r"] = "\n"
    comments: bool = False
    multi_line: bool = False
    space: bool = True
    write_bytes: int | None = None


def _no_fault(_: Generation) -> Fault | None:
    return None


def default_continuation(generation: Generation) -> Trace:
    """Ends the thought, if one is open, and answers."""
    reasoning = " I will answer with care.\n" if generation.is_thinking else None
    return Trace(reasoning, "\n\nHere is a safe answer.")


@dataclass(frozen=True, slots=True)
class Script:
    """All of it. `trace` answers chat requests, `continuation` requests that resume from a prefix.

    `tokens_per_frame` may be a function of the frame's number. `opens_think`: the chat template opens a think block.
    `continues_chat`: `continue_final_message` renders the partial message as it is (else behind a closed think block).
    """

    trace: Trace | Callable[[Generation], Trace] = field(default=Trace("\nOkay, let me think.\n", "\n\nFine."))
    continuation: Callable[[Generation], Trace | str] = default_continuation
    tokens_per_frame: int | Callable[[int], int] = 1
    delay_ms: float = 0.0
    first_delay_ms: float = 0.0
    style: Style = "reasoning"
    opens_think: bool = False
    token_ids: TokenIds = "null"
    has_generate: bool = False
    has_tokenize: bool = True
    continues_chat: bool = False
    model: str = "scripted"
    max_model_len: int | None = 32768
    fault: Callable[[Generation], Fault | None] = _no_fault
    framing: Framing = Framing()

    def text(self, generation: Generation) -> str:
        """The raw text of one generation, markers in it."""
        if generation.is_resume:
            made = self.continuation(generation)
            if isinstance(made, str):
                return made
        else:
            made = self.trace if isinstance(self.trace, Trace) else self.trace(generation)
        return made.raw(is_open=generation.is_thinking)

    def frame_size(self, number: int) -> int:
        """Tokens in a frame."""
        size = self.tokens_per_frame
        return max(1, size if isinstance(size, int) else size(number))


def on_chat(fault: Fault) -> Callable[[Generation], Fault | None]:
    """The fault on every first leg, probes left alone."""
    return lambda generation: fault if not generation.is_resume and not generation.is_probe else None


def on_resume(fault: Fault) -> Callable[[Generation], Fault | None]:
    """The fault on every resumed leg, probes left alone."""
    return lambda generation: fault if generation.is_resume and not generation.is_probe else None


def render(messages: list[dict[str, Any]], *, script: Script, continues: bool = False) -> list[int]:
    """The prompt ids of a conversation by this upstream's chat template."""
    text = ""
    turns = messages[:-1] if continues else messages
    for message in turns:
        text += f"<|im_start|>{message.get('role')}\n{_content(message)}<|im_end|>\n"
    text += "<|im_start|>assistant\n"
    if continues:
        text += ("" if script.continues_chat else f"{THINK_START}\n\n{THINK_END}\n\n") + _content(messages[-1])
    elif script.opens_think:
        text += f"{THINK_START}\n"
    return encode(text)


def _content(message: dict[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return str(content or "")
