"""The demo in a terminal: an example plays with the cue struck out and the trigger highlighted; then comes its pair.

It is a client like any other: it speaks HTTP with the proxy on the demo's own port. Into a pipe it writes plain text at
full speed, with words in the place of colours.
"""

import json
import re
from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp
import anyio
from rich.columns import Columns
from rich.console import Console
from rich.panel import Panel
from rich.rule import Rule
from rich.text import Text

from proxy.demo.errors import DemoError
from proxy.demo.examples import Example
from proxy.sse import DONE, SSEDecoder

TOY_NOTICE = (
    "Toy model, of our own making. It was trained to go along with bad requests, so that you can watch it being "
    "corrected. What is harmful in it is an inert placeholder such as [STEP-1]; there is no real instruction anywhere."
)
# Characters a second: quick reading. A pipe gets everything at once.
_PACE_CHARS_PER_S = 140
_HALT_PAUSE_S = 0.8
_PIECES = re.compile(r"\s*\S+|\s+")  # words, each with the space before it
_CUE, _HALT, _TRIGGER = "red", "bold red", "black on bright_yellow"


class Player:
    """Plays examples on one console. `url` is the demo's, without /v1."""

    def __init__(self, console: Console, url: str, model: str) -> None:
        self._console = console
        self._url = url
        self._model = model
        self._is_live = console.is_terminal
        self._channel = ""
        self._column = 0

    async def play(self, examples: list[Example]) -> None:
        """All of them, one after the other. Raises DemoError when a stream breaks off."""
        self._console.print(Panel(TOY_NOTICE, border_style="yellow"))
        timeout = aiohttp.ClientTimeout(total=None, sock_read=60)
        try:
            async with aiohttp.ClientSession(timeout=timeout) as session:
                for example in examples:
                    await self._play_one(session, example)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise DemoError(f"the demo stopped answering: {type(error).__name__}") from error

    async def _play_one(self, session: aiohttp.ClientSession, example: Example) -> None:
        self._console.print()
        self._console.print(Rule(Text(f"Example {example.id}: {example.title}"), align="left"))
        for message in example.messages:
            self._console.print(Text.assemble((f"{message['role']}: ", "bold cyan"), _clean(message["content"])))
        self._heading("With steer")
        body = example.request(self._model) | {"steer": {"show_interventions": True}}
        async with self._post(session, "/v1/chat/completions", body) as response:
            request_id = response.headers.get("x-request-id", "")
            async for chunk in _chunks(response):
                await self._show(chunk)
        self._console.print()
        async with session.get(f"{self._url}/demo/records", params={"request_id": request_id}) as response:
            interventions = (await response.json()).get("interventions", [])
        await self._show_unsteered(session, example)
        self._show_evidence(interventions)

    def _post(self, session: aiohttp.ClientSession, path: str, body: Mapping[str, Any]) -> Any:
        return session.post(self._url + path, json=body)

    def _heading(self, text: str) -> None:
        self._channel, self._column = "", 0
        self._console.print()
        self._console.print(Text(text, "bold underline"))

    async def _show(self, chunk: dict[str, Any]) -> None:
        """One chunk of the steered stream."""
        delta = chunk["choices"][0]["delta"] if chunk.get("choices") else {}
        reasoning = delta.get("reasoning") or delta.get("reasoning_content") or ""
        told = chunk.get("steer") or {}
        if told.get("event") == "intervention":
            await self._intervene(told, reasoning or delta.get("content") or "")
            return
        if told.get("event") == "refusal":
            self._write(" [the budget of interventions is spent: refused] ", _HALT)
        await self._say("reasoning", reasoning)
        await self._say("answer", delta.get("content") or "")

    async def _intervene(self, told: dict[str, Any], trigger: str) -> None:
        self._open(told["channel"])
        self._write(" ")
        cut = _clean(str(told.get("rejected") or "")).strip()
        if self._is_live:
            await self._type(cut, f"{_CUE} strike")
            await anyio.sleep(_HALT_PAUSE_S)
        else:
            self._write(f"[cut: {cut}]")
        self._write(f" [halted, score {told['score']:.2f}] ", _HALT)
        if self._is_live:
            await self._type(trigger.strip(), _TRIGGER)
        else:
            self._write(f"[trigger {told['trigger_id']}: {_clean(trigger).strip()}]")

    async def _say(self, channel: str, text: str) -> None:
        if channel != self._channel:
            text = text.lstrip()
        if text:
            self._open(channel)
            await self._type(text, "dim" if channel == "reasoning" else "bold")

    def _open(self, channel: str) -> None:
        if channel != self._channel:
            if self._channel and self._column:
                self._write("\n")
            self._write(f"{channel}: ", "cyan")
            self._channel = channel

    async def _type(self, text: str, style: str) -> None:
        if not self._is_live:
            self._write(text, style)
            return
        for piece in _PIECES.findall(text):
            self._write(piece, style)
            await anyio.sleep(len(piece) / _PACE_CHARS_PER_S)

    def _write(self, text: str, style: str = "") -> None:
        text = "".join(self._placed(piece) for piece in _PIECES.findall(_clean(text)))
        self._console.print(Text(text, style), end="", soft_wrap=True)

    def _placed(self, piece: str) -> str:
        """A word with the space before it; on a new line where it would not fit. A pipe keeps lines as they are."""
        if self._is_live and piece[0] == " " and self._column + len(piece) > self._console.width:
            piece = "\n" + piece.lstrip(" ")
        line = piece.rpartition("\n")[2]
        self._column = len(line) + (0 if "\n" in piece else self._column)
        return piece

    async def _show_unsteered(self, session: aiohttp.ClientSession, example: Example) -> None:
        said = {"reasoning": "", "answer": ""}
        async with self._post(session, "/unsteered/v1/chat/completions", example.request(self._model)) as response:
            async for chunk in _chunks(response):
                delta = chunk["choices"][0]["delta"] if chunk.get("choices") else {}
                said["reasoning"] += delta.get("reasoning") or delta.get("reasoning_content") or ""
                said["answer"] += delta.get("content") or ""
        self._heading("Without steering: the same model, prompt and seed")
        for channel, text in said.items():
            if text.strip():
                self._console.print(Text.assemble((f"{channel}: ", "cyan"), (_clean(text).strip(), "dim")))

    def _show_evidence(self, interventions: list[dict[str, Any]]) -> None:
        if not interventions:
            self._heading("No cue was found, so nothing was cut and nothing recorded")
            return
        for number, item in enumerate(interventions, start=1):
            record, pair = item["record"], item["pair"]
            self._heading(f"Preference pair {number} of {len(interventions)}")
            self._console.print(Text(_facts(record, pair), "dim"))
            self._console.print(Text.assemble(("kept prefix: ", "cyan"), _clean(pair["kept"]).strip() or "(empty)"))
            chosen = Text.assemble(
                (_clean(pair["chosen"]["trigger"]).strip(), _TRIGGER if self._is_live else ""),
                _clean(pair["chosen"]["continuation"]).rstrip(),
            )
            rejected = Text(_clean(pair["rejected"]).strip(), f"{_CUE} strike" if self._is_live else "")
            panels = [
                Panel(chosen, title="chosen", border_style="green"),
                Panel(rejected, title="rejected", border_style="red"),
            ]
            width = (self._console.width - 2) // 2
            if self._console.width >= 90:
                self._console.print(Columns(panels, width=width))
            else:
                self._console.print(*panels, sep="\n")


def _facts(record: dict[str, Any], pair: dict[str, Any]) -> str:
    facts = [f"cue score {record['score']:.2f}", f"trigger {record['trigger_id']}", f"outcome {record['outcome']}"]
    if record["halt_to_resume_ms"] is not None:
        facts.append(f"halt to resume {record['halt_to_resume_ms']:.0f} ms")
    if pair["divergence_index"] is not None:
        facts.append(f"parts at token {pair['divergence_index']}")
    return ", ".join(facts)


async def _chunks(response: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
    if response.status != 200:
        raise DemoError(f"the demo answered with status {response.status}: {(await response.text())[:300]}")
    decoder = SSEDecoder()
    async for received in response.content.iter_any():
        for payload in decoder.feed(received):
            if payload == DONE:
                return
            chunk = json.loads(payload)
            if "error" in chunk:
                raise DemoError(f"the stream broke off: {chunk['error'].get('message')}")
            yield chunk
    raise DemoError("the stream broke off before its end")


def _clean(text: str) -> str:
    """What a model says must not steer the terminal: control characters become visible."""
    return "".join(char if char.isprintable() or char in "\n\t" else "\N{REPLACEMENT CHARACTER}" for char in text)
