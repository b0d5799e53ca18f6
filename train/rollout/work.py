"""What a rollout job works with, and the work on a block of prompts: the same in a thread here as on a cluster."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from steer.trigger_table import TriggerTable
from steer.triggers import TriggerPool
from train.rollout.completion import RecordRow, complete
from train.rollout.config import EngineConfig, ModelConfig, RolloutConfig
from train.rollout.detectors import load_detector
from train.rollout.driver import Plan, Tools, roll
from train.rollout.errors import RolloutConfigError
from train.rollout.generator import Generator
from train.rollout.inprocess import InProcessGenerator
from train.rollout.prompts import PromptRow
from train.rollout.served import ServedGenerator
from train.rollout.trace import Rollout
from train.rollout.vocabulary import ThinkMarkers, Vocabulary, load_vocabulary

Row = PromptRow | RecordRow
Work = Callable[[Sequence[Row]], list[Rollout]]
OpenTools = Callable[[RolloutConfig], Tools]


@dataclass(frozen=True, slots=True)
class Made:
    """A finished rollout, as it goes to disk."""

    id: str
    line: str
    tokens: int


def made_of(rollouts: Sequence[Rollout]) -> list[Made]:
    """One each, in order."""
    return [Made(rollout.id, rollout.model_dump_json(), rollout.num_tokens) for rollout in rollouts]


def open_tools(config: RolloutConfig) -> Tools:
    """Engine, detector and tokenizer of a job. Raises RolloutError; the generator is the caller's to close."""
    vocabulary = vocabulary_of(config)
    generator = open_generator(config.model, config.engine, vocabulary)
    try:
        detector = load_detector(config.detector, generator, vocabulary, config.model.name)
    except BaseException:
        generator.close()
        raise
    return Tools(generator, detector, vocabulary, config.model.name, config.model.adapter)


def work_of(config: RolloutConfig, tools: Tools) -> Work:
    """What is done with a block."""
    plan = plan_of(config, tools.detector.threshold)
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
