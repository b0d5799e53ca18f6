"""A version in shadow beside its champion, on the same requests: rates, and how far they are apart."""

from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, func, select

from proxy.adapters.tables import adapter_shadows
from proxy.log.rows import moment
from proxy.shadow.tables import shadow_records
from steer.paired import Difference, Pairs


@dataclass(frozen=True, slots=True)
class Comparison:
    """One episode. `pairs`: halted by (the version, the champion), where both have answered to their end.

    `clients`: told apart among the pairs; `of_largest`: pairs of the one with the most, None where none is told apart.
    """

    adapter: str
    champion: str | None
    share: float
    began_at: datetime
    ending: str | None
    copies: int
    dropped: int
    failed: tuple[int, int]
    answered: int
    tokens: tuple[float, float]
    pairs: Pairs
    clients: int
    of_largest: Pairs | None

    @property
    def difference(self) -> Difference | None:
        """Of the rates of halted requests: the version's less the champion's."""
        return self.pairs.difference()

    @property
    def without_largest(self) -> Difference | None:
        """The same without the client with the most requests."""
        return None if self.of_largest is None else self.pairs.less(self.of_largest).difference()

    def shown(self) -> dict[str, Any]:
        """As JSON."""
        n = self.pairs.n
        return {
            "adapter": self.adapter, "champion": self.champion, "share": self.share,
            "began_at": self.began_at.isoformat(), "ending": self.ending, "copies": self.copies,
            "dropped": self.dropped, "answered_by_both": self.answered, "pairs": n,
            "halted": {"both": self.pairs.both, "shadow_only": self.pairs.first_only,
                       "champion_only": self.pairs.second_only, "neither": self.pairs.neither},
            "halted_rate": None if not n else {
                "shadow": (self.pairs.both + self.pairs.first_only) / n,
                "champion": (self.pairs.both + self.pairs.second_only) / n,
            },
            "difference": _interval(self.difference), "clients": self.clients,
            "pairs_of_largest_client": None if self.of_largest is None else self.of_largest.n,
            "difference_without_largest_client": _interval(self.without_largest),
            "failed": {"shadow": self.failed[0], "champion": self.failed[1]},
            "tokens_per_request": {"shadow": self.tokens[0], "champion": self.tokens[1]},
        }  # fmt: skip


def _interval(difference: Difference | None) -> dict[str, float] | None:
    return None if difference is None else difference._asdict()


def read_comparison(connection: Connection, adapter: str) -> Comparison | None:
    """Of the version's latest time in shadow; None where it never was."""
    table = adapter_shadows
    query = select(table).where(table.c.adapter == adapter).order_by(table.c.id.desc()).limit(1)
    episode = connection.execute(query).first()
    if episode is None:
        return None
    r = shadow_records.c
    keys = (r.client, r.outcome, r.champion_outcome)
    sums = (func.count().label("n"), func.sum(r.tokens).label("own"), func.sum(r.champion_tokens).label("other"))
    rows = connection.execute(select(*keys, *sums).where(r.shadow_id == episode.id).group_by(*keys)).all()
    both = [row for row in rows if row.champion_outcome is not None]
    answered = sum(row.n for row in both)
    by_client = _by_client(both)
    told_apart = [pairs for client, pairs in by_client.items() if client]
    return Comparison(
        adapter=adapter,
        champion=episode.champion,
        share=episode.share,
        began_at=moment(episode.began_us),
        ending=episode.ending,
        copies=sum(row.n for row in rows),
        dropped=episode.dropped,
        failed=(
            sum(row.n for row in both if row.outcome == "failed"),
            sum(row.n for row in both if row.champion_outcome == "failed"),
        ),
        answered=answered,
        tokens=(_mean(sum(row.own for row in both), answered), _mean(sum(row.other for row in both), answered)),
        pairs=_sum(by_client.values()),
        clients=len(told_apart),
        of_largest=max(told_apart, key=lambda pairs: pairs.n, default=None),
    )


def _by_client(rows: list[Any]) -> dict[str, Pairs]:
    counts: dict[str, Counter[tuple[str, str]]] = {}
    for row in rows:
        counts.setdefault(row.client, Counter())[row.outcome, row.champion_outcome] += int(row.n)
    h, c = "halted", "clear"
    return {client: Pairs(n[h, h], n[h, c], n[c, h], n[c, c]) for client, n in counts.items()}


def _sum(pairs: Any) -> Pairs:
    total = [0, 0, 0, 0]
    for one in pairs:
        total = [a + b for a, b in zip(total, (one.both, one.first_only, one.second_only, one.neither), strict=True)]
    return Pairs(*total)


def _mean(total: Any, n: int) -> float:
    return round(float(total) / n, 1) if n else 0.0
