"""Keys and tenants in the database: what is kept, handed out, ended, passed on; on both servers."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine

from proxy.access import keytext
from proxy.access.errors import TenantExists, UnknownKey, UnknownTenant
from proxy.access.identity import Identity
from proxy.access.model import Key, Quota, Tenant
from proxy.access.roles import Role
from proxy.access.store import AccessStore
from proxy.log.connect import parse_url
from proxy.log.rows import now_us
from proxy.review.audit import read_entries

HOUR_US = 3_600_000_000
BOSS = Identity("default", Role.ADMIN, "boss")


@pytest.fixture
def store(log_url: str) -> Iterator[AccessStore]:
    with AccessStore.open(log_url) as opened:
        yield opened


def stored(store: AccessStore, key_id: str) -> Key:
    return store.everything().keys[key_id]


def test_a_key_tells_its_id_and_hides_its_secret() -> None:
    drawn = keytext.draw()
    assert re.fullmatch(r"sk-steer-[a-z2-9]{12}-[\w-]{43}", drawn.text)
    assert keytext.id_of(drawn.text) == drawn.id
    assert keytext.is_same(drawn.text, drawn.digest)
    assert not keytext.is_same(drawn.text[:-1], drawn.digest)
    assert not keytext.is_same(drawn.text, None)
    assert keytext.draw().text != drawn.text


@pytest.mark.parametrize(
    "text", ["", "sk-steer-", "sk-steer-abc", "sk-steer--secret", "sk-other-abc-secret", "sk-steer-é-x"]
)
def test_what_is_no_key_has_no_id(text: str) -> None:
    assert keytext.id_of(text) is None
    assert keytext.id_of("sk-steer-abc-" + "x" * 10_000) is None


def test_the_database_keeps_a_digest_and_nothing_that_opens(store: AccessStore, log_url: str) -> None:
    issued = store.create_key(role=Role.CLIENT, name="app")
    secret = issued.text.removeprefix(f"sk-steer-{issued.key.id}-")
    engine = create_engine(parse_url(log_url))
    with engine.connect() as connection:
        rows = connection.exec_driver_sql("select * from keys").all()
    engine.dispose()
    assert issued.key.digest in str(rows)
    assert secret not in str(rows)
    assert secret not in repr(issued.key)
    assert issued.key.digest not in repr(issued.key)
    for file in Path(log_url.removeprefix("sqlite:///")).parent.glob("log.sqlite*") if "sqlite" in log_url else ():
        assert secret.encode() not in file.read_bytes()


def test_a_key_comes_back_as_it_was_made(store: AccessStore) -> None:
    quota = Quota(60, 1000, 2)
    store.create_tenant(Tenant("acme"))
    made = store.create_key(
        role=Role.REVIEWER, tenant="acme", name="Ann", lifetime_us=HOUR_US, quota=quota, by=BOSS
    ).key
    assert stored(store, made.id) == made
    assert (made.tenant, made.role, made.name, made.created_by, made.quota) == (
        "acme", Role.REVIEWER, "Ann", "key:boss", quota
    )  # fmt: skip
    assert made.expires_us == made.created_us + HOUR_US
    assert made.state(made.created_us + HOUR_US - 1) == "active"
    assert made.state(made.created_us + HOUR_US) == "expired"


def test_a_revoked_key_stays_revoked_since_the_first_time(store: AccessStore) -> None:
    key = store.create_key(role=Role.CLIENT).key
    first = store.revoke_key(key.id)
    assert first.state(now_us()) == "revoked"
    assert store.revoke_key(key.id) == first == stored(store, key.id)
    with pytest.raises(UnknownKey, match="steer keys list"):
        store.revoke_key("nobody")


def test_a_rotated_key_passes_its_rights_on_and_ends_after_the_overlap(store: AccessStore) -> None:
    old = store.create_key(role=Role.OPERATOR, name="ops", lifetime_us=30 * HOUR_US, quota=Quota(5)).key
    new = store.rotate_key(old.id, overlap_us=HOUR_US, by=BOSS).key
    assert (new.tenant, new.role, new.name, new.quota) == (old.tenant, old.role, old.name, old.quota)
    assert (new.rotated_from, new.created_by) == (old.id, "key:boss")
    assert new.expires_us == new.created_us + 30 * HOUR_US
    assert stored(store, old.id).expires_us == new.created_us + HOUR_US
    assert new.digest != old.digest


def test_a_rotation_never_lengthens_a_life(store: AccessStore) -> None:
    old = store.create_key(role=Role.CLIENT, lifetime_us=HOUR_US).key
    store.rotate_key(old.id, overlap_us=100 * HOUR_US)
    assert stored(store, old.id).expires_us == old.expires_us
    store.revoke_key(old.id)
    with pytest.raises(UnknownKey, match="is revoked"):
        store.rotate_key(old.id, overlap_us=0)


def test_tenants_are_made_once_changed_whole_and_must_exist(store: AccessStore) -> None:
    acme = Tenant("acme", {"mode": "tap"}, may_train=False, quota=Quota(None, 5, None))
    store.create_tenant(acme)
    with pytest.raises(TenantExists, match="tenants set"):
        store.create_tenant(acme)
    with pytest.raises(UnknownTenant, match="steer tenants create other"):
        store.create_key(role=Role.CLIENT, tenant="other")
    with pytest.raises(UnknownTenant):
        store.set_tenant(Tenant("other"))
    assert store.opted_out() == {"acme"}
    store.set_tenant(Tenant("acme", {"mode": "hold"}))
    store.set_tenant(Tenant("default", {}, may_train=False))
    found = store.everything().tenants
    assert (found["acme"].policy, found["acme"].quota) == ({"mode": "hold"}, Quota())
    assert store.opted_out() == {"default"}


def test_only_changes_of_keys_and_tenants_are_news(store: AccessStore) -> None:
    version = store.everything().version
    key = store.create_key(role=Role.CLIENT).key
    content = store.content(version)
    assert content is not None
    store.mark_used({key.id: 5, "nobody": 6})
    store.mark_used({key.id: 4})
    assert store.content(content.version) is None
    assert stored(store, key.id).last_used_us == 5
    with pytest.raises(UnknownKey):
        store.revoke_key("nobody")
    assert store.content(content.version) is None


def test_the_trail_tells_who_changed_what_and_repeats_no_secret_and_no_wording(
    store: AccessStore, log_url: str
) -> None:
    issued = store.create_key(role=Role.CLIENT, lifetime_us=HOUR_US, quota=Quota(5), by=BOSS)
    successor = store.rotate_key(issued.key.id, overlap_us=0, by=BOSS)
    for _ in range(2):
        store.revoke_key(successor.key.id, by=BOSS)
    store.create_tenant(Tenant("acme", {"mode": "tap"}))
    store.set_tenant(Tenant("acme", {"refusal": "Not on my watch."}, may_train=False), by=BOSS)
    with pytest.raises(TenantExists):
        store.create_tenant(Tenant("acme"))
    engine = create_engine(parse_url(log_url))
    with engine.connect() as connection:
        entries = read_entries(connection)[::-1]
    engine.dispose()
    assert [(entry.actor, entry.action, entry.subject) for entry in entries] == [
        ("key:boss", "key.create", issued.key.id),
        ("key:boss", "key.rotate", successor.key.id),
        ("key:boss", "key.revoke", successor.key.id),
        ("local", "tenant.create", "acme"),
        ("key:boss", "tenant.set", "acme"),
    ]
    assert entries[1].after is not None
    assert entries[1].after["succeeds"] == issued.key.id
    before, after = entries[-1].before, entries[-1].after
    assert before is not None
    assert after is not None
    assert (before["policy.mode"], before["may_train"]) == ("tap", True)
    assert (after["policy.refusal"], after["may_train"]) == ("its own", False)
    for secret in (issued.text, successor.text, issued.key.digest, "watch"):
        assert secret not in str(entries)


def test_opening_the_log_again_in_a_process_keeps_the_locks_of_its_connections(tmp_path: Path) -> None:
    """Else a command that ends takes the database's WAL with it, and what a running proxy writes is lost."""
    url = f"sqlite:///{tmp_path}/log.sqlite"
    with AccessStore.open(url) as first, AccessStore.open(url):
        first.create_key(role=Role.CLIENT)
        before = (tmp_path / "log.sqlite-wal").stat().st_ino
        code = f"from proxy.access.store import AccessStore\nwith AccessStore.open({url!r}) as s: s.everything()\n"
        subprocess.run([sys.executable, "-c", code], check=True)
        assert (tmp_path / "log.sqlite-wal").stat().st_ino == before
