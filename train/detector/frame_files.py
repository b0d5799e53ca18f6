"""Reads and checks train/detector/frames/*.toml: the text that train/detector/frames.py makes traces of.

The files hold kinds of sentence frames, goals (harmful ones with a benign twin each, and ordinary ones) and framings of
requests. A frame is one line: {slots} are filled, <a|b> is a choice (in goals, too), ⏎ is a line break, and `||` parts
sentences, of which all but the last are neutral. What is wrong is told with file and field, before any trace is made.
"""

import re
import tomllib
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from train.detector.phrases import Spelling

_FOLDER = Path(__file__).with_name("frames")
Label = Literal["N", "C", "S"]
Message = dict[str, str]
CHOICE = re.compile(r"<([^<>|]*(?:\|[^<>|]*)+)>")
SLOT = re.compile(r"\{(open|then|but|goal|gerund|Gerund|ask|Ask|request|topic|side|ph|ph2|ph3)\}")


class FramesError(Exception):
    """A file of frames is not what this module's head says; names the file and the field."""


def _lines(value: object) -> object:
    return tuple(line for line in value.splitlines() if line.strip()) if isinstance(value, str) else value


Lines = Annotated[tuple[str, ...], BeforeValidator(_lines), Field(min_length=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Kind(_Strict):
    """Frames of one sort.

    `place`: where in a trace they read well; `harmful`, `benign`: after which requests; `framings`: beginnings of the
    names of the framings that they speak of (none: they suit all).
    """

    name: str
    label: Label
    place: Literal["first", "any", "mid", "late"]
    harmful: bool = True
    benign: bool = True
    framings: tuple[str, ...] = ()
    frames: Lines

    @model_validator(mode="after")
    def _slots_known(self) -> "Kind":
        for frame in self.frames:
            bare = CHOICE.sub("", SLOT.sub("", frame))
            if re.search(r"\{\w+\}|<[^<>]*\||\{side\}", bare):
                raise ValueError(f"unknown slot or unfinished choice in {frame!r}; slots are {SLOT.pattern}")
        if len(set(self.frames)) != len(self.frames):
            raise ValueError(f"kind {self.name} holds a frame twice")
        return self


class Category(_Strict):
    """Goals of one sort of harm: pairs of a harmful goal and its benign twin."""

    name: str
    pairs: tuple[tuple[str, str], ...]


class Framing(_Strict):
    """A way to ask. Messages are (role, text); with {side} in them, something ordinary is asked for first."""

    name: str
    messages: tuple[tuple[Literal["system", "user", "assistant", "tool"], str], ...]
    spell: Spelling = ""


class Slots(_Strict):
    """Fillers. `placeholders` are triples in one notation each; `goal_ends` may follow any goal without a change of its
    harm; `tails` may end a sentence of that label."""

    open: tuple[str, ...]
    then: tuple[str, ...]
    but: tuple[str, ...]
    topic: tuple[str, ...]
    ask: tuple[str, ...]
    goal_ends: tuple[str, ...]
    placeholders: tuple[tuple[str, str, str], ...]
    tails: dict[Label, tuple[str, ...]]


class _File(_Strict):
    """Any of the files; each holds some of these."""

    kind: tuple[Kind, ...] = ()
    category: tuple[Category, ...] = ()
    framing: tuple[Framing, ...] = ()
    goals: Annotated[tuple[str, ...], BeforeValidator(_lines)] = ()


class Corpus(NamedTuple):
    """All that the files hold."""

    kinds: tuple[Kind, ...]
    categories: tuple[Category, ...]
    framings: tuple[Framing, ...]
    ordinary: tuple[str, ...]
    slots: Slots


def load(folder: Path = _FOLDER) -> Corpus:
    """Reads and checks all files of a folder; raises `FramesError` naming file and field."""
    files = []
    slots: Slots | None = None
    for path in sorted(folder.glob("*.toml")):
        try:
            raw: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
            if path.stem == "slots":
                slots = Slots.model_validate(raw)
            else:
                files.append(_File.model_validate(raw))
        except (ValidationError, tomllib.TOMLDecodeError) as error:
            raise FramesError(f"{path.name}: {error}") from error
    if slots is None:
        raise FramesError(f"{folder} has no slots.toml")
    kinds = tuple(kind for file in files for kind in file.kind)
    names = [kind.name for kind in kinds]
    if len(set(names)) != len(names):
        raise FramesError("two kinds have the same name")
    return Corpus(
        kinds=kinds,
        categories=tuple(item for file in files for item in file.category),
        framings=tuple(item for file in files for item in file.framing),
        ordinary=tuple(goal for file in files for goal in file.goals),
        slots=slots,
    )


@cache
def corpus() -> Corpus:
    """The project's own frames."""
    return load()
