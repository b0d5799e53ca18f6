"""Errors of the rollout job.

RolloutError             the job cannot go on; the message names the file, field or server, and the fix
├── RolloutConfigError   a setting, a prompt file or an output folder does not fit
├── TemplateError        the model's chat template has no think markers: there is no reasoning to steer
└── EngineError          the generating engine failed or is not reachable; what is done so far is kept
"""


class RolloutError(Exception):
    """Anything that `train.rollout` raises on purpose."""


class RolloutConfigError(RolloutError):
    """A setting, prompt file or output folder is wrong."""


class TemplateError(RolloutError):
    """The chat template renders no reasoning."""


class EngineError(RolloutError):
    """Generation failed. The job can be started again and goes on where it stopped."""
