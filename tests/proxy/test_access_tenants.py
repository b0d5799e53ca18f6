"""A tenant's own policy: what it may say, and that its hash says it."""

from typing import Any

import pytest

from detector.artifact import load_artifact
from proxy.access.tenants import OVERRIDES, is_name, make_rules
from proxy.errors import ConfigError
from proxy.settings import Settings

SETTINGS = Settings.model_validate({"policy": {"threshold": 0.5, "max_interventions": 3}})
TRIGGER = {"id": "own-1", "kind": "recognise_risk", "text": "Wait, is anyone put at risk by this?"}


@pytest.mark.parametrize(
    ("overrides", "field"),
    [
        ({"mode": "monitor"}, "mode"),
        ({"scope": "all"}, "scope"),
        ({"threshold": 0.9}, "threshold"),
        ({"max_interventions": 1}, "max_interventions"),
        ({"on_failure": "fail_open"}, "on_failure"),
        ({"refusal": "No."}, "refusal"),
    ],
)
def test_an_override_changes_its_field_alone_and_the_hash(overrides: dict[str, Any], field: str) -> None:
    base, own = make_rules(SETTINGS, None, {}).policy, make_rules(SETTINGS, None, overrides).policy
    assert own == base.model_copy(update=overrides)
    assert getattr(own, field) == overrides[field]
    assert own.digest() != base.digest()


def test_an_operating_point_replaces_the_settings_threshold_and_the_other_way_round() -> None:
    artifact = load_artifact(None)
    own = make_rules(SETTINGS, artifact, {"operating_point": "strict"}).policy
    assert own.threshold == artifact.point("strict").threshold
    pointed = Settings.model_validate({"policy": {"operating_point": "lenient"}})
    assert make_rules(pointed, artifact, {"threshold": 0.25}).policy.threshold == 0.25


def test_a_tenant_may_have_triggers_of_its_own() -> None:
    rules = make_rules(SETTINGS, None, {"triggers": [TRIGGER]})
    assert [trigger.id for trigger in rules.triggers.triggers] == ["own-1"]


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        ({"mode": "held"}, "policy.mode"),
        ({"threshold": 2}, "policy.threshold"),
        ({"treshold": 0.5}, "policy.treshold"),
        ({"reveal_rejected": True}, "policy.reveal_rejected"),
        ({"triggers": [TRIGGER, TRIGGER]}, "policy.triggers"),
        ({"threshold": 0.5, "operating_point": "strict"}, "not both"),
        ({"operating_point": "strict"}, "policy.threshold"),  # an external scorer has no points
    ],
)
def test_an_override_that_cannot_be_used_is_refused_by_its_name(overrides: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        make_rules(SETTINGS, None, overrides)


def test_what_cut_text_shows_is_not_a_tenants_to_decide() -> None:
    assert "reveal_rejected" not in OVERRIDES


@pytest.mark.parametrize(
    ("name", "fits"),
    [("acme", True), ("a-b.c_9", True), ("", False), ("Acme", False), ("../x", False), ("a" * 65, False)],
)
def test_names_fit_into_reports_and_file_names(name: str, fits: bool) -> None:
    assert is_name(name) is fits
