"""What the settings mean for a request: the policy of its stream, and what the guard lets through."""

from detector.artifact import Artifact
from detector.errors import ArtifactError
from proxy.errors import ConfigError
from proxy.guard import Limits
from proxy.settings import Settings
from steer.policy import Policy


def make_policy(settings: Settings, artifact: Artifact | None) -> Policy:
    """The policy; its threshold is the artifact's own, or that of an operating point, unless set. Raises ConfigError.

    `artifact` None: an external scorer, which has no threshold.
    """
    values = settings.policy.model_dump(include=set(Policy.model_fields))
    if values["threshold"] is None:
        if artifact is None:
            raise ConfigError("policy.threshold: set it, since an external scorer has no threshold of its own")
        values["threshold"] = _threshold(artifact, settings.policy.operating_point)
    return Policy.model_validate(values)


def _threshold(artifact: Artifact, operating_point: str | None) -> float:
    if operating_point is None:
        return artifact.threshold
    try:
        return artifact.point(operating_point).threshold
    except ArtifactError as error:
        raise ConfigError(f"policy.operating_point: {error}") from error


def make_limits(settings: Settings) -> Limits:
    """What the guard lets through."""
    limits = settings.limits
    return Limits(max_n=limits.max_n, max_tokens=limits.max_tokens, extra_fields=frozenset(limits.extra_fields))
