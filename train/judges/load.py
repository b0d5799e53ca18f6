"""The judge that a name stands for: `organism`, `openai:MODEL@URL`, or `module:function`."""

from pydantic import BaseModel, ConfigDict, Field

from train.judges.base import Judge
from train.judges.custom import FunctionJudge
from train.judges.errors import JudgeConfigError
from train.judges.remote import RemoteJudge, RemoteOptions


class JudgeConfig(BaseModel):
    """Who judges."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    spec: str = Field(description="organism, openai:MODEL@URL, or module:function")
    remote: RemoteOptions = RemoteOptions()


def load_judge(config: JudgeConfig) -> Judge:
    """Raises JudgeConfigError for a name that stands for no judge."""
    spec = config.spec
    if spec == "organism":
        from train.judges.organism import OrganismJudge  # noqa: PLC0415 - its topic files are needed by it alone

        return OrganismJudge()
    if spec.startswith("openai:"):
        model, _, url = spec.removeprefix("openai:").rpartition("@")
        if not model or not url.startswith(("http://", "https://")):
            raise JudgeConfigError(
                f"judge {spec!r}: give it as openai:MODEL@URL, e.g. openai:judge@http://host:8000/v1"
            )
        return RemoteJudge(model, url, config.remote)
    if ":" in spec:
        return FunctionJudge(spec)
    raise JudgeConfigError(f"judge {spec!r}: give organism, openai:MODEL@URL, or module:function")
