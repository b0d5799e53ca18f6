"""What `steer bake --config TOML` may say: the bake's own settings, and those of each job that it runs.

A job's section holds what that job's own config holds, less what the bake fills in (models, adapters, inputs, outputs).
All are checked when the file is read, so that no bake fails after hours for a misspelt field.
"""

from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from steer.adapter import check_name
from train.bake.errors import BakeConfigError
from train.evaluation.config import EvaluationConfig
from train.gate.figures import Limits
from train.ipo.config import IpoConfig
from train.pairs.config import PairsConfig
from train.rollout.config import RolloutConfig, read_config

_Section = dict[str, Any]


class BakeConfig(BaseModel):
    """One kind of bake. Its name is the adapter's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="of the adapter: versions are name@1, name@2, …")
    alias: str = Field(min_length=1, description="what clients ask for, and the proxy leads to a version")
    model: str = Field(min_length=1, description="folder or hub name of the base model, with its weights")
    base_model: str = Field(min_length=1, description="what the engine calls the base model")
    adapters: Path = Field(
        Path("adapters"), description="folder to publish in; the engine must see it at the same path"
    )
    min_pairs: int = Field(200, ge=0, description="pairs that no bake before has seen, without which none is trained")
    weight: float = Field(0.1, gt=0, le=1, description="share of conversations that a candidate begins with")
    promote_after: int = Field(
        2000, ge=0, description="conversations after which a candidate is promoted by itself; 0: a person promotes"
    )
    replay: tuple[Path, ...] = Field(
        (), description="rollouts.jsonl files that join every bake, with benign prompts for stage 2 among them"
    )
    launcher: tuple[str, ...] = Field(
        (), description='command that starts training on several devices: ["accelerate", "launch"]; none: this process'
    )
    rollout: _Section = Field(description="completing records: [engine], [detector], [policy], [triggers], sampling …")
    pairs: _Section = Field(description="as `steer train pairs`: [judge], [caps], [shape] …")
    ipo: _Section = Field(
        default_factory=dict, description="as `steer train ipo`: [lora], [loss], [stage1], [stage2] …"
    )
    evaluation: _Section = Field(description="as `steer eval`: [[sets]], [judge], [kl] …")
    gate: Limits = Limits()

    @model_validator(mode="after")
    def _jobs_fit(self) -> Self:
        check_name(self.name)
        nowhere = Path("checked-before-it-is-there")
        if self.gate.needs_kl and "kl" not in self.evaluation:
            raise ValueError("evaluation.kl: the gate needs the divergence from the base; give the section, if empty")
        for section, make in (
            ("rollout", lambda: self.rollout_config(nowhere, None, None)),
            ("pairs", lambda: self.pairs_config([nowhere], frozenset())),
            ("ipo", lambda: self.ipo_config(nowhere, nowhere)),
            ("evaluation", lambda: self.evaluation_config("candidate", "folder", nowhere)),
        ):
            try:
                make()
            except ValidationError as error:
                told = "; ".join(f"{'.'.join(map(str, e['loc'])) or section}: {e['msg']}" for e in error.errors())
                raise ValueError(f"[{section}] {told}") from error
        return self

    def rollout_config(
        self, records: Path, adapter: str | None, recorded: str | None, table: Path | None = None
    ) -> RolloutConfig:
        """Completes `records` of one version: `adapter` is what generates, `recorded` what records call it.

        Triggers are drawn by the selection `table`, unless the config names some of its own.
        """
        model = self._model(self.rollout) | {"adapter": adapter, "recorded_adapter": recorded}
        branches = self.rollout.get("records", {}).get("branches", 1)
        given = {key: value for key, value in self.rollout.items() if key not in ("model", "records", "prompts")}
        spliced = dict(given.get("triggers", {}))
        if table is not None and not spliced.keys() & {"pool", "ids", "table"}:
            given["triggers"] = spliced | {"table": table}
        return RolloutConfig.model_validate(
            given | {"model": model, "records": {"source": records, "branches": branches}}
        )

    def pairs_config(self, rollouts: list[Path], opted_out: frozenset[str]) -> PairsConfig:
        """Judges the union; tenants that opted out in the service join those of the config."""
        caps = dict(self.pairs.get("caps", {}))
        caps["opt_out"] = sorted({*caps.get("opt_out", ()), *opted_out})
        return PairsConfig.model_validate({"tokenizer": self.model} | self.pairs | {"rollouts": rollouts, "caps": caps})

    def ipo_config(self, pairs: Path, validation: Path | None) -> IpoConfig:
        """A fresh adapter from the base. `validation` None: no pair is held out."""
        held_out = [] if validation is None else [validation]
        data = dict(self.ipo.get("data", {})) | {"pairs": [pairs], "validation": held_out}
        return IpoConfig.model_validate({"name": self.name} | self.ipo | {"model": self.model, "data": data})

    def evaluation_config(self, name: str, adapter: str | None, folder: Path | None) -> EvaluationConfig:
        """Asks one version. `adapter` is what generates; `folder`: its weights, for the divergence from the base."""
        model = self._model(self.evaluation) | {"adapter": adapter}
        given = {key: value for key, value in self.evaluation.items() if key != "kl"}
        if folder is not None and "kl" in self.evaluation:
            given["kl"] = {"adapter": folder} | self.evaluation["kl"]
        return EvaluationConfig.model_validate(given | {"name": name, "model": model})

    def _model(self, section: _Section) -> dict[str, Any]:
        own = {"name": self.model, "served_name": self.base_model, "recorded_as": [self.alias]}
        return own | dict(section.get("model", {}))

    def is_served(self, section: _Section) -> bool:
        """Whether a job generates through the engine, which knows versions by their names."""
        return bool(section.get("engine", {}).get("kind") == "served")


def load_config(path: Path) -> BakeConfig:
    """Raises BakeConfigError that names the file and each wrong field."""
    return read_config(path, BakeConfig, BakeConfigError)
