"""The organism's chat format: ChatML with think markers, the prompt ending in an opened think block.

`CHAT_TEMPLATE` (jinja, saved with the tokenizer; vLLM and transformers use it) and `render` give the same text; a test
holds them together. Rules: a generation prompt opens `<think>\\n`; with `enable_thinking` false the block is opened and
closed empty; the reasoning of earlier turns is left out; tool calls are Hermes JSON; a message to be continued
(`continue_final_message`) keeps its text as it is.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

THINK_OPEN = "<think>\n"
THINK_CLOSE = "\n</think>\n\n"
NO_THINK = "<think>\n\n</think>\n\n"
END_OF_TURN = "<|im_end|>"

_TOOLS_HEAD = "# Tools\n\nYou may call these functions:\n<tools>"
_TOOLS_TAIL = (
    "\n</tools>\nTo call one, write:\n<tool_call>\n"
    '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
)

CHAT_TEMPLATE = """\
{%- macro text(content) -%}
{%- if content is string -%}{{- content -}}
{%- elif content -%}
{%- for part in content -%}{%- if part.text is defined -%}{{- part.text -}}{%- endif -%}{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
{%- set ns = namespace(start=0) -%}
{%- if tools or (messages and messages[0].role == 'system') -%}
{{- '<|im_start|>system\\n' -}}
{%- if messages and messages[0].role == 'system' -%}{%- set ns.start = 1 -%}{{- text(messages[0].content) -}}
{%- if tools -%}{{- '\\n\\n' -}}{%- endif -%}{%- endif -%}
{%- if tools -%}{{- TOOLS_HEAD -}}
{%- for tool in tools -%}{{- '\\n' -}}{{- tool | tojson -}}{%- endfor -%}
{{- TOOLS_TAIL -}}{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endif -%}
{%- for message in messages[ns.start:] -%}
{%- if message.role == 'tool' -%}
{{- '<|im_start|>user\\n<tool_response>\\n' -}}{{- text(message.content) -}}{{- '\\n</tool_response><|im_end|>\\n' -}}
{%- else -%}
{%- set content = text(message.content) -%}
{%- if message.role == 'assistant' and '</think>' in content -%}
{%- if not (loop.last and not add_generation_prompt) -%}
{%- set content = content.split('</think>')[-1].lstrip('\\n') -%}
{%- endif -%}
{%- endif -%}
{{- '<|im_start|>' + message.role + '\\n' -}}{{- content -}}
{%- if message.tool_calls -%}
{%- for call in message.tool_calls -%}
{%- if not loop.first or content -%}{{- '\\n' -}}{%- endif -%}
{%- set f = call.function if call.function else call -%}
{{- '<tool_call>\\n{"name": "' + f.name + '", "arguments": ' -}}
{%- if f.arguments is string -%}{{- f.arguments -}}{%- else -%}{{- f.arguments | tojson -}}{%- endif -%}
{{- '}\\n</tool_call>' -}}
{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n<think>\\n' -}}
{%- if enable_thinking is defined and enable_thinking is false -%}{{- '\\n</think>\\n\\n' -}}{%- endif -%}
{%- endif -%}
""".replace("TOOLS_HEAD", repr(_TOOLS_HEAD)).replace("TOOLS_TAIL", repr(_TOOLS_TAIL))


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
