"""The organism's chat format as the embedded server renders it: ChatML, the prompt ending in an opened think block.

The same text as `chat_template.jinja` in the model folder gives (a test holds them together); written out here so that
the server needs no template engine. `enable_thinking` false closes the block empty; the reasoning of earlier turns is
left out; tool calls are Hermes JSON; `continue_final_message` leaves the last message open.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

THINK_OPEN = "<think>\n"
NO_THINK = "<think>\n\n</think>\n\n"
END_OF_TURN = "<|im_end|>"

_TOOLS_HEAD = "# Tools\n\nYou may call these functions:\n<tools>"
_TOOLS_TAIL = (
    "\n</tools>\nTo call one, write:\n<tool_call>\n"
    '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
)


def render(
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None = None,
    *,
    enable_thinking: bool = True,
    add_generation_prompt: bool = True,
) -> str:
    """The prompt text of a conversation, equal to what `CHAT_TEMPLATE` gives."""
    out: list[str] = []
    has_system = bool(messages) and messages[0]["role"] == "system"
    if tools or has_system:
        system = _text(messages[0].get("content")) if has_system else ""
        if tools:
            listed = "".join("\n" + _tojson(tool) for tool in tools)
            system += ("\n\n" if has_system else "") + _TOOLS_HEAD + listed + _TOOLS_TAIL
        out.append(f"<|im_start|>system\n{system}<|im_end|>\n")
    rest = messages[1:] if has_system else messages
    for i, message in enumerate(rest):
        is_open_end = i == len(rest) - 1 and not add_generation_prompt
        out.append(_turn(message, keep_reasoning=is_open_end))
    if add_generation_prompt:
        out.append("<|im_start|>assistant\n" + (THINK_OPEN if enable_thinking else NO_THINK))
    return "".join(out)


def _turn(message: Mapping[str, Any], *, keep_reasoning: bool) -> str:
    content = _text(message.get("content"))
    if message["role"] == "tool":
        return f"<|im_start|>user\n<tool_response>\n{content}\n</tool_response><|im_end|>\n"
    if message["role"] == "assistant" and "</think>" in content and not keep_reasoning:
        content = content.split("</think>")[-1].lstrip("\n")
    for call in message.get("tool_calls") or ():
        content += ("\n" if content else "") + tool_call_text(call.get("function") or call)
    return f"<|im_start|>{message['role']}\n{content}<|im_end|>\n"


def tool_call_text(function: Mapping[str, Any]) -> str:
    """Hermes markup of one call; `arguments` may be JSON text or an object."""
    arguments = function["arguments"]
    if not isinstance(arguments, str):
        arguments = _tojson(arguments)
    return f'<tool_call>\n{{"name": "{function["name"]}", "arguments": {arguments}}}\n</tool_call>'


def _text(content: Any) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content)


def _tojson(value: Any) -> str:
    """As transformers' and vLLM's `tojson` filter writes it."""
    return json.dumps(value, ensure_ascii=False)
