"""`steer eval --config TOML --out DIR`: what a model does, in figures with intervals.

OUT/samples.jsonl      every turn as sampled; holds prompts and what the model wrote
OUT/verdicts.jsonl     the judge's verdicts by hash
OUT/marks.jsonl        right answers, and what the detector flags
OUT/kl.jsonl           KL to the reference, sums by prompt
OUT/lm_eval, .json     what the lm-eval harness wrote, where it was asked
OUT/scores.jsonl       counts by prompt, no text: what pairs two reports
OUT/report.md, *.png   for people
OUT/report.json        written last: the job is done
"""

from pathlib import Path
from typing import Any

from train.evaluation import harness
from train.evaluation.bootstrap import Resampling
from train.evaluation.config import EvaluationConfig, load_config
from train.evaluation.divergence import Near, TwoModels
from train.evaluation.errors import EvaluationConfigError
from train.evaluation.identity import adapter_identity, model_identity
from train.evaluation.job import REPORT, Extra, Plan, Subject, key_of, work
from train.evaluation.report import EvaluationReport, read_report
from train.evaluation.sandbox import Limits
from train.evaluation.sets import load_sets
from train.evaluation.turns import Drawing
from train.judges.load import load_judge
from train.rollout.detectors import Detector, FunctionDetector, OnnxDetector
from train.rollout.generator import Generator
from train.rollout.store import claim
from train.rollout.vocabulary import ThinkMarkers, load_vocabulary
from train.rollout.work import open_generator

# How a job is worked may change between two starts; these fields are no part of its identity.
_WORKED: Any = {
    "engine": {"lanes", "block", "local", "served", "vllm"},
    "judge": {"remote": {"concurrency", "retries", "timeout_s", "price_in", "price_out"}},
    "monitor": {"threads"},
    "kl": {"device", "dtype"},
    "lm_eval": {"concurrency", "timeout_s"},
}


def run_file(config_path: Path, out: Path) -> EvaluationReport:
    """`run` with a TOML file."""
    return run(load_config(config_path), out)


def run(config: EvaluationConfig, out: Path) -> EvaluationReport:
    """Evaluate; returns what report.json holds.

    Raises EvaluationError, RolloutError, JudgeError, DetectorError with a message for people.
    """
    sets = load_sets(config.sets)
    if config.lm_eval is not None:
        harness.find_program()
    model = model_identity(config.model, config.engine)
    adapters = [] if config.model.adapter is None else [adapter_identity(config.model.adapter, config.kl_adapter)]
    settings = config.model_dump(mode="json", exclude=_WORKED)
    identity = [model.model_dump(), [adapter.model_dump() for adapter in adapters]]
    key = key_of([settings, identity, [chosen.sha256 for chosen in sets]])
    claim(out, key, config.model_dump(mode="json"), EvaluationConfigError)
    if (out / REPORT).exists():
        return read_report(out / REPORT)
    markers = ThinkMarkers(config.think.start, config.think.end)
    vocabulary = load_vocabulary(config.model.tokenizer or config.model.name, markers, config.model.template_options)

    def generator() -> Generator:
        return open_generator(config.model, config.engine, vocabulary)

    subject = Subject(
        generator,
        vocabulary,
        load_judge(config.judge),
        model,
        tuple(adapters),
        _detector(config),
        _models(config),
    )
    return work(sets, subject, plan_of(config), _extra(config, out), out)


def plan_of(config: EvaluationConfig) -> Plan:
    """The configured plan."""
    near = Near()
    if config.kl is not None:
        near = Near(
            reference=config.kl.reference or config.kl.model or config.model.name,
            finders=config.kl.finders,
            triggers=config.triggers,
            window=config.kl.window,
            prompts=config.kl.prompts,
            max_tokens=config.kl.max_tokens,
            seed=config.seed,
        )
    return Plan(
        name=config.name,
        drawing=Drawing(
            sampling=config.sampling,
            samples=config.samples,
            max_tokens=config.max_tokens,
            seed=config.seed,
            block=config.engine.block,
            lanes=config.engine.lanes,
        ),
        variants=config.variants,
        near=near,
        limits=Limits(config.code.timeout_s, config.code.memory_mb),
        allows_code=config.code.allow_execution,
        resampling=Resampling(config.bootstrap.resamples, config.bootstrap.confidence, config.seed),
    )


def _detector(config: EvaluationConfig) -> Detector | None:
    if not config.monitors or not config.sets:
        return None
    return OnnxDetector(config.monitor) if config.monitor.kind == "onnx" else FunctionDetector(config.monitor)


def _models(config: EvaluationConfig) -> Any:
    asked = config.kl
    if asked is None:
        return None

    def models() -> TwoModels:
        from train.evaluation.twomodels import LoadedModels  # noqa: PLC0415 - torch is seconds, and only KL needs it

        name = asked.model or config.model.name
        return LoadedModels(name, config.kl_adapter, asked.reference, asked.device, asked.dtype)

    return models


def _extra(config: EvaluationConfig, out: Path) -> Extra:
    settings = config.model_dump(mode="json")
    if config.lm_eval is None:
        return Extra(settings)
    confidence = config.bootstrap.confidence
    return Extra(settings, lambda: harness.run_harness(config, out), lambda found: harness.rates(found, confidence))
