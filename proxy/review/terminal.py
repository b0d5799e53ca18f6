"""Review in a terminal: the queue as a table, an item with its cue marked, and the loop that asks for decisions.

Text of users and models is shown with control characters made visible: a trace must not move a reviewer's cursor, or
write to their clipboard.
"""

import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import anyio
from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from detector.context import message_text
from proxy.access.identity import Identity
from proxy.review.decisions import Saying
from proxy.review.desk import ReviewDesk, Shown
from proxy.review.errors import ReviewError
from proxy.review.queue import QueuePage
from proxy.review.sample import Sample
from steer.record import InterventionRecord

# What an item shows of long texts: the end of what precedes a cue, and the start of what follows.
_AROUND = 1500
_KEYS = {"c": "confirmed", "f": "false_halt", "d": "dismissed"}
_HELP = {
    "intervention": "[c]onfirm  [f]alse halt  [n]ote  better [t]rigger  [s]kip  [q]uit",
    "sample": "[c]onfirm the likeliest, or the number of the cue  [d]ismiss  [n]ote  [s]kip  [q]uit",
}

Ask = Callable[[str], Awaitable[str]]


async def read_line(prompt: str) -> str:
    """A line of standard input. Waiting for a terminal, it can be interrupted. Raises EOFError."""
    sys.stdout.write(prompt)
    sys.stdout.flush()
    if sys.stdin.isatty():
        await anyio.wait_readable(sys.stdin)
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line


def plain(text: str) -> str:
    """Without anything that a terminal would act on."""
    return "".join(char if char.isprintable() or char in "\n\t" else "\N{MIDDLE DOT}" for char in text)


def page_table(page: QueuePage) -> Table:
    """The queue."""
    table = Table("id", "kind", "useful", "score", "tenant", "why", box=None, pad_edge=False)
    for item in page.items:
        candidate = item.candidate
        table.add_row(
            candidate.id,
            "miss" if candidate.kind == "sample" else "halt",
            f"{item.usefulness.score:.2f}",
            f"{candidate.score:.2f}",
            candidate.tenant,
            item.usefulness.reason,
        )
    return table


def item_panel(shown: Shown) -> Group:
    """One item, for people."""
    item = shown.item
    parts: list[Panel | Text] = []
    if shown.record is not None and shown.record.messages:
        parts = _record_parts(shown.record)
    elif shown.sample is not None:
        parts = _sample_parts(shown.sample)
    else:
        parts = [Text("its text was never kept, or has been deleted", style="dim")]
    parts += [Text(f"second judge {verdict['judge']}: {_said(verdict)}") for verdict in item.second_verdicts]
    parts += [Text(f"{review['reviewer']}: {review['decision']}") for review in item.reviews]
    parts += [Text(plain(f"{text['author']}, {text['kind']} ({text['state']}): {text['text']}")) for text in item.texts]
    if item.is_blind and item.num_reviews:
        parts.append(Text(f"{item.num_reviews} reviewed it: you see what they said once you have decided", style="dim"))
    told = f"{item.id}  {'miss' if item.kind == 'sample' else 'halt'}  {item.state}  version {item.version}"
    return Group(Text(told, style="bold"), *parts)


def _record_parts(record: InterventionRecord) -> list[Panel | Text]:
    said = Text(plain(record.kept.text[-_AROUND:]))
    said.append(plain(record.rejected.text[:_AROUND]), style="bold red")
    parts: list[Panel | Text] = [
        _request(record.messages),
        Panel(said, title=f"{record.channel}, halted at {record.score:.2f} ({record.outcome})", title_align="left"),
    ]
    if record.completion is not None and record.trigger_id is not None:
        then = Text(plain(record.trigger.text), style="bold green")
        then.append(plain(record.completion.continuation.text[:_AROUND]), style="not bold default")
        then.append(plain(f"\n\n{record.completion.answer[:_AROUND]}"), style="not bold default")
        parts.append(Panel(then, title=f"after the trigger {record.trigger_id}", title_align="left"))
    return parts


def _sample_parts(sample: Sample) -> list[Panel | Text]:
    text, told, likeliest = sample.text.text, Text(), sample.likeliest
    for number, segment in enumerate(sample.text.segments):
        score = "?" if segment.score is None else f"{segment.score:.2f}"
        told.append(f"{number:3d}  {score}  ", style="dim")
        style = "bold red" if number == likeliest else ""
        told.append(plain(text[segment.start : segment.end].strip()) + "\n", style=style)
    if not sample.text.segments:
        told.append(plain(sample.text.of("reasoning")[:_AROUND]))
    answer = plain(sample.text.of("answer")[:_AROUND])
    return [
        _request(sample.text.messages),
        Panel(told, title="not halted: segments and their scores", title_align="left"),
        Panel(Text(answer), title="answer", title_align="left"),
    ]


def _request(messages: list[dict[str, object]]) -> Panel:
    told = Text()
    for message in messages[-4:]:
        told.append(f"{plain(str(message.get('role')))}: ", style="dim")
        told.append(plain(message_text(message)[:_AROUND]) + "\n")
    return Panel(told, title="request", title_align="left")


def _said(verdict: dict[str, object]) -> str:
    names = ("harmful_request", "unsafe_reasoning", "unsafe_answer", "refused", "helped")
    told = [f"{name} {'yes' if verdict[name] else 'no'}" for name in names if verdict[name] is not None]
    return ", ".join(told).replace("_", " ") or "can't tell"


@dataclass
class Session:
    """One person at the queue until it is empty or they quit. `ask` reads a line; an EOFError ends the session."""

    desk: ReviewDesk
    who: Identity
    console: Console
    ask: Ask
    decided: int = 0
    skipped: set[str] = field(default_factory=set)

    async def run(self) -> int:
        """Number of decisions made. Raises LogError."""
        try:
            while (id := await self._next()) is not None:
                if not await self._item(id):
                    break
            else:
                self.console.print("nothing waits for a decision of yours")
        except EOFError:
            pass
        return self.decided

    async def _next(self) -> str | None:
        """The most useful that was not skipped."""
        cursor: str | None = None
        while True:
            page = await self.desk.queue(self.who, limit=50, cursor=cursor)
            for item in page.items:
                if item.candidate.id not in self.skipped:
                    self.console.rule(item.usefulness.reason, align="left")
                    return item.candidate.id
            cursor = page.next_cursor
            if cursor is None:
                return None

    async def _item(self, id: str) -> bool:
        """Ask about one until it is decided or skipped; False: quit."""
        note: str | None = None
        trigger: str | None = None
        while True:
            shown = await self.desk.show(self.who, id)
            self.console.print(item_panel(shown))
            word = (await self.ask(f"{_HELP[shown.item.kind]} > ")).strip().lower()
            match word:
                case "q":
                    return False
                case "s" | "":
                    self.skipped.add(id)
                    return True
                case "n":
                    note = (await self.ask("note > ")).strip() or None
                case "t":
                    trigger = (await self.ask("better trigger > ")).strip() or None
                case _:
                    pass
            segment = int(word) if word.isdecimal() else None
            decision = "confirmed" if segment is not None else _KEYS.get(word)
            if decision is None and note is None and trigger is None:
                continue
            saying = Saying(id, shown.item.version, decision, segment=segment, note=note, trigger=trigger)
            if await self._say(saying, shown):
                note = trigger = None
                if decision is not None:
                    self.skipped.add(id)
                    return True

    async def _say(self, saying: Saying, shown: Shown) -> bool:
        """False where it was refused, and why was said."""
        if saying.segment is not None and (shown.sample is None or saying.segment >= len(shown.sample.text.segments)):
            self.console.print(f"there is no segment {saying.segment}")
            return False
        try:
            said = await self.desk.say(self.who, saying)
        except ReviewError as error:
            self.console.print(str(error))
            return False
        self.decided += saying.decision is not None
        self.console.print(f"{saying.subject_id}: {said.state}{' (disputed)' if said.is_disputed else ''}")
        return True
