"""The first stages: what the log holds, and what it lacks to become pairs.

A record is completed once, by the model and version that it was recorded with; later bakes take the completed row over
from earlier ones, for as long as the record is in the log. What was deleted there is in no later union.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from steer.record import InterventionRecord
from train.bake.config import BakeConfig
from train.bake.ports import Service
from train.pairs.export import write_lines
from train.rollout.completion import completable, read_records
from train.rollout.report import read_rollouts
from train.rollout.run import ROLLOUTS, run
from train.rollout.trace import Rollout

RECORDS = "records.jsonl"
# The selection table as it was when the bake began (`steer.trigger_table`); absent where triggers are not adaptive.
TRIGGERS = "triggers.json"
COLLECT, COMPLETE = "1-collect", "2-complete"


def complete_all(
    config: BakeConfig, service: Service, source: Path, folder: Path, earlier: Iterable[Path]
) -> Counter[str]:
    """`folder/rollouts.jsonl`: a completed row of every record that can be had, in the records' order.

    `earlier`: such files of bakes before. Returns counts: taken over, completed, left out by reason.
    """
    records = read_records(source)
    rows = _kept(records, earlier)
    counts = Counter({"taken over": len(rows)})
    table = source.with_name(TRIGGERS) if source.with_name(TRIGGERS).exists() else None
    for adapter, group in _groups([record for record in records if record.id not in rows]).items():
        made = _complete(config, service, adapter, group, table, folder, counts)
        counts["completed"] += len(made)
        rows |= made
    current = {record.id: record for record in records}
    lines = (_current(row, current[id]).model_dump_json() for id in current if (row := rows.get(id)) is not None)
    write_lines(folder / ROLLOUTS, lines)
    return counts


def _kept(records: Sequence[InterventionRecord], earlier: Iterable[Path]) -> dict[str, Rollout]:
    wanted = {record.id for record in records}
    found = (row for path in earlier if path.exists() for row in read_rollouts(path))
    return {row.record_id: row for row in found if row.record_id is not None and row.record_id in wanted}


def _current(row: Rollout, record: InterventionRecord) -> Rollout:
    """A row as its record stands today: a person may have reviewed it since."""
    return row.model_copy(update={"review_state": record.review_state, "category": record.category})


def _groups(records: Sequence[InterventionRecord]) -> dict[str | None, list[InterventionRecord]]:
    groups: dict[str | None, list[InterventionRecord]] = {}
    for record in records:
        groups.setdefault(record.adapter, []).append(record)
    return groups


def _complete(
    config: BakeConfig,
    service: Service,
    adapter: str | None,
    group: list[InterventionRecord],
    table: Path | None,
    folder: Path,
    counts: Counter[str],
) -> dict[str, Rollout]:
    """The rows of one version's records, made by that version."""
    generates: str | None = None
    if adapter is not None:
        version = service.version(adapter)
        if version is None:
            counts[f"left out: {adapter} is not registered here"] += len(group)
            return {}
        if config.is_served(config.rollout):
            if not version.is_loaded:
                counts[f"left out: {adapter} is no longer loaded"] += len(group)
                return {}
            generates = version.id
        else:
            generates = str(version.folder)
    place = folder / re.sub(r"[^a-z0-9@._-]", "_", adapter or "base")
    place.mkdir(parents=True, exist_ok=True)
    job = config.rollout_config(place / RECORDS, generates, adapter, table)
    names = frozenset(n for n in (job.model.name, job.model.served_name, *job.model.recorded_as) if n is not None)
    rows, skipped = completable(group, names, adapter)
    counts["left out: no token ids"] += skipped.no_token_ids
    counts["left out: of another model"] += skipped.other_model
    if not rows:
        return {}
    write_lines(place / RECORDS, (row.record.model_dump_json() for row in rows))
    run(job, place / "rollout")
    return {row.record_id: row for row in read_rollouts(place / "rollout" / ROLLOUTS) if row.record_id is not None}
