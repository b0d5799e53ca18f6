"""Settings come from one place each, in a stated order, and what is not a setting is an error."""

from pathlib import Path

import pytest

from proxy.errors import ConfigError
from proxy.settings import Settings, dump_settings, load_settings, restore_settings


def write(folder: Path, text: str) -> Path:
    path = folder / "steer.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_command_line_wins_over_the_environment_and_that_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, '[policy]\nmode = "tap"\nscope = "all"\nmax_interventions = 2\n[server]\nport = 9001\n')
    monkeypatch.setenv("STEER_POLICY__MODE", "monitor")
    monkeypatch.setenv("STEER_POLICY__MAX_INTERVENTIONS", "3")
    settings = load_settings(path, {"policy": {"max_interventions": 4}})
    assert (settings.policy.mode, settings.policy.scope, settings.policy.max_interventions) == ("monitor", "all", 4)
    assert (settings.server.port, settings.server.host) == (9001, "127.0.0.1")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[policy]\ntreshold = 0.5\n", "policy.treshold"),
        ("[polcy]\nthreshold = 0.5\n", "polcy"),
        ('[policy]\nmode = "held"\n', "policy.mode"),
        ("[policy]\nthreshold = 1.5\n", "policy.threshold"),
        ('[upstream]\nurl = "127.0.0.1:8000"\n', "upstream"),
        ('[upstream]\nurl = "http://127.0.0.1:8000/v1"\n', "without /v1"),
        ("[server]\nport = 70000\n", "server.port"),
        ("[server]\nport = \n", "not valid TOML"),
        ('log_level = "loud"\n', "log_level"),
    ],
)
def test_a_wrong_file_is_refused_with_the_name_of_the_setting(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load_settings(write(tmp_path, text))
    assert named in str(refused.value)
    assert "steer.toml" in str(refused.value)


def test_a_missing_file_is_refused_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml"):
        load_settings(tmp_path / "none.toml")


@pytest.mark.parametrize("name", ["STEER_POLCY__MODE", "STEER_POLICY__MOD"])
def test_a_misspelt_variable_is_refused_by_its_name(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "monitor")
    with pytest.raises(ConfigError) as refused:
        load_settings(None)
    assert name in str(refused.value) or "policy.mod" in str(refused.value)


def test_workers_get_the_resolved_settings_keys_included_whatever_their_environment_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("STEER_UPSTREAM__API_KEY", "sk-secret")
    monkeypatch.setenv("STEER_POLICY__MODE", "tap")
    settings = load_settings(None, {"policy": {"mode": "monitor"}, "server": {"workers": 2}})
    dumped = dump_settings(settings)
    monkeypatch.setenv("STEER_UPSTREAM__API_KEY", "another")
    restored = restore_settings(dumped)
    assert restored == settings
    assert restored.policy.mode == "monitor"
    assert restored.upstream.api_key is not None
    assert restored.upstream.api_key.get_secret_value() == "sk-secret"


def test_a_key_is_not_printed_with_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEER_UPSTREAM__API_KEY", "sk-secret")
    settings = load_settings(None)
    assert "sk-secret" not in settings.model_dump_json() + repr(settings)


def test_shown_settings_hold_no_secret() -> None:
    settings = Settings.model_validate(
        {
            "log": {"url": "postgresql+psycopg://steer:hunter2@db/steer"},
            "upstream": {"url": "http://engine:8000", "api_key": "sk-secret"},
        }
    )
    shown = settings.shown()
    assert "postgresql+psycopg://steer:***@db/steer" in shown
    assert "hunter2" not in shown
    assert "sk-secret" not in shown
