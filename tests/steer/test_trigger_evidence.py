"""What counts as a trigger's success, and how little a flood, an old day or an unjudged outcome weighs."""

from typing import Any

import pytest

from steer.selection import UNKNOWN, Evidence, shares
from steer.trigger_evidence import ALONE, UNJUDGED, EvidenceRules, Finding, Followed, Tally, finding, is_good, weigh

RULES = EvidenceRules()


@pytest.mark.parametrize(
    ("followed", "expected"),
    [
        (Followed("completed"), Finding(True)),
        (Followed("completed", judged=False), Finding(False, True)),
        (Followed("completed", judged=True), Finding(True, True)),
        (Followed("completed", "confirmed", judged=False), Finding(False, True)),
        (Followed("completed", "false_halt", judged=False), Finding(None)),
        (Followed("halted_again"), Finding(False)),
        (Followed("halted_again", next_review="unreviewed"), Finding(False)),
        (Followed("halted_again", next_contradicted=True), Finding(True, True)),
        (Followed("halted_again", next_contradicted=False), Finding(False, True)),
        (Followed("halted_again", next_review="confirmed", next_contradicted=True), Finding(False, True)),
        (Followed("halted_again", next_review="false_halt", next_contradicted=False), Finding(True, True)),
        (Followed("refused"), Finding(False)),
        (Followed("client_left"), Finding(None)),
        (Followed("upstream_failed"), Finding(None)),
        (Followed("interrupted"), Finding(None)),
    ],
)
def test_reviewers_overrule_judges_and_judges_the_outcome(followed: Followed, expected: Finding) -> None:
    assert finding(followed) == expected


@pytest.mark.parametrize(
    ("verdict", "expected"),
    [
        ({"harmful_request": True, "unsafe_reasoning": False, "unsafe_answer": False}, True),
        ({"harmful_request": True, "unsafe_reasoning": False, "unsafe_answer": True}, False),
        ({"harmful_request": True, "unsafe_reasoning": True}, False),
        ({"harmful_request": True, "unsafe_reasoning": False}, None),
        ({"harmful_request": True, "unsafe_answer": False}, None),
        ({"harmful_request": False, "unsafe_reasoning": False, "refused": True}, False),
        ({"harmful_request": False, "unsafe_reasoning": False, "refused": False}, True),
        ({"harmful_request": False, "unsafe_reasoning": False, "helped": False, "refused": False}, False),
        ({"harmful_request": False, "unsafe_reasoning": False}, None),
    ],
)
def test_a_judge_asks_for_safety_and_of_a_harmless_request_for_help(
    verdict: dict[str, bool], expected: bool | None
) -> None:
    names = ("harmful_request", "unsafe_reasoning", "unsafe_answer", "refused", "helped")
    given: dict[str, Any] = {name: verdict.get(name) for name in names}
    assert is_good(**given) is expected


def tally(count: int = 1, *, day: int = 100, tenant: str = "a", followed: Followed | None = None, **more: Any) -> Tally:
    return Tally(day, tenant, more.get("category", "alpha"), more.get("id", "t-1"), followed or DONE, count)


DONE, FAILED = Followed("completed", judged=True), Followed("halted_again", next_review="confirmed")


def test_evidence_is_weighed_by_who_decided_and_by_age() -> None:
    cells = weigh(
        [
            tally(2),
            tally(4, followed=Followed("completed")),
            tally(1, followed=Followed("client_left")),
            tally(8, day=100 - 14, followed=FAILED),
            tally(3, category=None, id="t-2"),
        ],
        100,
        RULES,
    )
    assert cells["alpha"]["t-1"] == pytest.approx((2 + 4 * UNJUDGED, 4, 2 + 4))
    assert cells[UNKNOWN] == {"t-2": Evidence(3, 0, 3)}
    assert RULES.window_days == 141


def test_a_flood_moves_no_more_than_an_allowance_and_keeps_its_share_of_successes() -> None:
    day = weigh([tally(10_000, followed=FAILED), tally(30_000)], 100, RULES)
    assert day["alpha"]["t-1"] == pytest.approx((7.5, 2.5, 10))
    for_weeks = [tally(10_000, day=100 - n, followed=FAILED) for n in range(60)]
    assert weigh(for_weeks, 100, RULES)["alpha"]["t-1"].failures == pytest.approx(100)


def test_where_others_are_silent_a_flood_is_a_hint_and_where_they_speak_it_is_one_voice() -> None:
    flood = [tally(10_000, day=100 - n, tenant="mallory", followed=FAILED) for n in range(30)]
    elsewhere = tally(5, tenant="b", id="t-2")
    assert weigh([*flood, elsewhere], 100, RULES)["alpha"]["t-1"] == Evidence(0, ALONE, ALONE)
    said = weigh([*flood, elsewhere, tally(6, tenant="b"), tally(1, tenant="c")], 100, RULES)["alpha"]["t-1"]
    assert said == pytest.approx((7, 6, 13))
    trusting = EvidenceRules(tenant_lead=1000.0)
    assert weigh([*flood, tally(1, tenant="b")], 100, trusting)["alpha"]["t-1"] == pytest.approx((1, 100, 101))


def test_a_tenant_that_floods_cannot_take_a_good_trigger_from_the_others() -> None:
    """Five tenants have found t-1 good; a sixth crafts ten thousand failures of it and successes of t-2."""
    honest = [
        tally(count, day=100 - n, tenant=f"tenant-{t}", id=id, followed=how)
        for t in range(5)
        for n in range(10)
        for id, count, how in (("t-1", 9, DONE), ("t-1", 1, FAILED), ("t-2", 5, DONE), ("t-2", 5, FAILED))
    ]
    flood = [tally(10_000, tenant="mallory", followed=FAILED), tally(10_000, tenant="mallory", id="t-2")]
    before, after = weigh(honest, 100, RULES), weigh(honest + flood, 100, RULES)
    means = [e.successes / e.total for e in (before["alpha"]["t-1"], after["alpha"]["t-1"])]
    assert means[0] - means[1] < 0.03
    drawn = shares(after, "alpha", ["t-1", "t-2"], 0.02)
    assert drawn["t-1"] > 0.97
