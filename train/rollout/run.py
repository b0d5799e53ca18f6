"""`steer train rollout --config TOML --out DIR`: prompts (or intervention records) to rollouts.

    OUT/rollouts.jsonl.part   grows while the job runs, one line a prompt; a job started again goes on after it
    OUT/rollouts.jsonl        all of them, in the order of the prompts
    OUT/report.json, *.png    counts, throughput, curves; report.json is written last and means that the job is done

Blocks of prompts go through their rounds in lanes (threads), so that one block is judged while another generates; with
[cluster] they go to the workers of a Ray cluster instead, which do the same.
"""

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from train.rollout.cluster import work_on_cluster
from train.rollout.completion import Skipped, completable, read_records
from train.rollout.config import RolloutConfig, load_config
from train.rollout.errors import RolloutConfigError
from train.rollout.plots import plot_all
from train.rollout.progress import Finished, Keep, Keeper, seconds_spent, worker_table
from train.rollout.prompts import load_prompts
from train.rollout.report import report_of
from train.rollout.store import LineStore, claim, write_json
from train.rollout.work import OpenTools, Row, load_table, made_of, open_tools, work_of

ROLLOUTS = "rollouts.jsonl"
# Settings that say how a job is worked, not what comes of it.
_HOW: Any = {"engine": {"lanes", "block", "local", "served", "vllm"}, "cluster": True}


class _Input(NamedTuple):
    """What is worked through; `skipped` of records alone."""

    rows: Sequence[Row]
    skipped: Skipped | None


def run_file(config_path: Path, out: Path) -> dict[str, Any]:
    """`run` with a TOML file."""
    return run(load_config(config_path), out)


def run(config: RolloutConfig, out: Path, opened: OpenTools = open_tools) -> dict[str, Any]:
    """Roll out everything; returns what report.json holds. Raises RolloutError with a message for people.

    `opened` makes engine, detector and tokenizer: here, or in every worker of a cluster, which imports it by name.
    """
    given = _input(config)
    claim(out, _key(config, given.rows), config.model_dump(mode="json"))
    report = out / "report.json"
    if report.exists():
        done: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
        return done
    if not (out / ROLLOUTS).exists():
        _generate(config, given.rows, out, opened)
    made = report_of(out / ROLLOUTS, config, seconds_spent(out))
    if workers := worker_table(out):
        made["workers"] = workers
    if given.skipped is not None:
        made["skipped_records"] = given.skipped._asdict()
    plot_all(made, out)
    write_json(report, made)
    return made


def _generate(config: RolloutConfig, rows: Sequence[Row], out: Path, opened: OpenTools) -> None:
    """Everything that is not on disk yet, then the finished file."""
    store = LineStore(out, ROLLOUTS)
    left = [row for row in rows if row.id not in store.done]
    if left:
        size = config.engine.block
        blocks = [left[start : start + size] for start in range(0, len(left), size)]
        with tqdm(total=len(rows), initial=len(rows) - len(left), desc="rollout", unit="prompt") as bar:
            keep = Keeper(store, out, bar)
            if config.cluster is None:
                _work_here(config, blocks, keep, opened)
            else:
                work_on_cluster(config, config.cluster, blocks, keep, opened)
    store.finish([row.id for row in rows])


def _work_here(config: RolloutConfig, blocks: Sequence[Sequence[Row]], keep: Keep, opened: OpenTools) -> None:
    """Lanes work, this thread writes. After a failure what is finished is kept, what is not begun is not begun."""
    tools = opened(config)
    work = work_of(config, tools)
    try:
        with ThreadPoolExecutor(config.engine.lanes, thread_name_prefix="rollout") as lanes:
            running = {lanes.submit(work, block) for block in blocks}
            try:
                for future in as_completed(list(running)):
                    running.discard(future)
                    keep(Finished(made_of(future.result())))
            finally:
                lanes.shutdown(cancel_futures=True)
                for future in running:  # after a failure: what the other lanes had in work
                    if future.done() and not future.cancelled() and future.exception() is None:
                        keep(Finished(made_of(future.result())))
    finally:
        tools.generator.close()


def _input(config: RolloutConfig) -> _Input:
    if config.prompts is not None:
        return _Input(load_prompts(config.prompts), None)
    assert config.records is not None, "the config holds one of the two"
    records = read_records(config.records.source)
    model = config.model
    names = frozenset(name for name in (model.name, model.served_name, *model.recorded_as) if name is not None)
    rows, skipped = completable(records, names, model.recorded_adapter or model.adapter)
    if not rows:
        raise RolloutConfigError(
            f"{config.records.source}: none of {len(records)} records can be completed by {model.name!r} "
            f"(adapter {model.adapter}): {skipped.no_token_ids} without token ids, {skipped.other_model} of another "
            "model or adapter; name the recorded model in model.name, model.recorded_as or model.adapter"
        )
    return _Input(rows, skipped)


def _key(config: RolloutConfig, rows: Sequence[Row]) -> str:
    """The job's identity. How it is worked (lanes, batch sizes, retries, workers) may change between two starts."""
    settings = config.model_dump(mode="json", exclude=_HOW)
    marks = [row.id for row in rows]
    if config.triggers.table is not None:
        marks.append(load_table(config.triggers.table).sha256)
    return hashlib.sha256(json.dumps([settings, marks], sort_keys=True).encode()).hexdigest()
