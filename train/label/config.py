"""What `steer train label --config TOML` may say. Unknown fields are errors; imports nothing heavy."""

import tomllib
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from train.label.errors import LabelConfigError

ResponseFormat = Literal["schema", "json", "text"]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ColumnsConfig(_Model):
    """Columns of a Hugging Face data set."""

    prompt: str = Field("prompt", description="text of the request")
    messages: str | None = Field(None, description="conversation as a list of {role, content}, instead of `prompt`")
    reasoning: str = Field("reasoning", description="the reasoning, or a whole answer with think markers in it")
    id: str | None = Field(None, description="an id of its own; none: the row's number")
    model: str | None = Field(None, description="name of the model that reasoned")
    source: str | None = Field(None, description="name of the source; none: the data set's")


class InputConfig(_Model):
    """Where conversations with reasoning come from."""

    source: str = Field(
        min_length=1,
        description="path of traces (JSONL, JSONL.gz); records:PATH, an exported intervention log; hf:NAME[:SPLIT]",
    )
    name: str | None = Field(None, description="`source` of traces that name none; none: the file's or data set's name")
    limit: int | None = Field(None, ge=1, description="first so many")
    subset: str | None = Field(None, description="configuration of a Hugging Face data set")
    columns: ColumnsConfig = ColumnsConfig()
    think_start: str = Field("<think>", min_length=1, description="where a column of whole answers starts to reason")
    think_end: str = Field("</think>", min_length=1)


class TeacherConfig(_Model):
    """Any OpenAI-compatible model."""

    base_url: str = Field("http://127.0.0.1:8000/v1", description="up to and including /v1")
    model: str = Field(min_length=1)
    api_key_env: str | None = Field(None, description="environment variable that holds the key; none: no key is sent")
    temperature: float = Field(0.0, ge=0, le=2)
    sends_temperature: bool = Field(True, description="false for models that refuse a temperature")
    seed: int | None = Field(None, description="sent where given")
    max_tokens: int = Field(4096, ge=16, description="of one answer; a teacher that reasons needs more")
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    options: dict[str, Any] = Field(default_factory=dict, description="further fields of the request's body")
    response_format: Literal["auto", "schema", "json", "text"] = Field(
        "auto", description="auto: a probe finds the strictest that the engine keeps to"
    )
    attempts: int = Field(3, ge=1, le=10, description="answers asked for, where one breaks the rules")
    retries: int = Field(6, ge=0, le=50, description="after connection failures, 408, 409, 429 and 5xx")
    timeout_s: float = Field(300.0, gt=0, description="of one answer")
    max_wait_s: float = Field(300.0, ge=0, description="longest pause that a Retry-After may ask for")
    concurrency: int = Field(16, ge=1, le=1024, description="requests in flight")
    requests_per_minute: float | None = Field(None, gt=0, description="pace, where the provider states one")
    give_up_after: int = Field(20, ge=1, description="conversations failed in a row that end the job")


class WindowConfig(_Model):
    """How long traces are shown."""

    sentences: int = Field(40, ge=1, le=200, description="labelled by one answer")
    overlap: int = Field(8, ge=0, le=100, description="earlier sentences shown again, with the letters they got")
    max_sentences: int | None = Field(None, ge=1, description="only the first so many of a trace; none: all")
    max_message_chars: int = Field(12_000, ge=200, description="of one message; more is cut out of its middle")


class PricesConfig(_Model):
    """Per million tokens."""

    input: float = Field(0.0, ge=0)
    cached_input: float | None = Field(None, ge=0, description="none: as `input`")
    output: float = Field(0.0, ge=0)
    currency: str = "USD"


class AgreementConfig(_Model):
    bootstrap: int = Field(1000, ge=100, description="resamples of the conversations for the intervals")
    seed: int = 0


class LabelConfig(_Model):
    """One job."""

    inputs: tuple[InputConfig, ...] = Field(min_length=1)
    teacher: TeacherConfig
    labelled: Literal["compare", "replace", "keep"] = Field(
        "compare",
        description="traces that carry labels. compare: ask the teacher too, report agreement, write the given labels;"
        " replace: the same, but write the teacher's; keep: pass them on without asking",
    )
    references: dict[str, Path] = Field(
        default_factory=dict, description="name = labelled traces with the same ids: people's, or another teacher's"
    )
    cache: Path | None = Field(None, description="answers, to be shared between jobs; none: cache.jsonl in --out")
    window: WindowConfig = WindowConfig()
    prices: PricesConfig = PricesConfig()
    agreement: AgreementConfig = AgreementConfig()

    @model_validator(mode="after")
    def _overlap_fits(self) -> Self:
        if self.window.overlap >= self.window.sentences:
            raise ValueError("window.overlap must be smaller than window.sentences")
        return self


def load_config(path: Path) -> LabelConfig:
    """Raises LabelConfigError that names the file and each wrong field."""
    try:
        return LabelConfig.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise LabelConfigError(f"cannot read the config {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise LabelConfigError(f"{path} is no valid TOML: {error}") from error
    except ValidationError as error:
        lines = [f"  {'.'.join(map(str, e['loc'])) or 'config'}: {e['msg']}" for e in error.errors()]
        raise LabelConfigError(f"{path} does not fit:\n" + "\n".join(lines)) from error
