"""Files between the log and the training side: traces out, verdicts in, confirmed misses out. JSON lines.

Traces and records hold user text, so they are written readable for their owner alone, whole or not at all.
"""

import json
import os
from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial
from pathlib import Path

from pydantic import BaseModel, ValidationError

from proxy.access.identity import Identity
from proxy.log.targets import check_file
from proxy.review.audit import write_entry
from proxy.review.desk import ReviewDesk, actor_of, scope_of
from proxy.review.errors import BadInput
from proxy.review.samples import confirmed_misses
from proxy.review.verdicts import MAX_VERDICTS, Imported, import_verdicts
from steer.review import JudgedTrace, SecondVerdict

_PAGE = 50


async def export_unjudged(
    desk: ReviewDesk, who: Identity, judge: str | None, out: Path, *, limit: int, with_halts: bool
) -> int:
    """At most `limit` traces of each kind. Number written. Raises LogError, OSError."""
    count = await _write(out, _traces(desk, who, judge, limit, with_halts))
    await _note(desk, who, "review.export_unjudged", count)
    return count


async def export_misses(desk: ReviewDesk, who: Identity, out: Path) -> int:
    """All confirmed misses as records. Number written. Raises LogError, OSError."""
    count = await _write(out, _misses(desk, who))
    await _note(desk, who, "review.export_misses", count)
    return count


async def import_verdict_file(desk: ReviewDesk, who: Identity, path: Path) -> Imported:
    """In portions. Raises BadInput naming the line, LogError, OSError."""
    verdicts = _read(path)
    total = Imported()
    for start in range(0, len(verdicts), MAX_VERDICTS):
        part = verdicts[start : start + MAX_VERDICTS]
        found = await desk.store.write(
            partial(import_verdicts, actor=actor_of(who), verdicts=part, tenant=scope_of(who))
        )
        total = Imported(
            total.written + found.written,
            total.unknown + found.unknown,
            total.finds + found.finds,
            total.disagreements + found.disagreements,
        )
    return total


async def _traces(
    desk: ReviewDesk, who: Identity, judge: str | None, limit: int, with_halts: bool
) -> AsyncGenerator[JudgedTrace, None]:
    for kind in ("sample", "intervention") if with_halts else ("sample",):
        left, after = limit, None
        while left > 0:
            traces, after = await desk.unjudged(who, kind, judge, after=after, limit=min(left, _PAGE))
            left -= min(left, _PAGE)
            for trace in traces:
                yield trace
            if after is None:
                break


async def _misses(desk: ReviewDesk, who: Identity) -> AsyncGenerator[BaseModel, None]:
    after, scope = None, scope_of(who)
    while True:
        records, after = await desk.store.read(partial(confirmed_misses, keeper=desk.texts, after=after, limit=_PAGE))
        for record in records:
            if scope in (None, record.tenant):
                yield record
        if after is None:
            return


async def _note(desk: ReviewDesk, who: Identity, action: str, count: int) -> None:
    """Text has left the log: the trail says who took it."""
    await desk.store.write(
        partial(write_entry, actor=actor_of(who), action=action, subject="export", after={"number": count})
    )


async def _write(out: Path, items: AsyncGenerator[BaseModel, None]) -> int:
    check_file(out)
    part, count = out.with_name(out.name + ".part"), 0
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    # Half a character, which a client may send as an escape, becomes a mark: readers of JSON refuse it.
    with os.fdopen(descriptor, "w", encoding="utf-8", errors="replace") as sink:
        async with aclosing(items):
            async for item in items:
                sink.write(json.dumps(item.model_dump(mode="json"), ensure_ascii=False) + "\n")
                count += 1
        sink.flush()
        os.fsync(sink.fileno())
    part.replace(out)
    return count


def _read(path: Path) -> list[SecondVerdict]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} is no UTF-8 text ({error})") from None
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found.append(SecondVerdict.model_validate_json(line))
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"])) or "verdict"
            raise BadInput(f"{path}, line {number}: {field}: {first['msg']}") from None
    return found
