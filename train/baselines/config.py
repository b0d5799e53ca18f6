"""Settings of the baselines on pairs, read from TOML; what they share with IPO is in `train.ipo.config`."""

from typing import Literal

from pydantic import Field

from train.ipo.config import IpoConfig, PairJobConfig


class SftConfig(PairJobConfig):
    """The job `steer train sft`."""

    name: str = Field("sft", min_length=1, description="name of the run in reports and live curves")
    span: Literal["divergence", "response"] = Field(
        "response",
        description="what is trained: the chosen side from the divergence on, or the whole response with what was kept",
    )


class DpoConfig(IpoConfig):
    """The job `steer train dpo`."""

    name: str = Field("dpo", min_length=1, description="name of the run in reports and live curves")
    pairing: Literal["same", "across"] = Field(
        "across",
        description="a chosen response's rejected one: of its own divergence, or that of the same prompt with which it"
        " shares least (its own where there is no other)",
    )
