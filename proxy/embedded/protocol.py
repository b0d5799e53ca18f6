"""Requests of the embedded server: the subset of vLLM's fields that the proxy and the demo use.

Unknown fields are ignored, as the engine does; known fields that would change the meaning but are not supported
(logprobs, structured output, echo, beam search) are refused by name, never silently dropped.
"""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from proxy.embedded.errors import BadRequest
from proxy.embedded.sampling import SamplingParams

TokenId = Annotated[int, Field(ge=0)]
_Request = TypeVar("_Request", bound=BaseModel)


class StreamOptions(BaseModel):
    """`include_usage` adds a last chunk with the token counts."""

    model_config = ConfigDict(extra="ignore")

    include_usage: bool | None = False


class _Generation(BaseModel):
    model_config = ConfigDict(extra="ignore")

    model: str | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    n: int = Field(default=1, ge=1, le=16)
    temperature: float | None = Field(default=None, ge=0)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=-1)
    seed: int | None = None
    stop: list[str] = []
    stream: bool = False
    stream_options: StreamOptions | None = None
    return_token_ids: bool | None = False
    skip_special_tokens: bool = True
    ignore_eos: bool = False

    @field_validator("stop", mode="before")
    @classmethod
    def _as_list(cls, value: Any) -> Any:
        return [] if value is None else [value] if isinstance(value, str) else value

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    def sampling(self, room: int) -> SamplingParams:
        """`room`: tokens that fit behind the prompt."""
        return SamplingParams(
            max_tokens=min(self.wanted_tokens or room, room),
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            top_k=max(self.top_k or 0, 0),
            seed=self.seed,
            stop=tuple(text for text in self.stop if text),
            ignore_eos=self.ignore_eos,
        )

    @property
    def wanted_tokens(self) -> int | None:
        return self.max_tokens


class ChatRequest(_Generation):
    """POST /v1/chat/completions."""

    messages: list[dict[str, Any]] = Field(min_length=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    tools: list[dict[str, Any]] | None = None
    tool_choice: Any = None
    include_reasoning: bool = True
    chat_template_kwargs: dict[str, Any] | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False

    @property
    def wanted_tokens(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens


class CompletionRequest(_Generation):
    """POST /v1/completions; `prompt` is one text or one list of token ids."""

    prompt: str | list[TokenId]
    max_tokens: int | None = Field(default=16, ge=1)
    add_special_tokens: bool = True


class TokenizeRequest(BaseModel):
    """POST /tokenize with `prompt` or `messages`."""

    model_config = ConfigDict(extra="ignore")

    model: str | None = None
    prompt: str | None = None
    messages: list[dict[str, Any]] | None = None
    tools: list[dict[str, Any]] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    return_token_strs: bool | None = False


class DetokenizeRequest(BaseModel):
    """POST /detokenize."""

    model_config = ConfigDict(extra="ignore")

    model: str | None = None
    tokens: list[TokenId]


_UNSUPPORTED: tuple[tuple[str, Any], ...] = (
    ("logprobs", False),
    ("prompt_logprobs", None),
    ("echo", False),
    ("use_beam_search", False),
    ("suffix", None),
    ("response_format", None),
    ("structured_outputs", None),
    ("logit_bias", None),
    ("allowed_token_ids", None),
    ("min_tokens", 0),
    ("frequency_penalty", 0),
    ("presence_penalty", 0),
    ("repetition_penalty", 1),
)


def parse(kind: type[_Request], body: Any) -> _Request:
    """The request; raises BadRequest that names the wrong or unsupported field."""
    if not isinstance(body, dict):
        raise BadRequest("the request body must be a JSON object")
    for name, neutral in _UNSUPPORTED:
        value = body.get(name)
        if value is not None and value != neutral and value != {"type": "text"}:
            raise BadRequest(f"the embedded server does not support `{name}`; leave it out, or use a real engine")
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        first = error.errors()[0]
        raise BadRequest(f"body.{'.'.join(map(str, first['loc']))}: {first['msg']}") from error


FinishReason = Literal["stop", "length", "tool_calls"]
