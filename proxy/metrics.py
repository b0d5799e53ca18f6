"""Every figure that the proxy gives to Prometheus: one registry per process, built once, passed down.

Rules kept here: no user text and nothing that a client chooses is a label; a label's values are bounded; a figure costs
microseconds. With several workers prometheus_client keeps values in files (PROMETHEUS_MULTIPROC_DIR, set before it is
imported), and whichever worker is asked answers for all: counters add up, drift is told per process (label `pid`).
"""

import logging
from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from detector.drift import HISTOGRAMS, DriftMonitor, DriftReport, TraceScores

logger = logging.getLogger("steer.proxy")

# Different values of a label whose values an operator chooses (triggers, categories); what comes later is "other".
MAX_LABEL_VALUES = 64
# Seconds. From a verdict of a quiet core (1 ms) to the longest that is waited for (30 s).
_LATENCIES = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
# Finer at both ends, where scores are.
_SCORES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 1)


class Metrics:
    """The series of one process. `drift` None: there is no reference to compare with."""

    def __init__(self, drift: DriftMonitor | None = None) -> None:
        self.registry = CollectorRegistry()
        self.drift = drift
        self._known: dict[str, set[str]] = {}
        self._make_traffic()
        self._make_shadow()
        self._make_verdicts()
        self._make_drift()

    def _make_traffic(self) -> None:
        registry = self.registry
        self.requests = Counter(
            "steer_requests", "HTTP requests answered, by route and status", ["route", "status"], registry=registry
        )
        self.in_flight = Gauge(
            "steer_requests_in_flight", "chat requests being served", registry=registry, multiprocess_mode="livesum"
        )
        self.interventions = Counter(
            "steer_interventions",
            "halts whose record is complete; in monitor mode those that would have been",
            ["outcome", "category", "trigger"],
            registry=registry,
        )
        self.refusals = Counter("steer_refusals", "choices that ended in a refusal", ["cause"], registry=registry)
        self.reviews = Gauge(
            "steer_reviews", "interventions in the log by review state", ["state"],
            registry=registry, multiprocess_mode="mostrecent",
        )  # fmt: skip
        self.samples = Counter(
            "steer_samples",
            "unhalted choices that were drawn to be looked at for misses",
            ["result"],
            registry=registry,
        )
        self.upstream_errors = Counter(
            "steer_upstream_errors",
            "leg: the engine broke off or could not resume; answer: a client got an upstream error as its answer",
            ["stage"],
            registry=registry,
        )
        self.log_failures = Counter(
            "steer_log_failures", "writes that the intervention log failed", ["phase"], registry=registry
        )
        self.first_token = Histogram(
            "steer_first_token_added_seconds",
            "streams: first text from the engine to first text let through to the client",
            registry=registry,
            buckets=_LATENCIES,
        )
        self.halt_to_resume = Histogram(
            "steer_halt_to_resume_seconds",
            "from the verdict that halted a stream to the first token of the resumed leg",
            registry=registry,
            buckets=_LATENCIES,
        )

    def _make_shadow(self) -> None:
        """Copies alone: no other figure counts them."""
        registry = self.registry
        self.shadow_answers = Counter(
            "steer_shadow_answers",
            "copied requests by version in shadow, side (shadow, or champion: what its client got) and result",
            ["adapter", "side", "result"],
            registry=registry,
        )
        self.shadow_interventions = Counter(
            "steer_shadow_interventions", "interventions in them", ["adapter", "side"], registry=registry
        )
        self.shadow_tokens = Counter(
            "steer_shadow_tokens", "tokens generated for them", ["adapter", "side"], registry=registry
        )
        self.shadow_dropped = Counter(
            "steer_shadow_dropped", "copies that were not made, or not to their end", ["adapter", "reason"],
            registry=registry,
        )  # fmt: skip

    def _make_verdicts(self) -> None:
        registry = self.registry
        self.verdict = Histogram(
            "steer_verdict_seconds",
            "from asking the detector for a verdict to its answer, its queue included",
            registry=registry,
            buckets=_LATENCIES,
        )
        self.verdict_failures = Counter(
            "steer_verdict_failures", "segments without a verdict", ["cause"], registry=registry
        )
        for cause in ("overloaded", "timeout", "error"):
            self.verdict_failures.labels(cause)
        self.waiting = Gauge(
            "steer_detector_waiting",
            "segments and requests that wait for the detector or are being scored",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.segment_scores = Histogram(
            "steer_segment_score", "scores of segments, by channel", ["channel"], registry=registry, buckets=_SCORES
        )
        self.request_harm = Histogram(
            "steer_request_harm", "harm of requests, as the detector reads them", registry=registry, buckets=_SCORES
        )

    def _make_drift(self) -> None:
        """No series where nothing is measured: zeros would look like no drift."""
        if self.drift is None:
            return
        registry = self.registry

        def gauge(name: str, text: str, labels: tuple[str, ...] = ()) -> Gauge:
            return Gauge(name, text, labels, registry=registry, multiprocess_mode="liveall")

        self._psi = gauge("steer_drift_psi", "population stability index against the reference", ("scores",))
        self._psi_chance = gauge("steer_drift_psi_by_chance", "index to expect without drift", ("scores",))
        self._ks = gauge("steer_drift_ks", "Kolmogorov-Smirnov distance from the reference", ("scores",))
        self._samples = gauge("steer_drift_samples", "scores compared", ("scores",))
        self._traces = gauge("steer_drift_traces", "traces compared: the last closed window's, before it all")
        self._shifted = gauge("steer_drift_shifted", "1: the last statement is `shifted`; 0: it is not")
        self.drift_windows = Counter(
            "steer_drift_windows", "closed windows by statement", ["statement"], registry=registry
        )
        for statement in ("stable", "shifted", "too few"):
            self.drift_windows.labels(statement)
        self.refresh_drift()

    def bounded(self, label: str, value: str | None) -> str:
        """`value` as a label: "none" for None, "other" once MAX_LABEL_VALUES different ones were met."""
        if value is None:
            return "none"
        known = self._known.setdefault(label, set())
        if value not in known:
            if len(known) >= MAX_LABEL_VALUES:
                return "other"
            known.add(value)
        return value

    def trace_ended(self, trace: TraceScores) -> None:
        """A stream's scores join the drift statistics; a window that closes makes its statement."""
        if self.drift is None:
            return
        closed = self.drift.add(trace)
        if closed is None:
            return
        self.drift_windows.labels(closed.statement).inc()
        self._show_drift(closed)
        if closed.statement == "shifted":
            logger.warning("scores have drifted from the reference: %s", _figures(closed))

    def refresh_drift(self) -> None:
        """Bring the gauges up to date: called when somebody looks, since a comparison costs milliseconds."""
        if self.drift is not None:
            self._show_drift(self.drift.report())

    def _show_drift(self, report: DriftReport) -> None:
        for item in report.comparisons:
            self._psi.labels(item.name).set(item.psi)
            self._psi_chance.labels(item.name).set(item.psi_by_chance)
            self._ks.labels(item.name).set(item.ks)
            self._samples.labels(item.name).set(item.size)
        self._traces.set(report.traces)
        self._shifted.set(report.statement == "shifted")

    def show_reviews(self, by_state: Mapping[str, int]) -> None:
        """Counts of the log by review state; states that there are none of are 0."""
        for state in ("unreviewed", "confirmed", "false_halt"):
            self.reviews.labels(state).set(by_state.get(state, 0))


def _figures(report: DriftReport) -> str:
    assert len(report.comparisons) == len(HISTOGRAMS), "every histogram is compared"
    return ", ".join(f"{item.name} PSI {item.psi:.2f} (p {item.p_value:.4f})" for item in report.comparisons)
