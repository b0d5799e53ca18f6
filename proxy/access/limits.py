"""How much a key and its tenant may ask for, and how often an address may show wrong keys. In memory, per process.

Token buckets: a minute's allowance may be used at once, then flows back evenly. What a request costs in tokens is known
only when it has ended, so a request is let in while its bucket is not empty and pays afterwards; the bucket may go
below zero and has to refill first. (Libraries of windows refuse a cost that does not fit instead of owing it.)
Nothing here is shared between processes: N processes together admit up to N times a rate.
"""

import math
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address

from proxy.access.model import Key, Quota, Tenant
from proxy.errors import RequestError

Clock = Callable[[], float]

# Addresses remembered; the oldest are forgotten first. An attacker with more addresses than this is slowed by nothing
# that counts addresses.
_MAX_ADDRESSES = 10_000
# A home or a host gets a whole IPv6 network of this size, and may call from any address in it.
_IPV6_NETWORK_BITS = 64


class Bucket:
    """`per_minute` to spend each minute, at most that much at once. May owe."""

    def __init__(self, per_minute: float, now: float) -> None:
        self.per_minute = per_minute
        self._level = per_minute
        self._at = now

    def wait_s(self, now: float, wanted: float) -> float:
        """Seconds until `wanted` is there; 0: it is."""
        self._fill(now)
        return max(0.0, (wanted - self._level) * 60 / self.per_minute)

    def spend(self, now: float, amount: float) -> None:
        """Take, below zero where need be."""
        self._fill(now)
        self._level -= amount

    def _fill(self, now: float) -> None:
        self._level = min(self.per_minute, self._level + (now - self._at) * self.per_minute / 60)
        self._at = now


@dataclass(frozen=True, slots=True)
class _Account:
    """One who has limits: `name` in messages, `id` in the books."""

    id: tuple[str, str]
    name: str
    quota: Quota


class Limiter:
    """The books of one process. `default` are the limits of tenants that have none of their own."""

    def __init__(self, default: Quota, clock: Clock = time.monotonic) -> None:
        self._default = default
        self._clock = clock
        self._buckets: dict[tuple[str, str, str], Bucket] = {}
        self._running: Counter[tuple[str, str]] = Counter()

    @contextmanager
    def admitted(self, key: Key | None, tenant: Tenant) -> Iterator[Callable[[int], None]]:
        """A request's stay. Gives what to call with the tokens it has used. Raises RequestError 429."""
        accounts = [_Account(("tenant", tenant.name), f"tenant {tenant.name}", tenant.quota.over(self._default))]
        if key is not None:
            accounts.append(_Account(("key", key.id), "this key", key.quota))
        self._check(accounts)
        for account in accounts:
            self._running[account.id] += 1
            self._spend(account, "requests", account.quota.requests_per_minute, 1)

        def spend_tokens(number: int) -> None:
            for account in accounts:
                self._spend(account, "tokens", account.quota.tokens_per_minute, number)

        try:
            yield spend_tokens
        finally:
            for account in accounts:
                self._running[account.id] -= 1
                if not self._running[account.id]:
                    del self._running[account.id]

    def _check(self, accounts: list[_Account]) -> None:
        """All limits before any is charged: a refused request costs nothing."""
        now = self._clock()
        for account in accounts:
            quota = account.quota
            if quota.max_concurrent is not None and self._running[account.id] >= quota.max_concurrent:
                what = f"{quota.max_concurrent} requests at a time"
                raise _too_many(f"{account.name} may have {what}; wait until one has ended", 1)
            if wait_s := self._wait_s(account, "requests", quota.requests_per_minute, 1, now):
                raise _too_many(f"{account.name} may send {quota.requests_per_minute} requests a minute", wait_s)
            # A whole token, so that an empty bucket is not "open" by a rounding error's width.
            if wait_s := self._wait_s(account, "tokens", quota.tokens_per_minute, 1, now):
                raise _too_many(f"{account.name} may use {quota.tokens_per_minute} tokens a minute", wait_s)

    def _wait_s(self, account: _Account, unit: str, per_minute: int | None, wanted: float, now: float) -> float:
        return 0.0 if per_minute is None else self._bucket(account, unit, per_minute, now).wait_s(now, wanted)

    def _spend(self, account: _Account, unit: str, per_minute: int | None, amount: float) -> None:
        if per_minute is not None:
            now = self._clock()
            self._bucket(account, unit, per_minute, now).spend(now, amount)

    def _bucket(self, account: _Account, unit: str, per_minute: int, now: float) -> Bucket:
        place = (*account.id, unit)
        found = self._buckets.get(place)
        if found is None or found.per_minute != per_minute:  # new, or the limit was changed
            found = self._buckets[place] = Bucket(per_minute, now)
        return found


class Failures:
    """Wrong keys by address. Only who shows a wrong key is slowed: others behind the same address get in as ever."""

    def __init__(self, per_minute: int, clock: Clock = time.monotonic) -> None:
        self._per_minute = per_minute
        self._clock = clock
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    def count(self, address: str) -> bool:
        """A wrong key came from there. True where that used up what the address may do in a minute."""
        place, now = network_of(address), self._clock()
        bucket = self._buckets.setdefault(place, Bucket(self._per_minute, now))
        self._buckets.move_to_end(place)
        while len(self._buckets) > _MAX_ADDRESSES:
            self._buckets.popitem(last=False)
        bucket.spend(now, 1)
        return bucket.wait_s(now, 1) > 0

    def check(self, address: str) -> None:
        """Raises RequestError 429 where too many have come from there."""
        bucket = self._buckets.get(network_of(address))
        if bucket is not None and (wait_s := bucket.wait_s(self._clock(), 1)):
            raise _too_many("too many wrong keys have come from your address", wait_s)


def network_of(address: str) -> str:
    """What is counted as one address."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if not isinstance(parsed, IPv6Address):
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(IPv6Address(int(parsed) >> (128 - _IPV6_NETWORK_BITS) << (128 - _IPV6_NETWORK_BITS)))


def _too_many(message: str, wait_s: float) -> RequestError:
    seconds = max(1, math.ceil(wait_s))
    return RequestError(
        429,
        f"{message}; try again in {seconds} s",
        code="rate_limit_exceeded",
        headers={"retry-after": str(seconds)},
    )
