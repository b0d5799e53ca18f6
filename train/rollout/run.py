"""`steer train rollout --config TOML --out DIR`: prompts (or intervention records) to rollouts.

    OUT/rollouts.jsonl.part   grows while the job runs, one line a prompt; a job started again goes on after it
    OUT/rollouts.jsonl        all of them, in the order of the prompts
    OUT/report.json, *.png    counts, throughput, curves; report.json is written last and means that the job is done

Blocks of prompts go through their rounds in lanes (threads), so that one block is judged while another generates.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from steer.trigger_table import TriggerTable
from steer.triggers import TriggerPool
from train.rollout.completion import RecordRow, Skipped, completable, complete, read_records
from train.rollout.config import EngineConfig, ModelConfig, RolloutConfig, load_config
from train.rollout.detectors import load_detector
from train.rollout.driver import Plan, Tools, roll
from train.rollout.errors import RolloutConfigError
from train.rollout.generator import Generator
from train.rollout.inprocess import InProcessGenerator
from train.rollout.plots import plot_all
from train.rollout.prompts import PromptRow, load_prompts
from train.rollout.report import report_of
from train.rollout.served import ServedGenerator
from train.rollout.store import LineStore, claim, write_json
from train.rollout.trace import Rollout
from train.rollout.vocabulary import ThinkMarkers, Vocabulary, load_vocabulary

ROLLOUTS = "rollouts.jsonl"
_PROGRESS = "progress.json"

Row = PromptRow | RecordRow
Work = Callable[[Sequence[Row]], list[Rollout]]


class _Input(NamedTuple):
    """What is worked through; `skipped` of records alone."""

    rows: Sequence[Row]
    skipped: Skipped | None


def run_file(config_path: Path, out: Path) -> dict[str, Any]:
    """`run` with a TOML file."""
    return run(load_config(config_path), out)


def run(config: RolloutConfig, out: Path) -> dict[str, Any]:
    """Roll out everything; returns what report.json holds. Raises RolloutError with a message for people."""
    given = _input(config)
    claim(out, _key(config, given.rows), config.model_dump(mode="json"))
    report = out / "report.json"
    if report.exists():
        done: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
        return done
    if not (out / ROLLOUTS).exists():
        _generate(config, given.rows, out)
    made = report_of(out / ROLLOUTS, config, _seconds(out))
    if given.skipped is not None:
        made["skipped_records"] = given.skipped._asdict()
    plot_all(made, out)
    write_json(report, made)
    return made


def _generate(config: RolloutConfig, rows: Sequence[Row], out: Path) -> None:
    """Everything that is not on disk yet, then the finished file."""
    store = LineStore(out, ROLLOUTS)
    left = [row for row in rows if row.id not in store.done]
    if left:
        vocabulary = vocabulary_of(config)
        generator = open_generator(config.model, config.engine, vocabulary)
        try:
            work = _work(config, generator, vocabulary)
            with tqdm(total=len(rows), initial=len(rows) - len(left), desc="rollout", unit="prompt") as bar:
                _run_blocks(config, left, work, store, out, bar)
        finally:
            generator.close()
    store.finish([row.id for row in rows])


def _run_blocks(
    config: RolloutConfig, rows: Sequence[Row], work: Work, store: LineStore, out: Path, bar: "tqdm[Any]"
) -> None:
    """Lanes work, this thread writes. After a failure what is finished is kept, what is not begun is not begun."""
    size = config.engine.block
    before, began, tokens = _seconds(out), time.monotonic(), 0

    def keep(made: Sequence[Rollout]) -> None:
        nonlocal tokens
        for rollout in made:
            store.append(rollout.id, rollout.model_dump_json())
            tokens += rollout.num_tokens
            bar.update()
        seconds = time.monotonic() - began
        write_json(out / _PROGRESS, {"seconds": before + seconds})
        bar.set_postfix_str(f"{tokens / max(seconds, 1e-9):.0f} tokens/s")

    with ThreadPoolExecutor(config.engine.lanes, thread_name_prefix="rollout") as lanes:
        running = {lanes.submit(work, rows[start : start + size]) for start in range(0, len(rows), size)}
        try:
            for future in as_completed(list(running)):
                running.discard(future)
                keep(future.result())
        finally:
            lanes.shutdown(cancel_futures=True)
            for future in running:  # after a failure: what the other lanes had in work
                if future.done() and not future.cancelled() and future.exception() is None:
                    keep(future.result())


def _work(config: RolloutConfig, generator: Generator, vocabulary: Vocabulary) -> Work:
    model = config.model
    detector = load_detector(config.detector, generator, vocabulary, model.name)
    tools = Tools(generator, detector, vocabulary, model.name, model.adapter)
    plan = plan_of(config, detector.threshold)
    if config.records is not None:
        branches = config.records.branches
        return lambda rows: complete([r for r in rows if isinstance(r, RecordRow)], tools, plan, branches)
    return lambda rows: roll([r for r in rows if isinstance(r, PromptRow)], tools, plan)


def plan_of(config: RolloutConfig, threshold: float) -> Plan:
    """The configured plan, with the detector's threshold in its policy."""
    table = None if config.triggers.table is None else load_table(config.triggers.table)
    return Plan(
        policy=config.policy.model_copy(update={"threshold": threshold}),
        pool=TriggerPool(config.triggers.chosen if table is None else table.triggers),
        branches=config.triggers.branches,
        benign_branches=config.triggers.benign_branches,
        samples=config.samples,
        sampling=config.sampling,
        max_tokens=config.max_tokens,
        seed=config.seed,
        table=table,
    )


def load_table(path: Path) -> TriggerTable:
    """A selection table. Raises RolloutConfigError."""
    try:
        return TriggerTable.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RolloutConfigError(
            f"triggers.table: {path} can't be read: give a file of `steer triggers snapshot --out` ({error})"
        ) from error


def vocabulary_of(config: RolloutConfig) -> Vocabulary:
    """The model's tokenizer and template. Raises RolloutConfigError, TemplateError."""
    markers = ThinkMarkers(config.think.start, config.think.end)
    return load_vocabulary(config.model.tokenizer or config.model.name, markers, config.model.template_options)


def open_generator(model: ModelConfig, engine: EngineConfig, vocabulary: Vocabulary) -> Generator:
    """The configured engine. Raises RolloutConfigError, EngineError."""
    match engine.kind:
        case "transformers":
            from train.rollout.local import LocalGenerator  # noqa: PLC0415 - torch is seconds, and a server needs none

            return LocalGenerator(model.name, model.adapter, engine.local, vocabulary.end_ids)
        case "served":
            key = os.environ.get(engine.served.api_key_env) if engine.served.api_key_env else None
            if engine.served.api_key_env and not key:
                raise RolloutConfigError(f"engine.served.api_key_env: {engine.served.api_key_env} is not set")
            return ServedGenerator(model.adapter or model.served_name or model.name, engine.served, key)
        case "vllm":
            return InProcessGenerator(model.name, model.adapter, engine.vllm)


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
    """The job's identity. How it is worked (lanes, batch sizes, retries) may change between two starts."""
    settings = config.model_dump(mode="json", exclude={"engine": {"lanes", "block", "local", "served", "vllm"}})
    marks = [row.id for row in rows]
    if config.triggers.table is not None:
        marks.append(load_table(config.triggers.table).sha256)
    return hashlib.sha256(json.dumps([settings, marks], sort_keys=True).encode()).hexdigest()


def _seconds(out: Path) -> float:
    """Wall seconds spent by every start of the job, up to the last finished block."""
    try:
        return float(json.loads((out / _PROGRESS).read_text(encoding="utf-8"))["seconds"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0.0
