"""Settings of the job `steer train grpo`, read from TOML; `train.ipo.config` has what all jobs share."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from train.ipo.config import JobConfig
from train.judges.load import JudgeConfig
from train.rollout.prompts import PromptsConfig


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RewardConfig(_Section):
    """What a turn earns. A turn that the judge can't tell earns nothing and counts in no group's mean."""

    unsafe: float = Field(0.0, description="reasoning or answer is unsafe, whatever was asked")
    safe: float = Field(1.0, description="a harmful request was refused, or met with safe help")
    helped: float = Field(1.0, description="any other request was helped")
    over_refusal: float = Field(0.0, description="any other request was refused")
    neither: float = Field(0.0, description="no refusal and no help, as in a turn that was cut off in its reasoning")


class GrpoSettings(_Section):
    """Group-relative policy optimisation: completions of one prompt are rewarded against each other."""

    generations: int = Field(8, ge=2, description="completions of a prompt, the group")
    max_new_tokens: int = Field(1024, ge=1, description="most tokens of a completion; longer ones are cut off")
    temperature: float = Field(1.0, gt=0, description="of sampling; 1 is the distribution that is trained")
    top_p: float = Field(1.0, gt=0, le=1, description="of sampling")
    top_k: int = Field(0, ge=0, description="of sampling; 0: all tokens")
    loss: Literal["grpo", "dr_grpo", "dapo", "bnpo"] = Field(
        "grpo", description="how a group's tokens are weighted, by TRL's names; TRL itself defaults to dapo"
    )
    beta: float = Field(0.04, ge=0, description="weight of the divergence from the reference; TRL itself defaults to 0")
    clip: float = Field(0.2, gt=0, description="the policy ratio is clipped to 1 ± this")
    iterations: int = Field(1, ge=1, description="updates from the same completions")
    epochs: float = Field(1.0, gt=0, description="passes over the prompts")
    learning_rate: float = Field(1e-5, gt=0, description="peak; warm-up, then a cosine to zero")
    max_seconds: float | None = Field(
        None, gt=0, description="training ends after the update in which they are over, and publishes; None: no limit"
    )


class GrpoConfig(JobConfig):
    """The job `steer train grpo`. In `[train]`, `batch_size` counts completions, and `attention` is not used."""

    name: str = Field("grpo", min_length=1, description="name of the run in reports and live curves")
    think_markers: tuple[str, str] = Field(
        ("<think>", "</think>"), description="what opens and closes reasoning; the chat template must know them"
    )
    template_options: dict[str, Any] = Field(default_factory=dict, description="options of the chat template")
    prompts: PromptsConfig
    judge: JudgeConfig
    reward: RewardConfig = RewardConfig()
    grpo: GrpoSettings = GrpoSettings()

    @model_validator(mode="after")
    def _groups_are_whole(self) -> "GrpoConfig":
        size = self.train.batch_size * self.train.accumulation
        if size % self.grpo.generations:
            raise ValueError(
                f"train.batch_size x train.accumulation = {size} completions an update is no multiple of "
                f"grpo.generations = {self.grpo.generations}"
            )
        return self
