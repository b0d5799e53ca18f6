"""`steer train misses`, and the commands of `steer review` that bring a second judge to the log and its verdicts back.

The two sides meet here alone, through files: the proxy's side writes traces and takes verdicts, the training side
judges.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steer.cli.common import Config, JobConfig, JobOut, fail, need_training_side
from steer.cli.keys import LogUrl
from steer.cli.review import Judge, at_desk, review

if TYPE_CHECKING:
    from proxy.access.identity import Identity
    from proxy.review.desk import ReviewDesk

Target = Annotated[Path, typer.Option("--out", help="JSONL, written whole or not at all; it holds user text")]
Most = Annotated[int, typer.Option(min=1, help="traces of each kind, at most")]
Halts = Annotated[bool, typer.Option("--halts/--no-halts", help="also interventions that nobody has reviewed")]


def train_misses(config: JobConfig, out: JobOut) -> None:
    """Let an independent judge read what `steer review unjudged` wrote: what did the detector miss?"""
    need_training_side()
    from train.judges.errors import JudgeConfigError, JudgeError
    from train.misses.errors import MissesConfigError, MissesError
    from train.misses.run import run_file

    try:
        report = run_file(config, out)
    except (MissesConfigError, JudgeConfigError) as error:
        fail(error, 2)
    except (MissesError, JudgeError, OSError) as error:
        fail(error)
    _tell(report, out)


@review.command("unjudged")
def unjudged(
    out: Target,
    judge: Annotated[
        str | None, typer.Option(help="name of the judge that has not seen them; default: no judge has")
    ] = None,
    limit: Most = 10_000,
    halts: Halts = True,
    config: Config = None,
    log_url: LogUrl = None,
) -> None:
    """Write traces that a second judge has not seen, for `steer train misses`."""
    count = at_desk("review unjudged", config, log_url, lambda desk, who: _export(desk, who, judge, out, limit, halts))
    typer.echo(f"{count} traces: {out}")


@review.command("import")
def import_file(
    verdicts: Annotated[Path, typer.Argument(help="verdicts.jsonl of `steer train misses`")],
    config: Config = None,
    log_url: LogUrl = None,
) -> None:
    """Take a second judge's verdicts: its finds are listed as misses."""
    at_desk("review import", config, log_url, lambda desk, who: _import(desk, who, verdicts))


@review.command("misses")
def misses(out: Target, config: Config = None, log_url: LogUrl = None) -> None:
    """Write confirmed misses as intervention records: the halts that should have been, to label and to train on."""
    from proxy.review.files import export_misses

    count = at_desk("review misses", config, log_url, lambda desk, who: export_misses(desk, who, out))
    typer.echo(f"{count} records: {out}")


@review.command("judge")
def judge(
    judge: Judge,
    out: Annotated[Path, typer.Option("--out", help="folder of the job; it holds user text")],
    limit: Most = 10_000,
    halts: Halts = True,
    config: Config = None,
    log_url: LogUrl = None,
) -> None:
    """Export what this judge has not seen, judge it, take its verdicts: the three steps in one."""
    need_training_side()
    from train.judges.errors import JudgeConfigError, JudgeError
    from train.judges.load import JudgeConfig, load_judge
    from train.misses.config import MissesConfig
    from train.misses.errors import MissesConfigError, MissesError
    from train.misses.run import VERDICTS, run

    try:
        traces, chosen = out / "traces.jsonl", JudgeConfig(spec=judge)
        name = load_judge(chosen).name
        if not traces.exists():
            out.mkdir(parents=True, exist_ok=True)
            at_desk("review judge", config, log_url, lambda desk, who: _export(desk, who, name, traces, limit, halts))
        if not traces.read_bytes():
            traces.unlink()
            typer.echo(f"there is nothing that {name} has not seen")
            return
        report = run(MissesConfig(traces=(traces,), judge=chosen), out)
    except (MissesConfigError, JudgeConfigError) as error:
        fail(error, 2)
    except (MissesError, JudgeError, OSError) as error:
        fail(error)
    at_desk("review judge", config, log_url, lambda desk, who: _import(desk, who, out / VERDICTS))
    _tell(report, out)


async def _export(
    desk: "ReviewDesk", who: "Identity", judge: str | None, out: Path, limit: int, with_halts: bool
) -> int:
    from proxy.review.files import export_unjudged

    return await export_unjudged(desk, who, judge, out, limit=limit, with_halts=with_halts)


async def _import(desk: "ReviewDesk", who: "Identity", path: Path) -> None:
    from proxy.review.files import import_verdict_file

    found = await import_verdict_file(desk, who, path)
    typer.echo(
        f"{found.written} verdicts, {found.finds} new misses, {found.disagreements} disagreements; "
        f"{found.unknown} of traces that are gone"
    )


def _tell(report: dict[str, Any], out: Path) -> None:
    for kind, words in (("samples", "missed of unhalted traffic"), ("interventions", "needless of halts")):
        cell = report[kind]
        if cell["share"] is not None:
            bounds = f"[{cell['low']:.1%}, {cell['high']:.1%}]"
            typer.echo(f"{words}, by the judge: {cell['share']:.1%} {bounds} of {cell['told']}")
    typer.echo(f"report: {out / 'report.json'}")
