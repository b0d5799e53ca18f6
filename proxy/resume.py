"""Request bodies: what is sent for the first leg, and what resumes it. Sampling is the client's throughout.

Rules kept here: a resume continues from exact ids (prompt + kept + trigger); `max_tokens` shrinks by what is shown of
earlier legs; `seed` moves on with every leg, since an engine restarts its generator (the same seed would replay the
same draws); stop strings stay with the proxy, because the engine would let them fire inside the reasoning.
"""

import json
from collections.abc import Mapping
from typing import Any

from proxy.capabilities import Capabilities, continued_chat
from proxy.errors import UpstreamError
from proxy.guard import ChatRequest
from proxy.upstream import UpstreamClient

# Fields with the same meaning on the chat and the raw endpoint.
_SAMPLING_FIELDS = (
    *("temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty"),
    *("logit_bias", "stop_token_ids", "bad_words", "allowed_token_ids", "ignore_eos", "min_tokens"),
    *("cache_salt", "priority", "user"),
)

# Room left in the context is not always known; a resumed thought and answer of this length is long.
DEFAULT_RESUME_MAX_TOKENS = 8192

# A large odd step keeps the seeds of legs and of neighbouring choices apart.
_SEED_STEP = 1_000_003


def leg_seed(request: ChatRequest, choice: int, attempt: int) -> int | None:
    """The seed of one leg of one choice; None leaves it to the engine. Leg 0 uses what n > 1 means to the engine."""
    if request.seed is None:
        return None
    return int(request.seed + choice + attempt * _SEED_STEP) % 2**63


def first_body(request: ChatRequest, capabilities: Capabilities, choice: int, *, stream: bool) -> dict[str, Any]:
    """The chat request as sent for one choice."""
    body = {**request.body, "n": 1, "stream": stream}
    if request.n == 1:
        body.pop("n")
    for name in ("stop", "stream_options", "return_token_ids"):
        body.pop(name, None)
    if request.seed is not None:
        body["seed"] = leg_seed(request, choice, 0)
    if capabilities.resume_by == "token_ids":
        body["return_token_ids"] = True
    if stream and request.include_usage:
        body["stream_options"] = {"include_usage": True}
        if request.continuous_usage:
            body["stream_options"]["continuous_usage_stats"] = True
    return body


def remaining_tokens(request: ChatRequest, capabilities: Capabilities, num_prefix: int, num_shown: int) -> int:
    """Tokens a resumed leg may still generate, at least 0."""
    room = [] if capabilities.max_model_len is None else [capabilities.max_model_len - num_prefix]
    if request.max_tokens is not None:
        room.append(request.max_tokens - num_shown)
    return max(0, min(room, default=DEFAULT_RESUME_MAX_TOKENS))


def raw_body(request: ChatRequest, prefix: list[int], max_tokens: int, seed: int | None) -> dict[str, Any]:
    """`/v1/completions` from exact ids."""
    body: dict[str, Any] = {name: request.body[name] for name in _SAMPLING_FIELDS if request.body.get(name) is not None}
    if seed is not None:
        body["seed"] = seed
    if request.logprobs:
        body["logprobs"] = max(1, int(request.body.get("top_logprobs") or 1))
    return {
        "model": request.body["model"],
        "prompt": prefix,
        "max_tokens": max_tokens,
        "stream": True,
        "return_token_ids": True,
        "skip_special_tokens": False,
        **body,
    }


async def generate_body(
    client: UpstreamClient,
    request: ChatRequest,
    headers: Mapping[str, str],
    prefix: list[int],
    max_tokens: int,
    seed: int | None,
) -> dict[str, Any]:
    """`/inference/v1/generate` from exact ids, keeping structured output: the engine renders sampling."""
    asked = {name: value for name, value in request.body.items() if name not in ("stop", "stream_options", "n")}
    try:
        rendered = json.loads(await client.post("/v1/chat/completions/render", {**asked, "stream": False}, headers))
        sampling = dict(rendered["sampling_params"])
    except (ValueError, KeyError, TypeError) as error:
        raise UpstreamError("the upstream's rendered request holds no sampling parameters") from error
    sampling |= {"max_tokens": max_tokens, "n": 1, "skip_special_tokens": False, "stop": []}
    if seed is not None:
        sampling["seed"] = seed
    body = {
        "model": request.body["model"],
        "token_ids": prefix,
        "sampling_params": sampling,
        "stream": True,
        "output_mode": "text",
    }
    for name in ("reasoning_parser_kwargs", "cache_salt", "priority"):
        if rendered.get(name) is not None:
            body[name] = rendered[name]
    return body


def continued_body(request: ChatRequest, partial: str, max_tokens: int | None, seed: int | None) -> dict[str, Any]:
    """The chat request, going on from an unfinished assistant message."""
    body = {**request.body, "stream": True, **continued_chat(request.messages, partial)}
    for name in ("stop", "stream_options", "return_token_ids", "n", "max_completion_tokens", "max_tokens"):
        body.pop(name, None)
    if max_tokens is not None:
        body["max_tokens"] = max_tokens
    if seed is not None:
        body["seed"] = seed
    return body
