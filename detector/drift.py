"""Have live scores drifted from the artifact's reference? Population stability, Kolmogorov-Smirnov, and a statement.

Three histograms are compared: the scores of all segments, the highest score of each trace, and each request's harm.

The statement. A population stability index alone alarms on every small sample (without any drift it is about
(groups - 1) x (1/n + 1/m)), and a significance test alone on every large one. So traffic is called `shifted` where
both speak: a two-sample chi-square permutation test at level ALPHA / 3 for each of the three histograms (Bonferroni),
with samples cut down by their design effect (see `detector.histogram`), and an index of at least MIN_PSI. Hence the
rate of false alarms is at most ALPHA for each statement, whatever the sample's size. Looking at a growing sample again
and again would raise it: a monitor with windows makes one statement for each closed window. Below MIN_TRACES on either
side it is `too few`.

What is comparable. A halted trace ends early, so every trace, of the reference as of live traffic, counts only up to
its first score at or above `Reference.stop`, the artifact's lowest operating point; what comes after is left out.
"""

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from detector.histogram import BINNING, Accumulator, Histogram, bin_of, reference_histogram

Statement = Literal["stable", "shifted", "too few"]
HISTOGRAMS = ("segments", "trace_max", "request_harm")
ALPHA = 0.01
MIN_TRACES = 50
MIN_PSI = 0.1  # the credit-scoring rule of thumb: below 0.1 no change worth acting on, above 0.25 a large one
_DRAWS = 999  # the smallest p is then 1/1000, below ALPHA / 3


@dataclass(frozen=True, slots=True)
class Reference:
    """Scores of a known population, by the names of HISTOGRAMS. `stop`: score from which on a trace counts no more."""

    stop: float
    histograms: Mapping[str, Histogram]

    def to_json(self) -> dict[str, object]:
        """What `from_json` reads."""
        return {
            "binning": BINNING,
            "stop": self.stop,
            "histograms": {name: self.histograms[name].to_json() for name in HISTOGRAMS},
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "Reference":
        """Raises KeyError, TypeError or ValueError for anything but the output of `to_json`."""
        if fields["binning"] != BINNING:
            raise ValueError(f"binning is {fields['binning']!r}, this version compares {BINNING!r}")
        stop = float(fields["stop"])
        return cls(stop, {name: Histogram.from_json(fields["histograms"][name]) for name in HISTOGRAMS})


@dataclass(frozen=True, slots=True)
class Comparison:
    """One histogram against the reference's.

    `psi` over groups, `psi_by_chance` what it would be about without drift, `ks` the largest distance of the cumulative
    shares, `size` live scores, `p_value` of the permutation test.
    """

    name: str
    statement: Statement
    psi: float
    psi_by_chance: float
    ks: float
    p_value: float
    size: int
    live: Histogram


@dataclass(frozen=True, slots=True)
class DriftReport:
    """`statement` over all three; `traces` that were added."""

    statement: Statement
    traces: int
    comparisons: tuple[Comparison, ...]

    def to_json(self) -> dict[str, object]:
        """For files: figures, and the live histograms."""
        return {
            "statement": self.statement,
            "alpha": ALPHA,
            "traces": self.traces,
            "comparisons": [
                {
                    "name": item.name,
                    "statement": item.statement,
                    "size": item.size,
                    "psi": round(item.psi, 4),
                    "psi_by_chance": round(item.psi_by_chance, 4),
                    "ks": round(item.ks, 4),
                    "p_value": round(item.p_value, 5),
                }
                for item in self.comparisons
            ],
        }


class TraceScores:
    """The scores of one trace while it is generated. Constant memory; one task at a time."""

    def __init__(self, stop: float) -> None:
        self._stop = stop
        self._is_stopped = False
        self._highest: float | None = None
        self._harm: float | None = None
        self._bins: dict[int, int] = {}

    def segment(self, score: float) -> None:
        """The next segment's score, in order; those after the first at or above `stop` are ignored."""
        if self._is_stopped:
            return
        place = bin_of(score)
        self._bins[place] = self._bins.get(place, 0) + 1
        self._highest = score if self._highest is None else max(self._highest, score)
        self._is_stopped = score >= self._stop

    def request(self, harm: float) -> None:
        """The request's harm."""
        self._harm = harm

    def counts(self) -> dict[str, dict[int, int]]:
        """Counts by bin for each of HISTOGRAMS."""
        return {
            "segments": self._bins,
            "trace_max": {} if self._highest is None else {bin_of(self._highest): 1},
            "request_harm": {} if self._harm is None else {bin_of(self._harm): 1},
        }


class DriftMonitor:
    """Adds up traces and compares them with a reference. Thread-safe; memory does not grow with traffic.

    Without windows `report` is about everything added. With `window_traces` or `window_s` (whichever is reached first
    closes a window, the latter with the next trace) it is about the last closed window, before the first about what
    there is; `clock` counts seconds.
    """

    def __init__(
        self,
        reference: Reference,
        window_traces: int | None = None,
        window_s: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.reference = reference
        self._window_traces = window_traces
        self._window_s = window_s
        self._clock = clock
        self._lock = threading.Lock()
        self._closed: DriftReport | None = None
        self._begin()

    def trace(self) -> TraceScores:
        """A trace to fill, and to hand to `add` once it has ended."""
        return TraceScores(self.reference.stop)

    def add(self, trace: TraceScores) -> DriftReport | None:
        """A trace that has ended; gives the report of a window that it closed. Without a scored segment it is ignored:
        nothing was judged.
        """
        counts = trace.counts()
        if not counts["segments"]:
            return None
        with self._lock:
            is_old = self._window_s is not None and self._clock() - self._started >= self._window_s
            closed = self._close() if is_old else None
            for name, total in self._totals.items():
                total.add(counts[name])
            self._traces += 1
            if self._window_traces is not None and self._traces >= self._window_traces:
                closed = self._close()
            return closed

    def report(self) -> DriftReport:
        """Of the last closed window; else of what was added so far."""
        with self._lock:
            if self._closed is not None:
                return self._closed
            found, traces = self._found(), self._traces
        return compare_all(self.reference.histograms, found, traces)  # milliseconds: streams need not wait for it

    def _begin(self) -> None:
        self._totals = {name: Accumulator(self.reference.histograms[name].groups) for name in HISTOGRAMS}
        self._traces = 0
        self._started = self._clock()

    def _close(self) -> DriftReport:
        self._closed = compare_all(self.reference.histograms, self._found(), self._traces)
        self._begin()
        return self._closed

    def _found(self) -> dict[str, Histogram]:
        return {name: total.histogram() for name, total in self._totals.items()}


def compare_all(reference: Mapping[str, Histogram], live: Mapping[str, Histogram], traces: int) -> DriftReport:
    """All three comparisons and their common statement."""
    comparisons = tuple(compare(name, reference[name], live[name]) for name in HISTOGRAMS)
    said = {item.statement for item in comparisons}
    statement: Statement = "shifted" if "shifted" in said else "stable" if "stable" in said else "too few"
    return DriftReport(statement, traces, comparisons)


def compare(name: str, reference: Histogram, live: Histogram) -> Comparison:
    """One histogram; see the head of this file for what the statement means."""
    effect = max(reference.design_effect, live.design_effect)
    before = _effective(reference.grouped(reference.groups), effect)
    after = _effective(live.grouped(reference.groups), effect)
    psi = stability_index(reference.grouped(reference.groups), live.grouped(reference.groups))
    by_chance = len(reference.groups) * (1 / max(1, sum(before)) + 1 / max(1, sum(after)))
    p_value = permutation_p(before, after)
    statement: Statement = "stable"
    if min(reference.traces, live.traces) < MIN_TRACES:
        statement = "too few"
    elif p_value <= ALPHA / len(HISTOGRAMS) and psi >= MIN_PSI:
        statement = "shifted"
    return Comparison(
        name, statement, psi, by_chance, ks_distance(reference.counts, live.counts), p_value, live.size, live
    )


def stability_index(before: Sequence[int], after: Sequence[int]) -> float:
    """Population stability index, sum of (q - p) ln(q / p); half a count is added to each cell, so none is empty."""
    if not sum(before) or not sum(after):
        return 0.0
    p, q = (np.asarray(counts, dtype=float) + 0.5 for counts in (before, after))
    p, q = p / p.sum(), q / q.sum()
    return float(np.sum((q - p) * np.log(q / p)))


def ks_distance(before: Sequence[int], after: Sequence[int]) -> float:
    """Kolmogorov-Smirnov distance of two histograms over the same bins; 0 where one is empty."""
    if not sum(before) or not sum(after):
        return 0.0
    p, q = (np.cumsum(counts) / np.sum(counts) for counts in (before, after))
    return float(np.max(np.abs(p - q)))


def permutation_p(before: Sequence[int], after: Sequence[int]) -> float:
    """Probability of a chi-square statistic at least as large if all scores were dealt at random to both samples.

    Exact for independent scores up to the number of draws, however few a cell holds. The draws are always the same
    ones, so that equal histograms get equal statements.
    """
    pooled = np.asarray(before) + np.asarray(after)
    pooled, taken = pooled[pooled > 0], np.asarray(after)[pooled > 0]
    size = int(taken.sum())
    if len(pooled) < 2 or size == 0 or size == int(pooled.sum()):
        return 1.0
    expected = pooled * (size / pooled.sum())
    draws = np.random.default_rng(0).multivariate_hypergeometric(pooled, size, _DRAWS, method="marginals")
    # The other sample's part of the statistic is the same times a constant.
    statistics = ((draws - expected) ** 2 / expected).sum(axis=1)
    found = float(((taken - expected) ** 2 / expected).sum())
    return (1 + int((statistics >= found * (1 - 1e-12)).sum())) / (_DRAWS + 1)


def make_reference(traces: Iterable[TraceScores], stop: float) -> Reference:
    """A reference of traces that were filled with the same `stop`."""
    counts = [trace.counts() for trace in traces]
    return Reference(stop, {name: reference_histogram([c[name] for c in counts if c[name]]) for name in HISTOGRAMS})


def _effective(counts: Sequence[int], design_effect: float) -> list[int]:
    return [round(count / design_effect) for count in counts]
