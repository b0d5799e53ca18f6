"""Errors of the labelling job.

LabelError              the job cannot go on; what is answered so far is kept, and the job can be started again
├── LabelConfigError    a setting, an input, the output folder or the teacher's name or key does not fit (exit 2)
└── TeacherError        the teacher is not reachable, or answers nothing that can be used
BadAnswer               one answer is not what was asked for; its message is told to the teacher
"""


class LabelError(Exception):
    """Anything that ends the job on purpose; the message names the file, field or server, and the fix."""


class LabelConfigError(LabelError):
    """A setting, an input file, the output folder, or what the settings say of the teacher is wrong."""


class TeacherError(LabelError):
    """The teacher failed for good. The job can be started again and goes on where it stopped."""


class BadAnswer(Exception):
    """An answer that breaks a rule. Worded for the teacher, who is asked once more."""
