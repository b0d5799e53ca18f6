"""What each field of a chat request may be: the allow-list, with the reason where one is needed.

Rules kept here: a field is *kept* (checked, forwarded), *dropped* (checked, not forwarded: the proxy does it itself, or
engines ignore it), *fixed* (only the default is accepted, since another value would blind the monitor or change what a
resume means), or *refused*. A field that is not here is refused as unknown.
"""

import json
from dataclasses import dataclass
from typing import Any, Literal

from proxy import guard_checks as checks
from proxy.guard_checks import Check, Limits, bad


@dataclass(frozen=True, slots=True)
class Rule:
    """How one field is treated. `check` returns the value to go on with, or raises RequestError."""

    kind: Literal["kept", "dropped", "fixed", "refused"]
    check: Check
    can_be_allowed: bool = False


def _kept(check: Check) -> Rule:
    return Rule("kept", check)


def _dropped(check: Check) -> Rule:
    return Rule("dropped", check)


def _fixed(default: object, reason: str) -> Rule:
    def check(name: str, value: Any, _: Limits) -> Any:
        if isinstance(value, bool) is not isinstance(default, bool) or value != default:
            raise bad(name, f"may only be {json.dumps(default)} here: {reason}", "refused_field")
        return value

    return Rule("fixed", check)


def _refused(reason: str, *, can_be_allowed: bool = False) -> Rule:
    def check(name: str, _: Any, limits: Limits) -> Any:
        hint = "; the operator can pass it on with limits.extra_fields" if can_be_allowed else ""
        raise bad(name, f"is not accepted here: {reason}{hint}", "refused_field")

    return Rule("refused", check, can_be_allowed)


_BLIND = "it would put text before the model that the detector does not see"
_MEDIA = "the detector reads text, not media"
_INNER = "it belongs to the engine's own deployment, not to a client"
_NOT_RESUMED = "it could not be kept when a halted stream is resumed"

RULES: dict[str, Rule] = {
    # Sampling, forwarded with every leg.
    "model": _kept(checks.string(checks.MAX_NAME_CHARS)),
    "temperature": _kept(checks.number),
    "top_p": _kept(checks.number),
    "min_p": _kept(checks.number),
    "top_k": _kept(checks.integer(-1, 2**31 - 1)),
    "presence_penalty": _kept(checks.number),
    "frequency_penalty": _kept(checks.number),
    "repetition_penalty": _kept(checks.number),
    "seed": _kept(checks.integer(-checks.INT64)),
    "n": _kept(checks.choices),
    "max_tokens": _kept(checks.max_tokens),
    "max_completion_tokens": _kept(checks.max_tokens),
    "min_tokens": _kept(checks.integer(0, 2**31 - 1)),
    "ignore_eos": _kept(checks.boolean),  # bounded by max_tokens; what follows is answer text, under the policy's scope
    "stop_token_ids": _kept(checks.token_ids),
    "include_stop_str_in_output": _kept(checks.boolean),
    "logit_bias": _kept(checks.logit_bias),  # may close thinking at once: then the answer is watched
    "allowed_token_ids": _kept(checks.token_ids),
    "bad_words": _kept(checks.strings(checks.MAX_BAD_WORDS, checks.MAX_WORD_CHARS)),
    "logprobs": _kept(checks.boolean),
    "top_logprobs": _kept(checks.integer(0, checks.MAX_TOP_LOGPROBS)),  # the engine's -1 is its whole vocabulary
    "cache_salt": _kept(checks.string(128)),
    "user": _kept(checks.string(checks.MAX_NAME_CHARS)),
    # Form of the answer.
    "response_format": _kept(checks.response_format),
    "structured_outputs": _kept(checks.structured),
    "tools": _kept(checks.tools),
    "tool_choice": _kept(checks.tool_choice),
    "parallel_tool_calls": _kept(checks.boolean),
    # Thinking on, off or short: the answer is watched where there is none.
    "reasoning_effort": _kept(checks.string(16, one_of=("none", "minimal", "low", "medium", "high", "xhigh", "max"))),
    "chat_template_kwargs": _kept(checks.object_of(enable_thinking=checks.boolean, thinking=checks.boolean)),
    # The proxy does these itself.
    "stream": _dropped(checks.boolean),
    "stream_options": _dropped(
        checks.object_of(
            include_usage=checks.boolean, continuous_usage_stats=checks.boolean, include_obfuscation=checks.boolean
        )
    ),
    "stop": _dropped(checks.stop),  # the engine would let them fire inside the reasoning
    "return_token_ids": _dropped(checks.boolean),
    "include_reasoning": _dropped(checks.boolean),  # false would take the reasoning away from the detector too
    "steer": _dropped(checks.object_of(show_interventions=checks.boolean)),
    # OpenAI fields that engines ignore.
    "metadata": _dropped(checks.sized_object),
    "store": _dropped(checks.anything),
    "service_tier": _dropped(checks.anything),
    "safety_identifier": _dropped(checks.anything),
    "prompt_cache_key": _dropped(checks.anything),
    "prompt_cache_retention": _dropped(checks.anything),
    "verbosity": _dropped(checks.anything),
    "session_id": _dropped(checks.anything),
    "modalities": _dropped(checks.text_only),
    # Defaults that must stay.
    "use_beam_search": _fixed(False, "beams are no stream that could be halted"),
    "length_penalty": _fixed(1.0, "it belongs to beam search"),
    "echo": _fixed(False, "it would show the prompt as if the model had said it"),
    "add_generation_prompt": _fixed(True, "the model would go on with the client's turn"),
    "continue_final_message": _fixed(False, "the client would write the beginning of the model's reasoning"),
    "add_special_tokens": _fixed(False, "chat templates bring their own"),
    "skip_special_tokens": _fixed(True, "think markers would be mixed with the text"),
    "spaces_between_special_tokens": _fixed(True, "think markers would be mixed with the text"),
    "priority": Rule("refused", _fixed(0, "clients may not overtake each other").check, can_be_allowed=True),
    # Never.
    "chat_template": _refused(_BLIND),
    "documents": _refused(f"{_BLIND}; put them into a message"),
    "kv_transfer_params": _refused(_BLIND),  # its prompt_token_ids replace the rendered messages
    "ec_transfer_params": _refused(_INNER),
    "vllm_xargs": _refused("it reaches the engine's extensions unchecked"),
    "logits_processors": _refused("it runs code in the engine"),
    "truncate_prompt_tokens": _refused("the model would see another conversation than the detector"),
    "truncation_side": _refused("the model would see another conversation than the detector"),
    "mm_processor_kwargs": _refused(_MEDIA),
    "media_io_kwargs": _refused(_MEDIA),
    "mm_payload": _refused(_MEDIA),
    "return_mm_kwargs": _refused(_MEDIA),
    "audio": _refused(_MEDIA),
    "request_id": _refused("ids must be unique in the engine; send the header x-request-id instead"),
    "prompt_logprobs": _refused("it costs the engine its whole vocabulary per prompt token"),
    "return_tokens_as_token_ids": _refused(f"{_NOT_RESUMED}; ask for return_token_ids instead"),
    "logprob_token_ids": _refused(f"{_NOT_RESUMED}; ask for top_logprobs instead"),
    "thinking_token_budget": _refused(f"{_NOT_RESUMED}; use max_tokens", can_be_allowed=True),
    "repetition_detection": _refused(_NOT_RESUMED, can_be_allowed=True),
    "watermarking": _refused(_NOT_RESUMED),
    "stream_interval": _refused("segments would be judged later than they are written"),
    "routed_experts_prompt_start": _refused(_INNER),
    "return_prompt_text": _refused("it shows the operator's chat template", can_be_allowed=True),
    "return_token_offsets": _refused(_INNER),
    "functions": _refused("engines no longer read it; use tools"),
    "function_call": _refused("engines no longer read it; use tool_choice"),
    "prediction": _refused("engines do not read it"),
    "web_search_options": _refused("engines do not read it"),
    "guided_json": _refused("current engines ignore it silently; use response_format", can_be_allowed=True),
    "guided_regex": _refused("current engines ignore it silently; use structured_outputs", can_be_allowed=True),
    "guided_choice": _refused("current engines ignore it silently; use structured_outputs", can_be_allowed=True),
    "guided_grammar": _refused("current engines ignore it silently; use structured_outputs", can_be_allowed=True),
}


def may_pass_unchecked(name: str, limits: Limits) -> bool:
    """Whether the operator let this field through; what must stay shut, or is the proxy's own, can't be opened."""
    rule = RULES.get(name)
    return name in limits.extra_fields and (rule is None or (rule.kind == "refused" and rule.can_be_allowed))
