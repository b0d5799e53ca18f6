"""What `steer train rollout --config TOML` may say. Unknown fields are errors."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from steer.policy import Policy
from steer.triggers import DEFAULT_TRIGGERS, Trigger
from train.rollout.detectors import DetectorConfig
from train.rollout.errors import RolloutConfigError
from train.rollout.generator import Sampling
from train.rollout.inprocess import InProcessConfig
from train.rollout.local import LocalConfig
from train.rollout.prompts import PromptsConfig
from train.rollout.served import ServedConfig

ConfigKind = TypeVar("ConfigKind", bound=BaseModel)

# Threads, nearly all of which wait.
_MAX_LANES = 1024
# Of two prompts in work one is judged, or waits for the longest of its branches, while the other generates.
_LANES_PER_REQUEST = 2


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelConfig(_Model):
    """The reasoning model."""

    name: str = Field(description="folder or hub name; also what rollouts and pairs call the model")
    tokenizer: str | None = Field(None, description="folder or hub name of the tokenizer; none: the model's own")
    served_name: str | None = Field(None, description="name that a server knows it by; none: `name`")
    adapter: str | None = Field(None, description="LoRA folder; with engine.kind = served, the adapter's served name")
    recorded_adapter: str | None = Field(None, description="what intervention records call it; none: `adapter`")
    recorded_as: tuple[str, ...] = Field((), description="further names of this model in intervention records")
    template_options: dict[str, Any] = Field(default_factory=dict, description="options of the chat template")


class ThinkConfig(_Model):
    """The markers around the reasoning."""

    start: str = Field("<think>", min_length=1)
    end: str = Field("</think>", min_length=1)


class EngineConfig(_Model):
    """What generates."""

    kind: Literal["transformers", "served", "vllm"] = Field(
        "transformers", description="transformers: in this process; served: a vLLM URL; vllm: vllm.LLM in this process"
    )
    local: LocalConfig = LocalConfig()
    served: ServedConfig = ServedConfig()
    vllm: InProcessConfig = InProcessConfig()
    lanes: int = Field(
        2,
        ge=1,
        le=_MAX_LANES,
        description="blocks of prompts in work at a time: one is judged while another generates; served, without lanes "
        "and block: single prompts, twice as many as served.concurrency",
    )
    block: int = Field(32, ge=1, description="prompts in a block: what goes through the rounds together")

    @model_validator(mode="before")
    @classmethod
    def _keep_a_server_full(cls, value: Any) -> Any:
        """A server batches by itself: prompts that wait for a block's longest trace would leave it half empty."""
        if not isinstance(value, Mapping) or value.get("kind") != "served" or {"lanes", "block"} & value.keys():
            return value
        served = ServedConfig.model_validate(value.get("served", {}))
        return {**value, "lanes": min(_MAX_LANES, _LANES_PER_REQUEST * served.concurrency), "block": 1}


class ClusterConfig(_Model):
    """Workers of a Ray cluster, each with an engine and a detector of its own. docs/scale.md"""

    workers: int = Field(2, ge=1, description="each works `engine.lanes` blocks at a time")
    address: str | None = Field(
        None, description='"auto" on a node of a cluster, or host:port; none: a Ray of this job\'s own, on this machine'
    )
    cpus: float = Field(1.0, ge=0, description="cores that a worker reserves")
    gpus: float = Field(0.0, ge=0, description="GPUs that a worker reserves")
    retries: int = Field(3, ge=0, description="times that a block is begun again whose worker died")


class TriggersConfig(_Model):
    """What is spliced."""

    branches: int = Field(6, ge=0, description="first triggers tried for each cut; 0: one, chosen as the proxy would")
    benign_branches: int = Field(0, ge=0, description="the same for benign prompts that nothing halted, cut anywhere")
    ids: tuple[str, ...] = Field((), description="ids of the pool's triggers to use; none: all")
    pool: tuple[Trigger, ...] = Field(DEFAULT_TRIGGERS, min_length=1, description="id, kind and text of each")
    table: Path | None = Field(
        None,
        description="file of `steer triggers snapshot --out` in the place of pool: records try triggers by its shares",
    )

    @model_validator(mode="after")
    def _ids_exist(self) -> Self:
        known = [trigger.id for trigger in self.pool]
        if unknown := [id for id in self.ids if id not in known]:
            raise ValueError(f"ids: {', '.join(unknown)} not in the pool, which has {', '.join(known)}")
        if len(set(known)) < len(known):
            raise ValueError("pool: trigger ids must be unique")
        return self

    @property
    def chosen(self) -> tuple[Trigger, ...]:
        """The triggers in use."""
        return tuple(trigger for trigger in self.pool if not self.ids or trigger.id in self.ids)


class RecordsConfig(_Model):
    """Intervention records to complete instead of prompts to roll out."""

    source: Path = Field(description="JSONL of InterventionRecord, as `steer log export` writes it")
    branches: int = Field(1, ge=1, description="triggers tried for a record that holds no finished safe side")


class RolloutConfig(_Model):
    """One job. `max_tokens` bounds a whole turn, triggers included."""

    model: ModelConfig
    think: ThinkConfig = ThinkConfig()
    engine: EngineConfig = EngineConfig()
    cluster: ClusterConfig | None = None
    prompts: PromptsConfig | None = None
    records: RecordsConfig | None = None
    detector: DetectorConfig = DetectorConfig()
    policy: Policy = Policy()
    triggers: TriggersConfig = TriggersConfig()
    sampling: Sampling = Sampling()
    samples: int = Field(1, ge=1, description="unsteered generations of each prompt")
    max_tokens: int | None = Field(4096, ge=1, description="tokens of a turn; none: what the context holds")
    seed: int = 1

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if (self.prompts is None) == (self.records is None):
            raise ValueError("give either [prompts] or [records]")
        if self.policy.mode != "hold":
            raise ValueError('policy.mode: rollouts run in "hold" mode; leave it out')
        if "threshold" in self.policy.model_fields_set:
            raise ValueError("policy.threshold: set detector.threshold instead")
        return self


def load_config(path: Path) -> RolloutConfig:
    """Raises RolloutConfigError that names the file and each wrong field."""
    return read_config(path, RolloutConfig, RolloutConfigError)


def read_config(path: Path, kind: type[ConfigKind], error_kind: type[Exception]) -> ConfigKind:
    """A TOML file as a model of `kind`; whatever is wrong with it is an `error_kind`."""
    try:
        return kind.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise error_kind(f"cannot read the config {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise error_kind(f"{path} is no valid TOML: {error}") from error
    except ValidationError as error:
        lines = [f"  {'.'.join(map(str, e['loc'])) or 'config'}: {e['msg']}" for e in error.errors()]
        raise error_kind(f"{path} does not fit:\n" + "\n".join(lines)) from error
