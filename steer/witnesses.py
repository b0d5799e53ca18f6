"""What many clients say together, so that no one of them decides.

Rules kept here
- On each side a client counts for at most as much as all others together: a flood of thousands of conversations weighs
  no more than half, and alone it weighs nothing.
- Whoever judges also gets the counts without each single client (`steer.adapter.look` asks that its finding holds).
- Conversations of clients that can't be told apart count as they are: each is a witness of its own.
"""

from collections.abc import Sequence
from functools import reduce

from steer.adapter import Sides, Traffic


def counted(clients: Sequence[Sides], rest: Sides) -> tuple[Sides, frozenset[Sides]]:
    """(what counts of everybody, the same without each of the clients). `rest`: of clients that can't be told apart."""
    champion = _capped([client.champion for client in clients], rest.champion)
    candidate = _capped([client.candidate for client in clients], rest.candidate)
    whole = Sides(_sum([*champion, rest.champion]), _sum([*candidate, rest.candidate]))
    alone = {Sides(*sides) for sides in zip(champion, candidate, strict=True)}
    return whole, frozenset(
        Sides(whole.champion.less(one.champion), whole.candidate.less(one.candidate)) for one in alone
    )


def _capped(clients: Sequence[Traffic], rest: Traffic) -> list[Traffic]:
    total = sum(client.conversations for client in clients) + rest.conversations
    return [_scaled(client, total - client.conversations) for client in clients]


def _scaled(traffic: Traffic, most: int) -> Traffic:
    """At most so many conversations, with the same rates."""
    n = traffic.conversations
    if n <= most:
        return traffic
    return Traffic(most, *((2 * hits * most + n) // (2 * n) for hits in (traffic.halted, traffic.failed)))


def _sum(all_of: Sequence[Traffic]) -> Traffic:
    return reduce(Traffic.plus, all_of, Traffic())
