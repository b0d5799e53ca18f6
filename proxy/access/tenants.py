"""What a tenant may say for itself: overrides of the settings' policy section, checked by the section's own model."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from detector.artifact import Artifact
from proxy.errors import ConfigError
from proxy.rules import make_policy
from proxy.settings import PolicySettings, Settings
from steer.errors import TriggerPoolError
from steer.policy import Policy
from steer.triggers import TriggerPool

# What is cut is never shown on a tenant's own word.
OVERRIDES = frozenset(PolicySettings.model_fields) - {"reveal_rejected"}

# Names stand in records, reports and file names.
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class Rules:
    """What is done about cues in a tenant's streams. `has_own_triggers`: the tenant has said which."""

    policy: Policy
    triggers: TriggerPool
    has_own_triggers: bool = False


def is_name(name: str) -> bool:
    """Whether a tenant may be called so."""
    return _NAME.fullmatch(name) is not None


def make_rules(settings: Settings, artifact: Artifact | None, overrides: Mapping[str, Any]) -> Rules:
    """The rules of a tenant with these overrides. Raises ConfigError naming the setting."""
    section = overridden(settings.policy, overrides)
    policy = make_policy(settings.model_copy(update={"policy": section}), artifact)
    try:
        pool = TriggerPool(section.triggers) if section.triggers else TriggerPool()
        return Rules(policy, pool, has_own_triggers="triggers" in overrides)
    except TriggerPoolError as error:
        raise ConfigError(f"policy.triggers: {error}") from error


def overridden(base: PolicySettings, overrides: Mapping[str, Any]) -> PolicySettings:
    """The section with a tenant's own values in it. Raises ConfigError naming the setting."""
    if strange := sorted(set(overrides) - OVERRIDES):
        raise ConfigError(f"policy.{strange[0]}: a tenant can set {', '.join(sorted(OVERRIDES))}")
    values = base.model_dump()
    if {"threshold", "operating_point"} & set(overrides):  # two ways to say one thing: the tenant's replaces either
        values |= {"threshold": None, "operating_point": None}
    try:
        return PolicySettings.model_validate(values | dict(overrides))
    except ValidationError as error:
        found = error.errors()[0]
        raise ConfigError(f"policy.{'.'.join(str(part) for part in found['loc'])}: {found['msg']}") from error
