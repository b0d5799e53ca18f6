"""Errors of the jobs that train on pairs.

IpoError
├── IpoConfigError      a setting, a package, the output folder or the model does not fit the job (exit 2)
├── IpoDataError        a file of pairs is missing, empty or malformed
│   └── PairRefused     one pair cannot be trained on as it stands; `reason` names why
├── TrainingDiverged    the loss or a gradient became NaN or infinite
└── OutOfMemory         the device or the machine has too little memory for a step
"""

from enum import StrEnum


class IpoError(Exception):
    """The job cannot go on; the message names the file, pair or field and the fix."""


class IpoConfigError(IpoError):
    """A setting, a missing package, the output folder or the model does not fit."""


class IpoDataError(IpoError):
    """A file of pairs is missing, empty or malformed."""


class Reason(StrEnum):
    """Why a pair is refused; reports count by these names."""

    ONE_SIDED = "one_sided"
    STARTS_ALIKE = "starts_alike"
    TOO_LONG = "too_long"
    EOS_INSIDE = "eos_inside"
    OUTSIDE_VOCABULARY = "outside_vocabulary"
    CUT_INSIDE_CHARACTER = "cut_inside_character"
    OTHER_TOKENIZER = "other_tokenizer"


class PairRefused(IpoDataError):
    """One pair cannot be trained on as it stands."""

    def __init__(self, reason: Reason, pair_id: str, detail: str) -> None:
        super().__init__(f"pair {pair_id}: {detail}")
        self.reason = reason
        self.pair_id = pair_id


class TrainingDiverged(IpoError):
    """The loss or a gradient became NaN or infinite; the last checkpoint is from before."""


class OutOfMemory(IpoError):
    """A step needs more memory than there is."""
