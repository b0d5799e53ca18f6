"""`/metrics` on a real port, read with Prometheus's own parser: figures of known traffic, and who may look."""

import random
import signal
import time
import urllib.request
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.parser import text_string_to_metric_families

from detector.artifact import load_artifact
from detector.context import Context
from detector.drift import HISTOGRAMS, DriftMonitor, TraceScores, make_reference
from detector.errors import Overloaded
from proxy.errors import ConfigError
from proxy.measuring import make_metrics
from proxy.meter import StreamMeter
from proxy.metrics import MAX_LABEL_VALUES, Metrics
from proxy.rules import make_policy
from proxy.scrape import forget_dead_workers
from proxy.settings import Settings, dump_settings, restore_settings
from tests.e2e.harness import CUE, RunningProxy, TableScorer, running_proxy
from tests.e2e.test_process import HALTS, Serve, read_until, serve, upstream  # noqa: F401 - fixtures
from tests.patience import PATIENCE_S
from tests.upstream import Fault, Script, ScriptedUpstream, Trace, on_chat

SESAME = "open-sesame-of-forty-thieves"
HALTING = Script(Trace(f"\nOkay. {CUE} here. More.\n", "\n\nBad."))

Figures = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def parsed(text: str) -> Figures:
    """Every sample by name and labels."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(figures: Figures, name: str, **labels: str) -> float:
    """The sum of the samples of that name that have these labels; 0 where there is none."""
    return sum(v for (n, own), v in figures.items() if n == name and labels.items() <= dict(own).items())


async def look(proxy: RunningProxy, **headers: str) -> Figures:
    reply = await proxy.get("/metrics", headers=headers)
    assert reply.status == 200, reply.raw
    assert reply.headers["content-type"].startswith("text/plain")
    return parsed(reply.raw.decode())


async def test_a_halt_and_a_plain_answer_are_counted(tmp_path: Path) -> None:
    async with ScriptedUpstream(HALTING) as engine, running_proxy(engine.url, tmp_path) as proxy:
        await proxy.chat()
        await proxy.settled(1)
        engine.script = Script(Trace("\nOkay. Then more.\n", "\n\nFine."))
        await proxy.chat()
        await proxy.chat(stream=False)
        await proxy.get("/nowhere")
        figures = await look(proxy)
    assert value(figures, "steer_requests_total", route="/v1/chat/completions", status="200") == 3
    assert value(figures, "steer_requests_total", route="other", status="404") == 1
    assert value(figures, "steer_interventions_total", outcome="completed", category="none") == 1
    assert value(figures, "steer_interventions_total") == 1
    assert value(figures, "steer_verdict_seconds_count") == value(figures, "steer_segment_score_count") > 5
    assert value(figures, "steer_segment_score_count", channel="reasoning") == len(proxy.scorer.seen)
    assert value(figures, "steer_segment_score_bucket", le="0.8") == len(proxy.scorer.seen) - 1
    assert value(figures, "steer_request_harm_count") == 3
    assert value(figures, "steer_first_token_added_seconds_count") == 2  # streams alone
    assert value(figures, "steer_halt_to_resume_seconds_count") == 1
    assert 0 < value(figures, "steer_halt_to_resume_seconds_sum") < 10
    assert value(figures, "steer_requests_in_flight") == value(figures, "steer_detector_waiting") == 0
    assert value(figures, "steer_reviews", state="unreviewed") == 1
    assert not any(name.startswith("steer_drift") for name, _ in figures), "a scorer of no artifact has no reference"


async def test_failures_are_counted_by_what_failed(tmp_path: Path) -> None:
    def judge(text: str) -> float | None:
        if "full" in text:
            raise Overloaded("scripted")
        return None if "broken" in text else 0.1

    async with (
        ScriptedUpstream(Script(Trace("\nThis is broken. More.\n", "\n\nFine."))) as engine,
        running_proxy(engine.url, tmp_path, TableScorer(judge)) as proxy,
    ):
        await proxy.chat()
        engine.script = Script(Trace("\nThe queue is full. More.\n", "\n\nFine."))
        await proxy.chat()
        engine.script = Script(Trace("\nOkay. More.\n", "\n\nFine."), fault=on_chat(Fault("rst", after_frames=2)))
        await proxy.chat()
        await proxy.chat(stream=False)
        figures = await look(proxy)
    assert value(figures, "steer_verdict_failures_total", cause="error") >= 1
    assert value(figures, "steer_verdict_failures_total", cause="overloaded") >= 1
    assert value(figures, "steer_verdict_failures_total", cause="timeout") == 0
    assert value(figures, "steer_refusals_total", cause="detector_failure") == 2
    assert value(figures, "steer_refusals_total") == 2
    assert value(figures, "steer_upstream_errors_total", stage="leg") >= 1
    assert value(figures, "steer_upstream_errors_total", stage="answer") == 1


async def test_no_text_reaches_the_page_and_made_up_paths_share_a_label(tmp_path: Path) -> None:
    async with ScriptedUpstream(HALTING) as engine, running_proxy(engine.url, tmp_path) as proxy:
        await proxy.chat("SECRET question")
        await proxy.settled(1)
        for number in range(5):
            await proxy.get(f"/SECRET-{number}")
        reply = await proxy.get("/metrics")
    page = reply.raw.decode()
    assert "SECRET" not in page
    assert CUE not in page
    assert value(parsed(page), "steer_requests_total", route="other") == 5


def test_labels_that_operators_choose_are_bounded() -> None:
    metrics = Metrics()
    labels = {metrics.bounded("trigger", f"t{number}") for number in range(10 * MAX_LABEL_VALUES)}
    assert len(labels) == MAX_LABEL_VALUES + 1
    assert metrics.bounded("trigger", "t0") == "t0"
    assert metrics.bounded("trigger", "late") == "other"
    assert metrics.bounded("category", None) == "none"


async def test_the_page_asks_for_its_token_and_says_so(tmp_path: Path) -> None:
    async with ScriptedUpstream() as engine, running_proxy(engine.url, tmp_path, metrics={"token": SESAME}) as proxy:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {SESAME}"}):
            reply = await proxy.get("/metrics", headers=headers)
            assert reply.status == 401
            assert b"metrics.token" in reply.raw
        await look(proxy, Authorization=f"Bearer {SESAME}")


async def test_beyond_loopback_nothing_is_shown_without_a_token(tmp_path: Path) -> None:
    remote: dict[str, Any] = {"server": {"host": "0.0.0.0", "allow_remote": True}}
    async with ScriptedUpstream() as engine, running_proxy(engine.url, tmp_path, **remote) as proxy:
        reply = await proxy.get("/metrics")
        assert reply.status == 403
        assert b"metrics.token" in reply.raw
    folder = tmp_path / "second"
    folder.mkdir()
    async with (
        ScriptedUpstream() as engine,
        running_proxy(engine.url, folder, metrics={"token": SESAME}, **remote) as proxy,
    ):
        await look(proxy, Authorization=f"bearer {SESAME}")


async def test_a_page_that_is_turned_off_does_not_exist(tmp_path: Path) -> None:
    async with ScriptedUpstream() as engine, running_proxy(engine.url, tmp_path, metrics={"enabled": False}) as proxy:
        reply = await proxy.get("/metrics")
        assert reply.status == 404
        assert b"this proxy serves" in reply.raw.lower()
        assert b"/metrics" not in reply.raw.partition(b"serves")[2]


async def test_only_reading_is_allowed(tmp_path: Path) -> None:
    async with ScriptedUpstream() as engine, running_proxy(engine.url, tmp_path) as proxy:
        assert (await proxy.request("POST", "/metrics")).status == 405


def test_the_token_is_masked_when_shown_and_kept_for_workers() -> None:
    settings = Settings.model_validate({"metrics": {"token": SESAME}})
    assert SESAME not in settings.shown()
    restored = restore_settings(dump_settings(settings)).metrics.token
    assert restored is not None
    assert restored.get_secret_value() == SESAME


# -- drift ------------------------------------------------------------------------------------------------------------


def trace(rng: random.Random, low: float, high: float) -> TraceScores:
    scores = TraceScores(0.5)
    for _ in range(5):
        scores.segment(rng.uniform(low, high))
    scores.request(rng.uniform(low, high))
    return scores


def monitor(window: int | None = 60) -> DriftMonitor:
    rng = random.Random(0)
    return DriftMonitor(make_reference([trace(rng, 0.01, 0.3) for _ in range(200)], 0.5), window)


def page_of(metrics: Metrics) -> Figures:
    return parsed(generate_latest(metrics.registry).decode())


def test_drift_is_told_window_by_window(caplog: pytest.LogCaptureFixture) -> None:
    rng, metrics = random.Random(1), Metrics(monitor())
    for _ in range(60):
        metrics.trace_ended(trace(rng, 0.01, 0.3))
    figures = page_of(metrics)
    assert value(figures, "steer_drift_shifted") == 0
    assert value(figures, "steer_drift_traces") == 60
    assert value(figures, "steer_drift_samples", scores="segments") == 300
    assert not caplog.records
    for _ in range(60):
        metrics.trace_ended(trace(rng, 0.2, 0.45))
    figures = page_of(metrics)
    assert value(figures, "steer_drift_shifted") == 1
    assert value(figures, "steer_drift_windows_total", statement="stable") == 1
    assert value(figures, "steer_drift_windows_total", statement="shifted") == 1
    for name in HISTOGRAMS:
        assert value(figures, "steer_drift_psi", scores=name) > 0.25
        assert 0.3 < value(figures, "steer_drift_ks", scores=name) <= 1
    assert "drifted" in caplog.text


async def test_a_stream_joins_the_drift_statistics_once_and_up_to_its_cue(tmp_path: Path) -> None:
    drift = monitor(None)
    meters = [StreamMeter(TableScorer(), Metrics(drift), choice=choice, streams=True) for choice in (0, 1)]
    for meter in meters:
        await meter.prepare(())
        for text in ("one", CUE, "three"):
            await meter.score(Context((), "", text))
        await meter.score(Context((), "", "answer", channel="answer"))
        meter.ended(upstream_failed=False)
        meter.ended(upstream_failed=False)
    report = drift.report()
    assert report.traces == 1, "choices of one request stand for one"
    assert {item.name: item.size for item in report.comparisons} == {"segments": 2, "trace_max": 1, "request_harm": 1}


def test_a_threshold_below_the_references_measures_no_drift(tmp_path: Path) -> None:
    artifact = replace(load_artifact(), references={"ordinary": monitor().reference})
    settings = Settings.model_validate({"policy": {"threshold": 0.6}})
    assert make_metrics(settings, make_policy(settings, artifact), artifact).drift is not None
    low = Settings.model_validate({"policy": {"threshold": 0.4}})
    assert make_metrics(low, make_policy(low, artifact), artifact).drift is None
    wrong = Settings.model_validate({"metrics": {"drift_reference": "/nowhere"}, "policy": {"threshold": 0.6}})
    with pytest.raises(ConfigError, match=r"metrics\.drift_reference: /nowhere"):
        make_metrics(wrong, make_policy(wrong, artifact), artifact)


def test_an_operating_point_stands_for_its_threshold() -> None:
    artifact = load_artifact()
    for point in artifact.operating_points:
        settings = Settings.model_validate({"policy": {"operating_point": point.name}})
        assert make_policy(settings, artifact).threshold == point.threshold
    unknown = Settings.model_validate({"policy": {"operating_point": "bold"}})
    with pytest.raises(ConfigError, match=r"policy\.operating_point.*strict, balanced, lenient"):
        make_policy(unknown, artifact)
    with pytest.raises(ValueError, match="not both"):
        Settings.model_validate({"policy": {"operating_point": "strict", "threshold": 0.5}})


# -- several workers --------------------------------------------------------------------------------------------------


def ask(url: str) -> Figures:
    with urllib.request.urlopen(url + "/metrics", timeout=PATIENCE_S) as answer:
        return parsed(answer.read().decode())


@pytest.mark.timeout(300)
def test_the_figures_of_two_workers_add_up_whoever_is_asked(serve: Serve, tmp_path: Path) -> None:  # noqa: F811 - a fixture
    served = serve("--workers", "2", STEER_POLICY__MAX_INTERVENTIONS="1", TMPDIR=str(tmp_path), **HALTS)
    served.wait_ready()
    deadline, asked, shares = time.monotonic() + PATIENCE_S, 0, [0.0]
    while (len(shares) < 2 or not all(shares)) and time.monotonic() < deadline:  # until both have had some
        with ExitStack() as stack:
            connections = [stack.enter_context(served.begin()) for _ in range(8)]
            assert all(b"content_filter" in read_until(connection, b"[DONE]") for connection in connections)
        asked += len(connections)
        shares = [refusals_in(file) for file in tmp_path.glob("steer-metrics-*/counter_*.db")]
    assert len(shares) == 2
    assert all(shares)
    assert sum(shares) == asked
    chats = {"route": "/v1/chat/completions", "status": "200"}
    while value(ask(served.url), "steer_requests_total", **chats) < asked and time.monotonic() < deadline:
        pass  # a request is counted a moment after its client has read the end
    for page in [ask(served.url) for _ in range(6)]:
        assert value(page, "steer_refusals_total", cause="max_interventions") == asked
        assert value(page, "steer_interventions_total", outcome="refused") == asked
        assert value(page, "steer_requests_total", **chats) == asked
        assert value(page, "steer_requests_in_flight") == 0
    served.process.send_signal(signal.SIGTERM)
    served.process.wait(PATIENCE_S)
    assert list(tmp_path.glob("steer-metrics-*")) == []


def refusals_in(file: Path) -> float:
    """What one worker alone has counted."""
    (found,) = [
        metric
        for metric in MultiProcessCollector.merge([str(file)], accumulate=False)  # type: ignore[no-untyped-call]
        if metric.name == "steer_refusals"
    ] or [None]
    return sum(sample.value for sample in found.samples) if found is not None else 0.0


def test_gauges_of_a_dead_worker_are_forgotten_and_its_counters_are_not(tmp_path: Path) -> None:
    gone = 2**22 + 1  # beyond Linux's largest process id
    for name in (f"gauge_livesum_{gone}.db", f"counter_{gone}.db", "gauge_livesum_1.db"):
        (tmp_path / name).write_bytes(b"")
    forget_dead_workers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {f"counter_{gone}.db", "gauge_livesum_1.db"}
