"""The vocabulary of the engine: events are things that happened, actions are orders to the driver.

All positions are character offsets into the text of the *current leg*: everything the upstream has sent since the
request, or since the last resume, reasoning and answer concatenated in order of arrival. A new leg starts at 0.
Segment ids count up over the whole attempt and are never reused, so a late verdict can't be mistaken for another.
"""

from dataclasses import dataclass
from typing import Literal

Channel = Literal["reasoning", "answer"]

# Why a stream was refused: the first three are the policy's doing, the last the upstream's.
RefusalCause = Literal["max_interventions", "detector_failure", "log_failure", "cannot_resume"]


@dataclass(frozen=True, slots=True)
class TextDelta:
    """The upstream sent text. Empty text is allowed: it says that the channel has changed."""

    channel: Channel
    text: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """The detector judged a segment. `score` is the probability of a compliance cue; None: it could not be judged."""

    segment_id: int
    score: float | None


@dataclass(frozen=True, slots=True)
class Halted:
    """The upstream is closed; `kept` characters of this leg survive (at most the position that `Halt` named).

    `kept` may be smaller where the cut falls inside a token: ids are only ever cut between tokens.
    """

    kept: int


@dataclass(frozen=True, slots=True)
class CannotResume:
    """The upstream would not take the prefix after a `Resume`. Valid before the first text of the new leg."""


@dataclass(frozen=True, slots=True)
class StreamEnd:
    """The upstream ended this leg; `reason` is its finish reason, or "error" when it broke off."""

    reason: str


Event = TextDelta | Verdict | Halted | CannotResume | StreamEnd


@dataclass(frozen=True, slots=True)
class Release:
    """Text of this leg before `up_to` may be shown."""

    up_to: int


@dataclass(frozen=True, slots=True)
class Classify:
    """Judge this segment and answer with a `Verdict`. `before` is the text before it (`steer.shown`)."""

    segment_id: int
    channel: Channel
    start: int
    end: int
    text: str
    before: str


@dataclass(frozen=True, slots=True)
class Observe:
    """Monitor mode: this segment is a cue; nothing is done about it. At most one per attempt."""

    segment_id: int
    channel: Channel
    start: int
    text: str
    score: float


@dataclass(frozen=True, slots=True)
class Halt:
    """Close the upstream, drop everything at and after `at`, then answer with `Halted`."""

    segment_id: int
    channel: Channel
    at: int
    text: str
    score: float


@dataclass(frozen=True, slots=True)
class Splice:
    """Append `text` (separator and trigger) to what was kept, in `channel`, and show it. `probability`: of the draw."""

    trigger_id: str
    channel: Channel
    text: str
    probability: float | None = None


@dataclass(frozen=True, slots=True)
class Resume:
    """Generate on from the first `keep` characters of the halted leg plus what was spliced. A new leg begins."""

    keep: int
    channel: Channel


@dataclass(frozen=True, slots=True)
class Refuse:
    """Show nothing beyond `at`; close the reasoning, give the policy's refusal as the answer."""

    at: int
    cause: RefusalCause


@dataclass(frozen=True, slots=True)
class Finish:
    """The stream is over: send the terminal frame with this finish reason. Nothing follows but late `Observe`s."""

    reason: str


Action = Release | Classify | Observe | Halt | Splice | Resume | Refuse | Finish
