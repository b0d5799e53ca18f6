"""`steer adapters shadow` and `shadow-export`, and the comparison that `show` prints. See docs/shadow.md."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steer.cli.adapters import LogUrl, Reason, Version, opened
from steer.cli.common import Config, fail, given

if TYPE_CHECKING:
    from proxy.shadow.compare import Comparison
    from steer.paired import Difference


def shadow(
    id: Version,
    share: Annotated[
        float, typer.Option(min=0, max=1, help="share of the champion's requests that are copied; 0 ends it")
    ] = 0.05,
    reason: Reason = None,
    config: Config = None,
    log_url: LogUrl = None,
) -> None:
    """Let a version answer copies of a share of the traffic, shown to nobody; again for another share, 0 to end it."""
    from proxy.shadow.api import set_share

    with opened("adapters shadow", config, log_url) as (registry, actor):
        registry.change(lambda c: set_share(c, id, share, actor, reason))
    what = f"answers copies of {share:.1%} of its alias's requests" if share else "is in shadow no more"
    typer.echo(f"{id} {what}; proxies follow within seconds")


def shadow_export(
    id: Version,
    out: Annotated[Path, typer.Option("--out", help="JSONL file that is written")],
    config: Config = None,
    log_url: LogUrl = None,
) -> None:
    """Write the copies that a version answered, with their interventions: the one way from them to reviews or pairs."""
    from proxy.log.setup import make_texts
    from proxy.settings import load_settings
    from proxy.shadow.store import export

    written, part = 0, out.with_name(out.name + ".part")
    with opened("adapters shadow-export", config, log_url) as (registry, _):
        texts = make_texts(load_settings(config, {"log": given(url=log_url)}).log)
        try:
            part.touch(mode=0o600)
            with part.open("w", encoding="utf-8") as sink:
                for line in export(registry, texts, id):
                    sink.write(json.dumps(line, ensure_ascii=False) + "\n")
                    written += 1
            part.replace(out)
        except OSError as error:
            fail(error)
    typer.echo(f"{written} copies of {id} in {out}")


def told(comparison: "Comparison") -> list[str]:
    """The comparison, for people."""
    c, pairs = comparison, comparison.pairs
    state = "goes on" if c.ending is None else f"ended: {c.ending}"
    lines = [
        f"shadow of {c.champion or 'the base model'} at {c.share:.1%}, since {c.began_at:%Y-%m-%d %H:%M} UTC, {state}",
        f"{c.copies} copies answered, {c.dropped} dropped; {c.answered} of requests whose clients stayed to the end",
    ]
    if difference := c.difference:
        own, other = (pairs.both + pairs.first_only) / pairs.n, (pairs.both + pairs.second_only) / pairs.n
        lines.append(f"halted: {own:.1%}, the champion {other:.1%} of the same {pairs.n} requests, {_told(difference)}")
        lines.append(f"  both {pairs.both}, it alone {pairs.first_only}, the champion alone {pairs.second_only}")
    if c.of_largest is not None:
        rest = c.without_largest
        words = "no others" if rest is None else f"without it {_told(rest)}"
        lines.append(f"  {c.clients} clients; the largest has {c.of_largest.n} of the requests, {words}")
    lines.append(f"failed: {c.failed[0]}, the champion {c.failed[1]} of {c.answered}")
    lines.append(f"tokens a request: {c.tokens[0]:g}, the champion {c.tokens[1]:g}")
    return lines


def _told(difference: "Difference") -> str:
    low, high = difference.low, difference.high
    return f"difference {difference.value:+.1%} [{low:+.1%}, {high:+.1%}] (95 %)"
