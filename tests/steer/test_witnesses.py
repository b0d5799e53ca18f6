"""Many clients' word: nobody's is the last."""

from hypothesis import given
from hypothesis import strategies as st

from steer.adapter import Sides, Traffic, WatchLimits, look
from steer.witnesses import counted

NOBODY = Sides(Traffic(), Traffic())
LIMITS = WatchLimits(first_look=16)


def found(clients: list[Sides], rest: Sides = NOBODY, looks: int = 0) -> tuple[str, ...] | None:
    (champion, candidate), without = counted(clients, rest)
    seen = look(champion, candidate, looks, LIMITS, without)
    return None if seen is None else seen.reasons


def test_a_client_counts_for_no_more_than_all_others_together() -> None:
    clients = [
        Sides(Traffic(10), Traffic(1000, 500, 250)),
        Sides(Traffic(30), Traffic(10)),
        Sides(Traffic(20), Traffic(6)),
    ]
    whole, without = counted(clients, NOBODY)
    assert whole == Sides(Traffic(60), Traffic(32, 8, 4))
    assert without == {
        Sides(Traffic(50), Traffic(16)), Sides(Traffic(30), Traffic(22, 8, 4)), Sides(Traffic(40), Traffic(26, 8, 4)),
    }  # fmt: skip


def test_who_is_alone_says_nothing_and_who_cannot_be_told_apart_counts_whole() -> None:
    alone = Sides(Traffic(100), Traffic(100, 90))
    assert counted([alone], NOBODY)[0] == NOBODY
    assert found([alone]) is None, "no look is due"
    assert counted([], alone) == (alone, frozenset())
    assert found([], alone)


def test_halts_of_one_client_are_no_reason_and_those_of_many_are() -> None:
    calm = [Sides(Traffic(20), Traffic(2)) for _ in range(10)]
    flood = Sides(Traffic(5000), Traffic(5000, 5000))
    assert found([*calm, flood]) == ()
    many = [Sides(Traffic(20), Traffic(2, 2)) for _ in range(10)]
    assert found([*calm, *many])


@given(
    others=st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), min_size=1, max_size=8),
    flood=st.tuples(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 100), st.integers(0, 100)),
    looks=st.integers(0, 5),
)
def test_no_flood_of_one_client_makes_a_reason_where_others_see_none(
    others: list[tuple[int, int]], flood: tuple[int, int, int, int], looks: int
) -> None:
    calm = [Sides(Traffic(n), Traffic(m)) for n, m in others]
    champion, candidate, good, bad = flood
    attack = Sides(
        Traffic(champion, champion * good // 100, champion * good // 100),
        Traffic(candidate, candidate * bad // 100, candidate * bad // 100),
    )
    assert not found([*calm, attack], looks=looks)
    whole, _ = counted([*calm, attack], NOBODY)
    assert whole.candidate.conversations <= 2 * sum(m for _, m in others), "nor does it promote by itself"
