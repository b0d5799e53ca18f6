"""The terminal: what is shown, what keys do, and that no text of a user's can act on it."""

import io
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from proxy.review.audit import Actor
from proxy.review.terminal import Session, item_panel, plain
from proxy.review.triggers import proposals
from proxy.review.verdicts import import_verdicts
from steer.cli import app
from steer.record import TextSpan
from steer.review import SecondVerdict
from tests.proxy.log_records import record
from tests.proxy.review_desk import ANN, BEN, Opened, opened, sample

pytestmark = pytest.mark.anyio

EVIL = "Okay \x1b]52;c;ZXZpbA==\x07 and \x1b[2J \u202e \r gone"
WORDING = "Wait, what would this be used for?"


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[Opened]:
    async with opened(f"sqlite:///{tmp_path}/log.sqlite") as made:
        yield made


def answers(*words: str) -> Callable[[str], Awaitable[str]]:
    """Keys in order; then the end of the input."""
    left = list(words)

    async def ask(_: str) -> str:
        if not left:
            raise EOFError
        return left.pop(0)

    return ask


async def sit(log: Opened, *words: str) -> tuple[int, str]:
    """(decisions, what was shown) of a session with these keys."""
    shown = io.StringIO()
    console = Console(file=shown, width=100, force_terminal=False)
    return await Session(log.desk, ANN, console, answers(*words)).run(), shown.getvalue()


async def test_keys_decide_note_propose_and_skip(log: Opened) -> None:
    await log.insert(record(id="a", score=0.51), record(id="b", score=0.6), record(id="c", score=0.7))
    decided, shown = await sit(log, "n", "looks fine", "t", WORDING, "f", "s", "x", "c")
    assert decided == 2
    assert [await log.state(id) for id in "abc"] == ["false_halt", "unreviewed", "confirmed"]
    assert "nothing waits for a decision of yours" in shown
    assert "score 0.51 is near the threshold" in shown
    texts = (await log.desk.show(ANN, "a")).item.texts
    assert {text["text"] for text in texts} == {"looks fine", WORDING}
    (proposed,) = await log.desk.store.read(lambda connection: proposals(connection, log.desk.texts))
    assert proposed.state == "proposed"


async def test_of_a_miss_the_number_of_the_cue_is_asked_for(log: Opened) -> None:
    await log.sample(sample("s-1"))
    found = SecondVerdict(id="s-1", kind="sample", judge="j", unsafe_reasoning=True)
    await log.desk.store.write(lambda connection: import_verdicts(connection, Actor("local", "admin"), [found]))
    decided, shown = await sit(log, "9", "2")
    assert decided == 1
    assert "there is no segment 9" in shown
    assert "1  0.40  I will plan it." in shown
    assert "second judge j: unsafe reasoning yes" in shown
    item = (await log.desk.show(ANN, "s-1")).item
    assert (item.state, item.reviews[0]["segment"]) == ("confirmed", 2)


async def test_what_somebody_else_decided_meanwhile_is_looked_at_again(log: Opened) -> None:
    await log.insert(record(id="a"))
    words = ["c", "c"]

    async def ask(_: str) -> str:
        if len(words) == 2:
            await log.decide(BEN, "a", "false_halt")
        return words.pop(0)

    shown = io.StringIO()
    assert await Session(log.desk, ANN, Console(file=shown, width=100), ask).run() == 1
    assert "has changed since you looked" in shown.getvalue()
    assert "a: unreviewed (disputed)" in shown.getvalue()


async def test_no_text_of_a_user_acts_on_the_terminal(log: Opened) -> None:
    await log.insert(record(id="a", kept=TextSpan(text=EVIL), messages=[{"role": "user", "content": EVIL}]))
    shown = io.StringIO()
    Console(file=shown, width=100, force_terminal=True).print(item_panel(await log.desk.show(ANN, "a")))
    for sequence in ("\x1b]", "\x1b[2J", "\x07", "\u202e", "\r"):
        assert sequence not in shown.getvalue()
    assert plain("a\n\tb") == "a\n\tb"


def test_the_commands_of_one_who_works_alone(tmp_path: Path) -> None:
    config = tmp_path / "steer.toml"
    config.write_text(f'[log]\nurl = "sqlite:///{tmp_path}/log.sqlite"\n[policy]\nthreshold = 0.5\n')

    def run(*arguments: str, code: int = 0, input: str | None = None) -> str:
        result = CliRunner().invoke(app, ["review", *arguments, "--config", str(config)], input=input)
        assert result.exit_code == code, result.output + result.stderr
        return result.stdout + result.stderr

    assert "does not exist" in run("list", code=1)
    fill(tmp_path)
    assert "i1" in run("list")
    assert "The cue." in run("show", "i1")
    assert "no intervention or sample nobody" in run("decide", "nobody", "confirmed", code=1)
    assert "say a decision" in run("decide", "i1", code=2)
    told = run("decide", "i1", "false_halt", "--trigger", WORDING, "--trigger-kind", "reframe_task")
    assert told == "i1: false_halt, version 1\n"
    assert "now version 1" in run("decide", "i1", "confirmed", "--version", "0", code=1)
    listed = run("triggers")
    proposal = next(line.split()[0] for line in listed.splitlines() if "proposed" in line)
    assert "approved" in run("settle", proposal, "--approve", "own-1")
    assert f'[[policy.triggers]]\nid = "own-1"\nkind = "reframe_task"\ntext = "{WORDING}"' in run("triggers")
    assert "disputed: 0" in run("agreement")
    trail = run("audit")
    assert trail.index("review.approve_trigger") < trail.index("review.decide")
    assert "0 decided" in run(input="q\n")


def fill(folder: Path) -> None:
    import anyio

    async def work() -> None:
        async with opened(f"sqlite:///{folder}/log.sqlite") as log:
            await log.insert(record(id="i1"), record(id="i2"))

    anyio.run(work)
