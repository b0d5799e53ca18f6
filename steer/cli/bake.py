"""`steer bake`: from what the proxy logged to a candidate in service. Joins the training side and the service.

Exit codes: 0 the bake ended (its outcome is printed), 1 failed, 2 wrong use.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steer.cli.common import JobConfig, fail, given, need_training_side

if TYPE_CHECKING:
    from proxy.adapters.desk import BakeDesk
    from proxy.settings import Settings
    from train.bake.config import BakeConfig

Out = Annotated[Path, typer.Option("--out", help="folder of all bakes of this config; resumes what is unfinished")]
ProxySettings = Annotated[Path | None, typer.Option("--settings", help="TOML of the proxy: log.url, upstream.url …")]
LogUrl = Annotated[str | None, typer.Option("--log", help="URL of the intervention log; default: as in the settings")]
Upstream = Annotated[str | None, typer.Option("--upstream", help="base URL of the engine; default: as in the settings")]


def bake(
    config: JobConfig,
    out: Out,
    settings: ProxySettings = None,
    log_url: LogUrl = None,
    upstream: Upstream = None,
    every: Annotated[str | None, typer.Option("--every", help="again and again: 30m, 6h, 1d")] = None,
    once: Annotated[bool, typer.Option("--once", help="one bake, then stop; the default without --every")] = False,
    min_pairs: Annotated[int | None, typer.Option("--min-pairs", min=0, help="new pairs needed to train")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print what would be done, and do nothing")] = False,
    abandon: Annotated[
        str | None, typer.Option("--abandon", metavar="REASON", help="give up the unfinished bake, then stop")
    ] = None,
) -> None:
    """Train a candidate on what the log holds, prove it against the incumbent, and give it a share of traffic."""
    need_training_side()
    if every is not None and once:
        fail("give --every or --once, not both", 2)
    loaded, actor = _admitted(settings, log_url, upstream)
    with _told():
        from train.bake.errors import BakeConfigError
        from train.bake.run import plan
        from train.bake.run import run as run_bake
        from train.bake.schedule import every as schedule
        from train.bake.schedule import parse_interval

        try:
            interval = None if every is None else parse_interval(every)
        except ValueError as error:
            raise BakeConfigError(f"--every: {error}") from error
        wanted = _config(config, min_pairs)
        if abandon is not None:
            _abandon(out, abandon)
            return
        with _desk(wanted, loaded, actor) as desk:
            if dry_run:
                typer.echo("\n".join(plan(wanted, desk, out)))
                return
            if interval is None:
                _say(run_bake(wanted, desk, out), out)
                return

            def again() -> None:
                with _told(ends=False):
                    _say(run_bake(wanted, desk, out), out)

            schedule(interval, again).start()


def _admitted(settings: Path | None, log_url: str | None, upstream: str | None) -> tuple["Settings", str]:
    """The service's settings, once it is known that one may."""
    from proxy.access.command import admit
    from proxy.access.errors import AccessError
    from proxy.errors import ConfigError
    from proxy.log.errors import LogError, LogUrlError
    from proxy.settings import load_settings

    try:
        loaded = load_settings(settings, {"log": given(url=log_url), "upstream": given(url=upstream)})
        return loaded, f"bake ({admit('bake', loaded).actor})"
    except (ConfigError, LogUrlError) as error:
        fail(error, 2)
    except (AccessError, LogError) as error:
        fail(error)


def _config(path: Path, min_pairs: int | None) -> "BakeConfig":
    from train.bake.config import load_config

    loaded = load_config(path)
    return loaded if min_pairs is None else loaded.model_copy(update={"min_pairs": min_pairs})


def _abandon(out: Path, reason: str) -> None:
    from train.bake.run import abandon

    number = abandon(out, reason)
    typer.echo(f"{out} holds no unfinished bake" if number is None else f"bake {number:04d} is given up")


@contextmanager
def _desk(wanted: "BakeConfig", settings: "Settings", actor: str) -> "Iterator[BakeDesk]":
    from proxy.adapters.desk import BakeDesk
    from proxy.adapters.registry import AdapterRegistry

    with AdapterRegistry.open(settings.log.url) as registry:
        yield BakeDesk(settings, registry, wanted.name, wanted.alias, wanted.base_model, actor)


@contextmanager
def _told(*, ends: bool = True) -> Iterator[None]:
    """Failures as one line; they end the command, or (in a schedule) this run alone."""
    from detector.errors import DetectorError
    from proxy.access.errors import AccessError
    from proxy.adapters.errors import AdapterError as ServiceError
    from proxy.errors import ConfigError, UpstreamError
    from proxy.log.errors import LogError, LogUrlError
    from train.adapters.errors import AdapterError
    from train.bake.errors import BakeConfigError, BakeError
    from train.evaluation.errors import EvaluationError
    from train.ipo.errors import IpoError
    from train.judges.errors import JudgeError
    from train.pairs.errors import PairsError
    from train.rollout.errors import RolloutError

    try:
        yield
    except (BakeConfigError, ConfigError, LogUrlError) as error:
        fail(error, 2)
    except (
        *(BakeError, AdapterError, EvaluationError, IpoError, JudgeError, PairsError, RolloutError, DetectorError),
        *(ServiceError, AccessError, LogError, UpstreamError, OSError),
    ) as error:
        if ends:
            fail(error)
        typer.echo(f"steer: this bake failed, the next goes on with it: {error}", err=True)


def _say(report: dict[str, Any], out: Path) -> None:
    typer.echo(
        f"bake {report['number']:04d}: {report['outcome']}" + (f": {report['reason']}" if report["reason"] else "")
    )
    for name, result in report["stages"].items():
        told = ", ".join(f"{key} {value}" for key, value in result.items() if isinstance(value, int | float | str))
        typer.echo(f"  {name:11s} {told}")
    if report["version"]:
        typer.echo(f"version: {report['version']}")
    folder = out / f"{report['number']:04d}"
    if folder.exists():
        typer.echo(f"report: {folder / 'report.json'}")
