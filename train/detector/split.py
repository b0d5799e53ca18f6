"""Which traces and prompts are for what: training, validation, transfer to what is held out, self-training.

Rules kept here: the split is by prompt, and a prompt of one side is on no other, whatever set it came from.
"""

from collections.abc import Sequence
from typing import NamedTuple

from train.detector.config import DataConfig
from train.detector.data import (
    DataError,
    Prompt,
    Trace,
    is_validation,
    prompt_hash,
    read_prompts,
    read_traces,
    split_text,
)


class Split(NamedTuple):
    """Traces and prompts by use; `holdout` are whole model families or sources kept out to measure transfer."""

    train: list[Trace]
    prompts: list[Prompt]  # those of unlabelled traces among them
    validation: list[Trace]
    holdout: list[Trace]
    unlabelled: list[Trace]  # of `self_train_sources`, for the teacher to label


def split_data(config: DataConfig) -> Split:
    """Read everything and split by prompt; prompts of the validation traces are dropped from the prompt sets too."""
    traces = [trace for trace in read_traces(config.traces) if trace.source not in config.exclude_sources]
    if not any(trace.labels for trace in traces):
        raise DataError("no labelled trace in data.traces")
    holdout = [t for t in traces if t.labels and _is_held_out(t, config)]
    rest = [t for t in traces if t.labels and not _is_held_out(t, config)]
    validation = [t for t in rest if is_validation(split_text(t, config.judged_sources), config.validation_share)]
    kept_ids = {t.id for t in validation}
    seen_elsewhere = {prompt_hash(t.prompt) for t in [*validation, *holdout]}
    asked = [
        Prompt(prompt=t.prompt, label=t.prompt_label, source=t.source)
        for t in traces
        if not t.labels and t.source not in config.judged_sources
    ]
    prompts = [
        p
        for p in [*read_prompts(config.prompts), *_distinct(asked)]
        if p.source not in (*config.holdout_sources, *config.exclude_sources)
        and prompt_hash(p.prompt) not in seen_elsewhere
    ]
    unlabelled = [
        t
        for t in traces
        if not t.labels
        and t.source in config.self_train_sources
        and not _is_held_out(t, config)
        and t.prompt_label == "harmful"
        and prompt_hash(t.prompt) not in seen_elsewhere
    ]
    # A held-out model's prompts may have been put to other models: those traces go as well.
    held_prompts = {prompt_hash(t.prompt) for t in holdout if len(t.prompt) <= 300}
    train = [t for t in rest if t.id not in kept_ids and prompt_hash(t.prompt) not in held_prompts]
    return Split(train, prompts, validation, holdout, unlabelled)


def _is_held_out(trace: Trace, config: DataConfig) -> bool:
    return trace.source in config.holdout_sources or any(name in trace.model for name in config.holdout_models)


def _distinct(prompts: Sequence[Prompt]) -> list[Prompt]:
    return list({prompt_hash(p.prompt): p for p in prompts}.values())
