"""Rates, concurrency and wrong keys, by a clock that is moved by hand."""

from contextlib import ExitStack

import pytest

from proxy.access.limits import Bucket, Failures, Limiter, network_of
from proxy.access.model import Key, Quota, Tenant
from proxy.access.roles import Role
from proxy.errors import RequestError


class Clock:
    """Seconds that pass when told."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def key(quota: Quota = Quota(), id: str = "k") -> Key:  # noqa: B008 - frozen
    return Key(id, "acme", Role.CLIENT, "", "", 0, "local", quota=quota)


def refused(limiter: Limiter, who: Key | None, tenant: Tenant) -> RequestError:
    with pytest.raises(RequestError) as caught, limiter.admitted(who, tenant):
        pass
    assert caught.value.status == 429
    return caught.value


def test_a_bucket_gives_a_minutes_worth_at_once_then_flows_back_evenly() -> None:
    bucket = Bucket(60, now=0)
    bucket.spend(0, 60)
    assert bucket.wait_s(0, 1) == pytest.approx(1)
    assert bucket.wait_s(0.5, 1) == pytest.approx(0.5)
    assert bucket.wait_s(1, 1) == 0
    assert bucket.wait_s(3600, 61) == pytest.approx(1)  # never more than a minute's worth


def test_requests_beyond_the_rate_are_told_when_to_come_back(clock: Clock) -> None:
    limiter, tenant = Limiter(Quota(), clock), Tenant("acme", quota=Quota(requests_per_minute=2))
    for _ in range(2):
        with limiter.admitted(None, tenant):
            pass
    error = refused(limiter, None, tenant)
    assert error.headers == {"retry-after": "30"}
    assert "tenant acme may send 2 requests a minute" in error.message
    clock.now += 30
    with limiter.admitted(None, tenant):
        pass


def test_tokens_are_owed_and_paid_back_before_the_next_request(clock: Clock) -> None:
    limiter, tenant = Limiter(Quota(), clock), Tenant("acme", quota=Quota(tokens_per_minute=60))
    with limiter.admitted(None, tenant) as spend:
        spend(60 + 119)
    assert refused(limiter, None, tenant).headers == {"retry-after": "120"}
    clock.now += 120
    with limiter.admitted(None, tenant):
        pass


def test_no_more_at_a_time_than_allowed_and_a_failed_one_makes_room(clock: Clock) -> None:
    limiter, tenant = Limiter(Quota(max_concurrent=2), clock), Tenant("acme")
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(limiter.admitted(None, tenant))
        assert "2 requests at a time" in refused(limiter, None, tenant).message
        with limiter.admitted(None, Tenant("other")):
            pass
    with pytest.raises(ZeroDivisionError), limiter.admitted(None, tenant):
        raise ZeroDivisionError
    with limiter.admitted(None, tenant):
        pass


def test_key_and_tenant_both_bind_and_a_refused_request_costs_nobody_anything(clock: Clock) -> None:
    limiter, tenant = Limiter(Quota(), clock), Tenant("acme", quota=Quota(requests_per_minute=3))
    small, large = key(Quota(requests_per_minute=1), "small"), key(id="large")
    with limiter.admitted(small, tenant):
        pass
    for _ in range(5):
        assert "this key" in refused(limiter, small, tenant).message
    for _ in range(2):
        with limiter.admitted(large, tenant):
            pass
    assert "tenant acme" in refused(limiter, large, tenant).message


def test_a_tenants_own_limit_replaces_the_default_and_a_changed_one_holds_at_once(clock: Clock) -> None:
    limiter = Limiter(Quota(requests_per_minute=1), clock)
    for quota, fits in ((Quota(requests_per_minute=2), 2), (Quota(requests_per_minute=4), 4), (Quota(), 1)):
        for _ in range(fits):
            with limiter.admitted(None, Tenant("acme", quota=quota)):
                pass
        refused(limiter, None, Tenant("acme", quota=quota))


def test_wrong_keys_are_counted_by_address_and_forgiven_with_time(clock: Clock) -> None:
    failures = Failures(3, clock)
    assert [failures.count("10.0.0.1") for _ in range(3)] == [False, False, True]
    with pytest.raises(RequestError) as caught:
        failures.check("10.0.0.1")
    assert (caught.value.status, caught.value.headers) == (429, {"retry-after": "20"})
    failures.check("10.0.0.2")
    clock.now += 20
    failures.check("10.0.0.1")


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::"),
        ("fe80::1%eth0", "fe80::"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("unknown", "unknown"),
    ],
)
def test_an_ipv6_caller_is_counted_by_network(address: str, network: str) -> None:
    assert network_of(address) == network
