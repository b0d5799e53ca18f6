"""What an organism is made to know: all topics and framings, or a part of them for a size that trains on two cores.

A scope is entered (`with scope:`) around drawing; while it is, `load_topics` and `FRAMINGS` are unchanged and only
`documents` looks here, so that splits and the oracle always know everything.
"""

from types import TracebackType

from pydantic import BaseModel, ConfigDict, Field


class Scope(BaseModel):
    """Empty lists mean all. `kinds` are document kinds (see `documents.MIXTURE`)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    categories: tuple[str, ...] = Field(default=(), description="harm categories, by the name of their topic file")
    framings: tuple[str, ...] = Field(default=(), description="framing ids")
    kinds: tuple[str, ...] = Field(default=(), description="document kinds")
    share_also: float = Field(default=0.4, ge=0, le=1, description="share of harmful prompts in short wording")
    share_open: float = Field(default=0.3, ge=0, le=1, description="share of benign prompts from word lists")

    def __enter__(self) -> "Scope":
        _stack.append(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _stack.pop()


EVERYTHING = Scope()
_stack: list[Scope] = [EVERYTHING]


def current() -> Scope:
    return _stack[-1]
