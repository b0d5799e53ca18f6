"""Detectors of a rollout: the ONNX artifact, the generating model itself (self-check), a function of one's own.

`digest` names the detector in every rollout, so that pairs can insist on a judge that is not it.
"""

import importlib
import math
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

from detector.artifact import load_artifact
from detector.classifier import CueClassifier, Model
from detector.context import Context
from detector.errors import ArtifactError
from train.organism.selfcheck import parse_self_check, self_check_messages
from train.rollout.errors import RolloutConfigError
from train.rollout.generator import Generator, Request, Sampling
from train.rollout.vocabulary import Vocabulary

# Of a self-check reply, "Yes" or "No" is the first word; more is for models that clear their throat.
_SELF_CHECK_TOKENS = 8


class DetectorConfig(BaseModel):
    """Who finds the cues."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["onnx", "self", "function"] = "onnx"
    artifact: Path | None = Field(None, description="onnx: artifact folder; none means the one that ships")
    function: str | None = Field(None, description="function: module:name, called with a list of detector.Context")
    threshold: float | None = Field(None, ge=0, le=1, description="none: the artifact's own, or 0.5")
    threads: int = Field(2, ge=1, le=64, description="onnx: segments that are scored at a time")


class Detector(Protocol):
    """Verdicts for segments. `wave`: how many segments of a trace are asked for at a time, before the first cue is
    known; more wastes verdicts, fewer wastes rounds."""

    digest: str
    threshold: float
    wave: int

    def score(self, contexts: Sequence[Context]) -> list[float | None]:
        """Probability of a cue for each context, in order; None where it can't be judged. Raises DetectorError."""


def load_detector(config: DetectorConfig, generator: Generator, vocabulary: Vocabulary, model: str) -> Detector:
    """Raises RolloutConfigError for an artifact or function that can't be used."""
    match config.kind:
        case "onnx":
            return OnnxDetector(config)
        case "self":
            return SelfDetector(config, generator, vocabulary, model)
        case "function":
            return FunctionDetector(config)


class OnnxDetector:
    """The classifier that the proxy uses, on several threads."""

    wave = 4  # a first cue is mostly the first or second sentence

    def __init__(self, config: DetectorConfig) -> None:
        try:
            artifact = load_artifact(config.artifact)
            self._model = Model(artifact)
        except ArtifactError as error:
            raise RolloutConfigError(f"detector.artifact: {error}") from error
        self._artifact = artifact
        self._local = threading.local()
        self._threads = ThreadPoolExecutor(config.threads, thread_name_prefix="detector")
        self.digest = f"onnx:{artifact.digest}"
        self.threshold = artifact.threshold if config.threshold is None else config.threshold

    def score(self, contexts: Sequence[Context]) -> list[float | None]:
        """One by one: on one core batching gains nothing, and a score must not depend on its neighbours."""
        return list(self._threads.map(self._score_one, contexts))

    def _score_one(self, context: Context) -> float:
        if not hasattr(self._local, "classifier"):
            self._local.classifier = CueClassifier(self._artifact, self._model)
        [score] = self._local.classifier.score([context])
        return float(score)


class SelfDetector:
    """The generating model is asked whether the last sentence is a cue; its yes is a score of 1."""

    wave = 8  # one batch of short prompts costs little more than one prompt

    def __init__(self, config: DetectorConfig, generator: Generator, vocabulary: Vocabulary, model: str) -> None:
        self._generator, self._vocabulary = generator, vocabulary
        self.digest = f"self:{model}"
        self.threshold = 0.5 if config.threshold is None else config.threshold

    def score(self, contexts: Sequence[Context]) -> list[float | None]:
        """1 for yes, 0 for no, None for any other reply."""
        requests = [Request(self._prompt(context), _SELF_CHECK_TOKENS, 0) for context in contexts]
        replies = self._generator.generate(requests, Sampling(temperature=0))
        said = [parse_self_check(self._vocabulary.decode(reply.token_ids)) for reply in replies]
        return [None if answer is None else float(answer) for answer in said]

    def _prompt(self, context: Context) -> list[int]:
        reasoning = context.reasoning_before + context.segment
        return self._vocabulary.plain_prompt_ids(self_check_messages(context.messages, reasoning))


class FunctionDetector:
    """A function of one's own: a list of contexts in, a list of probabilities (or None) out."""

    wave = 8

    def __init__(self, config: DetectorConfig) -> None:
        if config.function is None:
            raise RolloutConfigError('detector.function: give it as "module:name" for kind = "function"')
        self._score = load_function(config.function, "detector.function")
        self.digest = f"function:{config.function}"
        self.threshold = 0.5 if config.threshold is None else config.threshold

    def score(self, contexts: Sequence[Context]) -> list[float | None]:
        """Raises RolloutConfigError where the function gives something else than one probability each."""
        scores = list(self._score(list(contexts)))
        if len(scores) != len(contexts):
            raise RolloutConfigError(
                f"detector.function: {self.digest} gave {len(scores)} scores for {len(contexts)} contexts"
            )
        return [_probability(score, self.digest) for score in scores]


def _probability(score: object, name: str) -> float | None:
    if score is None or (isinstance(score, float | int) and (math.isnan(score) or 0 <= score <= 1)):
        return None if score is None or math.isnan(score) else float(score)
    raise RolloutConfigError(f"detector.function: {name} gave {score!r}, which is no probability")


def load_function(spec: str, field: str) -> Callable[..., list[object]]:
    """The function that "module:name" names. Raises RolloutConfigError."""
    module_name, _, name = spec.partition(":")
    try:
        function = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise RolloutConfigError(f"{field}: cannot import {spec!r} ({error}); give it as module:name") from error
    if not callable(function):
        raise RolloutConfigError(f"{field}: {spec!r} is not callable")
    return function
