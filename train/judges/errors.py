"""Errors of judges.

JudgeError             judging can't go on; the message names the judge and the fix
├── JudgeConfigError   a judge that can't be loaded, or that answers in no form it may
└── JudgeDown          the judge's server doesn't answer; verdicts so far are kept where there is a cache
"""


class JudgeError(Exception):
    """Anything that `train.judges` raises on purpose."""


class JudgeConfigError(JudgeError):
    """The judge is named wrongly, or is no judge."""


class JudgeDown(JudgeError):
    """The judge can't be reached, or refuses to work. Start the job again once it does."""
