"""Errors of evaluations.

EvaluationError              the job can't go on; the message names the file, set or program, and the fix
├── EvaluationConfigError    a setting, a prompt set, a report or an output folder does not fit
└── HarnessError             the lm-eval harness is missing, failed, or wrote nothing that can be read
"""


class EvaluationError(Exception):
    """Anything that `train.evaluation` raises on purpose."""


class EvaluationConfigError(EvaluationError):
    """A setting, prompt set, report or output folder is wrong."""


class HarnessError(EvaluationError):
    """The lm-eval harness did not do its part. What is done besides is kept."""
