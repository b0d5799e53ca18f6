"""What a proxy refuses to start with: doors that nobody guards, secrets that can be guessed or would be shown."""

from pathlib import Path

import pytest

from proxy.access.opening import check_exposure
from proxy.access.roles import Role
from proxy.access.store import AccessStore
from proxy.errors import ConfigError
from proxy.settings import Settings


def test_no_door_is_opened_beyond_loopback_that_nobody_guards(tmp_path: Path) -> None:
    def settings(**access: str) -> Settings:
        log = {"url": f"sqlite:///{tmp_path}/log.sqlite"}
        return Settings.model_validate(
            {"server": {"host": "0.0.0.0", "allow_remote": True}, "access": access, "log": log}
        )

    with pytest.raises(ConfigError, match="steer keys create --role client"):
        check_exposure(settings())
    with pytest.raises(ConfigError, match="steer keys create"):
        check_exposure(settings(required="always"))
    check_exposure(settings(required="never"))
    with AccessStore.open(f"sqlite:///{tmp_path}/log.sqlite") as store:
        store.create_key(role=Role.CLIENT, lifetime_us=0)
        store.revoke_key(store.create_key(role=Role.CLIENT).key.id)
        with pytest.raises(ConfigError, match="no key that works"):
            check_exposure(settings())
        store.create_key(role=Role.CLIENT)
        check_exposure(settings())
    with pytest.raises(ConfigError, match=r"server\.allow_remote"):
        check_exposure(Settings.model_validate({"server": {"host": "0.0.0.0"}}))


@pytest.mark.parametrize("token", ["sesame", "changeme", "a" * 40, "abababababababababab", "123456789012345"])
def test_a_weak_token_is_refused_and_not_repeated(token: str) -> None:
    with pytest.raises(ValueError, match=r"metrics\.token") as refused:
        Settings.model_validate({"metrics": {"token": token}})
    assert "too weak" in str(refused.value)
    assert token not in str(refused.value)


def test_an_engines_url_holds_no_password() -> None:
    with pytest.raises(ValueError, match=r"upstream\.api_key") as refused:
        Settings.model_validate({"upstream": {"url": "http://user:hunter2@engine:8000"}})
    assert "hunter2" not in str(refused.value)
