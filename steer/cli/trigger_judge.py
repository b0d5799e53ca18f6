"""`steer triggers judge`: an independent judge on what came after triggers; the detector is not the only teacher."""

from pathlib import Path
from typing import Annotated

import typer

from steer.cli.common import Config, fail, need_training_side
from steer.cli.keys import LogUrl
from steer.cli.review import Judge
from steer.cli.triggers import Opened, opened


def judge(
    judge: Judge,
    out: Annotated[Path, typer.Option("--out", help="folder of the job; it holds user text")],
    limit: Annotated[int, typer.Option(min=1, help="records, at most; the newest first")] = 1000,
    config: Config = None,
    log_url: LogUrl = None,
) -> None:
    """Let a judge read what followed first halts; its verdicts overrule the outcome when the next table is made."""
    with opened("triggers judge", config, log_url) as desk:
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
                _export(desk, name, limit, traces)
            if not traces.read_bytes():
                traces.unlink()
                typer.echo(f"there is nothing that {name} has not seen")
                return
            run(MissesConfig(traces=(traces,), judge=chosen), out)
        except (MissesConfigError, JudgeConfigError) as error:
            fail(error, 2)
        except (MissesError, JudgeError) as error:
            fail(error)
        _import(desk, out / VERDICTS)


def _export(desk: Opened, judge: str, limit: int, path: Path) -> None:
    import anyio

    from proxy.log.setup import open_reader
    from proxy.triggers.verdicts import traces, unjudged
    from steer.review import JudgedTrace

    async def read() -> list[JudgedTrace]:
        ids = desk.registry.read(lambda c: unjudged(c, judge, limit))
        async with open_reader(desk.settings.log) as reader:
            return await traces(reader, ids)

    part = path.with_name(path.name + ".part")
    part.write_text("".join(trace.model_dump_json() + "\n" for trace in anyio.run(read)), encoding="utf-8")
    part.replace(path)


def _import(desk: Opened, path: Path) -> None:
    from proxy.review.desk import actor_of
    from proxy.triggers.verdicts import import_verdicts
    from steer.review import SecondVerdict

    lines = path.read_text(encoding="utf-8").splitlines()
    verdicts = [SecondVerdict.model_validate_json(line) for line in lines]
    counts = desk.registry.change(lambda c: import_verdicts(c, actor_of(desk.who), verdicts))
    typer.echo(
        f"after their triggers {counts['good']} turns were good, {counts['bad']} were not; {counts['untold']} could "
        f"not be told, {counts['unknown']} are gone. `steer triggers refresh` learns from it"
    )
