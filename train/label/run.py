"""`steer train label --config TOML --out DIR`: conversations with reasoning to labelled traces.

OUT/cache.jsonl           every answer of the teacher, as it came; a job started again asks only for the rest
OUT/traces.jsonl          labelled traces in the order of the inputs: what `steer train detector` reads
OUT/failed.jsonl          conversations without labels, and why
OUT/report.json, *.png    counts, cost, agreement; report.json is written last and means that the job is done
"""

import hashlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import anyio
from tqdm import tqdm

from train.label.cache import CallCache
from train.label.config import LabelConfig, load_config
from train.label.errors import LabelConfigError, TeacherError
from train.label.item import Failed, Item, Labelled, given_line, trace_line
from train.label.labelling import label, settle_format, settled
from train.label.plots import plot_agreement, plot_labels
from train.label.prompt import PROMPT_VERSION
from train.label.report import (
    GIVEN,
    References,
    agreements,
    counts,
    file_hash,
    given_reference,
    load_references,
    spending,
)
from train.label.sources import read_items
from train.label.teacher import Teacher, open_teacher
from train.rollout.store import claim, write_json

TRACES = "traces.jsonl"
FAILED = "failed.jsonl"


class _Asked(NamedTuple):
    """What asking came to: results by id, and the teacher's own figures, None where none was needed."""

    results: dict[str, Labelled | Failed]
    teacher: dict[str, Any] | None
    keys: frozenset[str]


def run_file(config_path: Path, out: Path, *, retry_failed: bool = False) -> dict[str, Any]:
    """`run` with a TOML file."""
    return run(load_config(config_path), out, retry_failed=retry_failed)


def run(config: LabelConfig, out: Path, *, retry_failed: bool = False, progress: TextIO = sys.stderr) -> dict[str, Any]:
    """Label everything; returns what report.json holds. `retry_failed` asks again for what failed before.

    Raises LabelError with a message for people, OSError of the disk.
    """
    items = read_items(config)
    references = load_references(config.references)
    claim(out, _key(config, items), config.model_dump(mode="json"), LabelConfigError)
    report = out / "report.json"
    again = _failed_ids(out) if retry_failed else frozenset[str]()
    if report.exists() and not again:
        done: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
        return done
    report.unlink(missing_ok=True)
    with CallCache(config.cache or out / "cache.jsonl") as cache:
        asked = _ask_all(config, items, cache, again, progress)
        made = _publish(config, items, asked, references, cache, out)
    write_json(report, made)
    return made


def _ask_all(
    config: LabelConfig, items: Sequence[Item], cache: CallCache, again: frozenset[str], progress: TextIO
) -> _Asked:
    """What reviewers and inputs leave open goes to the teacher; without such items none is needed."""
    wanted = [item for item in items if not (item.given is not None and config.labelled == "keep")]
    done = {item.id: found for item in wanted if (found := settled(item, config.window)) is not None}
    left = [item for item in wanted if item.id not in done]
    if not left:
        return _Asked(dict(done), None, frozenset())
    try:
        asked = anyio.run(_ask, config, left, cache, again, progress)
    except BaseExceptionGroup as group:
        raise _first(group) from None
    return asked._replace(results={**done, **asked.results})


async def _ask(
    config: LabelConfig, items: Sequence[Item], cache: CallCache, again: frozenset[str], progress: TextIO
) -> _Asked:
    results: dict[str, Labelled | Failed] = {}
    async with open_teacher(config.teacher, cache) as teacher:
        for line in await settle_format(teacher, config.teacher):
            tqdm.write(line, file=progress)
        left = iter(items)
        in_a_row = 0
        with tqdm(total=len(items), desc="label", unit="trace", file=progress) as bar:

            async def work() -> None:
                nonlocal in_a_row
                for item in left:
                    result = await label(item, teacher, config.teacher, config.window, fresh=item.id in again)
                    results[item.id] = result
                    bar.update()
                    in_a_row = in_a_row + 1 if isinstance(result, Failed) else 0
                    if isinstance(result, Failed):
                        bar.set_postfix_str(f"{sum(isinstance(r, Failed) for r in results.values())} failed")
                        _give_up(in_a_row, config, result)

            async with anyio.create_task_group() as group:
                for _ in range(min(config.teacher.concurrency, len(items))):
                    group.start_soon(work)
    return _Asked(results, _figures(config, teacher), frozenset(teacher.keys))


def _give_up(in_a_row: int, config: LabelConfig, last: Failed) -> None:
    if in_a_row >= config.teacher.give_up_after:
        raise TeacherError(
            f"{in_a_row} conversations in a row could not be labelled by {config.teacher.model}, the last because: "
            f"{last.reason}\nTry a better teacher, or raise teacher.give_up_after"
        )


def _figures(config: LabelConfig, teacher: Teacher) -> dict[str, Any]:
    return {
        "model": config.teacher.model,
        "base_url": config.teacher.base_url,
        "response_format": teacher.format,
        "prompt_version": PROMPT_VERSION,
        "sent_by_this_start": teacher.num_sent,
        "retried_by_this_start": teacher.num_retried,
    }


def _publish(
    config: LabelConfig, items: Sequence[Item], asked: _Asked, references: References, cache: CallCache, out: Path
) -> dict[str, Any]:
    """Files, then what the report says of them."""
    lines: list[dict[str, Any]] = []
    failed: list[dict[str, Any]] = []
    for item in items:
        line, result = _line(config, item, asked.results.get(item.id)), asked.results.get(item.id)
        if line is not None:
            lines.append(line)
        if isinstance(result, Failed):
            failed.append({"id": item.id, "source": item.source, "reason": result.reason})
    _write_lines(out / FAILED, failed)
    if not lines:
        raise TeacherError(f"none of {len(items)} conversations could be labelled; {out / FAILED} says why")
    _write_lines(out / TRACES, lines)
    labelled = [(item, r) for item in items if isinstance(r := asked.results.get(item.id), Labelled)]
    made = agreements(labelled, {GIVEN: given_reference(items), **references}, config.agreement)
    plot_labels(lines, out / "labels.png")
    if drawn := {name: report for name, report in made.items() if report["conversations"]}:
        plot_agreement(drawn, out / "agreement.png")
    return {
        "traces": {"file": TRACES, "sha256": file_hash(out / TRACES)},
        **counts(lines, failed),
        "teacher": asked.teacher,
        **spending(asked.keys, cache, config.prices),
        "agreement": made,
        "config": config.model_dump(mode="json"),
    }


def _line(config: LabelConfig, item: Item, result: Labelled | Failed | None) -> dict[str, Any] | None:
    """The trace as it is written; None where it has no labels. Given labels outlive a teacher that failed."""
    if item.given is not None and config.labelled != "replace":
        return given_line(item)
    if not isinstance(result, Labelled):
        return None
    by = (
        "reviewer"
        if settled(item, config.window) is not None
        else "teacher and reviewer"
        if item.reviewed is not None
        else "teacher"
    )
    return trace_line(item, result, by)


def _write_lines(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Whole or not at all."""
    part = path.with_name(path.name + ".part")
    try:
        with part.open("w", encoding="utf-8") as sink:
            sink.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
            sink.flush()
            os.fsync(sink.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _failed_ids(out: Path) -> frozenset[str]:
    try:
        lines = (out / FAILED).read_text(encoding="utf-8").splitlines()
        return frozenset(json.loads(line)["id"] for line in lines)
    except FileNotFoundError:
        return frozenset()


def _key(config: LabelConfig, items: Sequence[Item]) -> str:
    """The job's identity: what shapes the labels. How the teacher is reached, and what it costs, may change."""
    reached = {"base_url", "api_key_env", "retries", "timeout_s", "max_wait_s", "concurrency", "requests_per_minute"}
    settings = config.model_dump(
        mode="json", exclude={"cache": True, "prices": True, "teacher": reached | {"give_up_after"}}
    )
    shown = [{**asdict(item), "fixed": sorted(item.fixed.items()), "spliced": sorted(item.spliced)} for item in items]
    text = json.dumps([settings, PROMPT_VERSION, shown], sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _first(group: BaseExceptionGroup[Any]) -> BaseException:
    """The first of the exceptions that tasks raised, at one time or because of one another."""
    inner: BaseException = group
    while isinstance(inner, BaseExceptionGroup):
        inner = inner.exceptions[0]
    return inner
