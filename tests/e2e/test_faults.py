"""What clients get, and what the log holds, when the engine, the detector, the log or the client fails."""

import json
import os
from pathlib import Path
from typing import Any

import anyio
import pytest

from proxy import judge as proxy_judge
from proxy import session as proxy_session
from proxy.app import create_app
from proxy.client import ClientStuck, StreamWriter
from proxy.errors import ConfigError
from proxy.log.errors import LogFull
from proxy.log.store import InterventionLog
from proxy.server import bind
from steer.policy import DEFAULT_REFUSAL
from tests.e2e.harness import CUE, OPENING, OddUpstream, TableScorer, chunk, running_proxy, settings_for
from tests.patience import PATIENCE_S
from tests.upstream import Fault, Framing, Script, ScriptedUpstream, Trace, on_chat, on_resume, refused_url
from tests.upstream.wire import dump

pytestmark = pytest.mark.anyio

HALTED = Trace(f"\nOkay, let me think. {CUE} comes now. SECRET follows.\n", "\n\nSECRET answer.")
CALM = Trace("\nOkay, let me think. It is an ordinary question. Fine.\n", "\n\nTwelve loaves.")


async def test_an_unreachable_engine_is_a_502_that_says_what_to_do(tmp_path: Path) -> None:
    async with running_proxy(refused_url(), tmp_path) as proxy:
        for stream in (True, False):
            reply = await proxy.chat(stream=stream)
            assert reply.status == 502
            assert "start the engine" in reply.body["error"]["message"]
        assert (await proxy.get("/v1/models")).status == 502
        ready = await proxy.get("/readyz")
        assert ready.status == 503
        assert "start the engine" in ready.body["reason"]
        assert (await proxy.get("/healthz")).status == 200


def patience_for(action: str) -> dict[str, float]:
    """The proxy waits for a silent engine for a moment only; one that breaks off is not silent."""
    return {"read_timeout_s": 0.8 if action == "stall" else PATIENCE_S}


BROKEN = ("fin", "rst", "half_frame", "half_event", "garbage", "not_json", "error_frame", "huge", "stall")


@pytest.mark.parametrize("action", BROKEN)
async def test_an_engine_that_breaks_off_gives_an_error_event_and_a_valid_end(tmp_path: Path, action: Any) -> None:
    async with (
        ScriptedUpstream() as upstream,
        running_proxy(upstream.url, tmp_path, upstream=patience_for(action)) as proxy,
    ):
        await proxy.chat()  # the probes are over
        for after in (0, 2, 9):
            upstream.script = Script(CALM, fault=on_chat(Fault(action, after_frames=after, stall_s=PATIENCE_S)))
            reply = await proxy.chat()
            assert reply.is_complete or reply.status == 502, (after, reply.raw)
            error = (reply.chunks[-1] if reply.status == 200 else reply.body)["error"]
            assert error["message"].startswith("the upstream"), error
            assert error["type"] == "server_error"
            assert reply.raw.count(b"[DONE]") == (reply.status == 200)


@pytest.mark.parametrize("action", BROKEN)
async def test_an_engine_that_breaks_off_the_resumed_leg_leaves_a_record_that_says_so(
    tmp_path: Path, action: Any
) -> None:
    async with (
        ScriptedUpstream() as upstream,
        running_proxy(upstream.url, tmp_path, upstream=patience_for(action)) as proxy,
    ):
        upstream.script = Script(HALTED, fault=on_resume(Fault(action, after_frames=3, stall_s=PATIENCE_S)))
        reply = await proxy.chat()
        whole = await proxy.chat(stream=False)
        records = await proxy.records()
    assert reply.is_complete
    assert reply.chunks[-1]["error"]["message"].startswith("the upstream")
    assert whole.status == 502
    for got in (reply, whole):
        assert CUE.encode() not in got.raw
        assert b"SECRET" not in got.raw
    assert [record.outcome for record in records] == ["upstream_failed"] * 2


@pytest.mark.parametrize(
    "fault", [Fault(status=400), Fault(status=500), Fault("fin", 0), Fault(content_type="text/html")]
)
@pytest.mark.parametrize("stream", [True, False])
async def test_a_resume_that_the_engine_will_not_take_becomes_a_clean_refusal(
    tmp_path: Path, fault: Fault, stream: bool
) -> None:
    async with (
        ScriptedUpstream(Script(HALTED, fault=on_resume(fault))) as upstream,
        running_proxy(upstream.url, tmp_path) as proxy,
    ):
        reply = await proxy.chat(stream=stream)
        [record] = await proxy.records()
    assert reply.status == 200
    assert b"SECRET" not in reply.raw
    if stream:
        assert reply.is_complete
        assert (reply.content, reply.finish_reasons) == (DEFAULT_REFUSAL, ["content_filter"])
    else:
        assert reply.body["choices"][0]["message"]["content"] == DEFAULT_REFUSAL
    assert record.outcome == "refused"
    assert record.completion is not None
    assert not record.completion.continuation.token_ids


async def test_a_broken_first_leg_whose_last_words_are_a_cue_is_halted_and_resumed(tmp_path: Path) -> None:
    script = Script(Trace(f"\nOkay. {CUE} is still unfinished", ""), fault=on_chat(Fault("fin", after_frames=12)))
    async with ScriptedUpstream(script) as upstream, running_proxy(upstream.url, tmp_path) as proxy:
        reply = await proxy.chat()
    assert CUE.encode() not in reply.raw
    assert reply.finish_reasons == ["stop"]


@pytest.mark.parametrize("status", [400, 404, 429, 500, 503])
@pytest.mark.parametrize("stream", [True, False])
async def test_the_engines_own_errors_are_passed_on_as_they_are(tmp_path: Path, status: int, stream: bool) -> None:
    body = dump({"error": {"message": "own words", "type": "X", "param": None, "code": status}})
    async with ScriptedUpstream() as upstream, running_proxy(upstream.url, tmp_path) as proxy:
        await proxy.chat()
        upstream.script = Script(CALM, fault=on_chat(Fault(status=status, body=body)))
        reply = await proxy.chat(stream=stream)
        assert (reply.status, reply.raw) == (status, body)
        upstream.script = Script(CALM, fault=on_chat(Fault(status=status, body=b"<html>", content_type="text/html")))
        reply = await proxy.chat(stream=stream, n=2)
        assert reply.status == status
        assert str(status) in reply.body["error"]["message"]


async def test_a_redirect_is_not_followed(tmp_path: Path) -> None:
    async with ScriptedUpstream() as upstream, running_proxy(upstream.url, tmp_path) as proxy:
        await proxy.chat()
        upstream.script = Script(CALM, fault=on_chat(Fault(status=302, body=b"{}")))
        assert (await proxy.chat()).status == 502


@pytest.mark.parametrize(
    "framing",
    [
        Framing(write_bytes=1),
        Framing(newline="\r\n", comments=True),
        Framing(newline="\r", write_bytes=3),
        Framing(multi_line=True, space=False),
        Framing(newline="\r\n", multi_line=True, comments=True, write_bytes=7),
    ],
)
async def test_every_legal_spelling_of_events_is_understood(tmp_path: Path, framing: Framing) -> None:
    text = "\nA line\u2028separator and \u0085 next. Fine.\n"
    script = Script(Trace(text, "\n\nTwelve\u2029 loaves."), framing=framing)
    async with ScriptedUpstream(script) as upstream, running_proxy(upstream.url, tmp_path) as proxy:
        async with proxy.stream() as live:
            parts = []
            while (event := await live.event()) not in (None, b"[DONE]"):
                parts.append(json.loads(event or b""))
        upstream.script = Script(HALTED, framing=framing)
        halted = await proxy.chat()
    deltas = [part["choices"][0]["delta"] for part in parts]
    assert "".join(delta.get("reasoning") or "" for delta in deltas) == text
    assert b"SECRET" not in halted.raw
    assert halted.is_complete


async def test_an_answer_that_is_no_event_stream_is_an_error(tmp_path: Path) -> None:
    async with ScriptedUpstream() as upstream, running_proxy(upstream.url, tmp_path) as proxy:
        await proxy.chat()
        upstream.script = Script(CALM, fault=on_chat(Fault(content_type="text/html")))
        reply = await proxy.chat()
    assert reply.status == 502
    assert "instead of an event stream" in reply.body["error"]["message"]


@pytest.mark.parametrize("action", ["not_json", "fin", "rst", "stall"])
async def test_a_body_that_breaks_off_is_a_502(tmp_path: Path, action: Any) -> None:
    async with (
        ScriptedUpstream() as upstream,
        running_proxy(upstream.url, tmp_path, upstream=patience_for(action)) as proxy,
    ):
        await proxy.chat()
        upstream.script = Script(CALM, fault=on_chat(Fault(action, stall_s=PATIENCE_S)))
        reply = await proxy.chat(stream=False)
    assert reply.status == 502
    assert "upstream" in reply.body["error"]["message"]


# -- the detector -------------------------------------------------------------------------------------------------


def _raises(_: str) -> float:
    raise RuntimeError("a bug that quotes SECRET")


def _hopeless(_: str) -> float | None:
    return None


JUDGES = {"failing": _hopeless, "buggy": _raises, "nan": lambda _: float("nan"), "beyond": lambda _: 7.0}


@pytest.mark.parametrize("judge", JUDGES)
@pytest.mark.parametrize("stream", [True, False])
async def test_a_detector_that_fails_refuses_or_passes_as_the_policy_says(
    tmp_path: Path, judge: str, stream: bool
) -> None:
    async with ScriptedUpstream(Script(CALM)) as upstream:
        async with running_proxy(upstream.url, tmp_path, TableScorer(JUDGES[judge])) as proxy:
            reply = await proxy.chat(stream=stream, return_token_ids=True, logprobs=True)
            assert reply.status == 200
            assert b"ordinary" not in reply.raw
            message = reply.content if stream else reply.body["choices"][0]["message"]["content"]
            assert message == DEFAULT_REFUSAL
            shown = [choice for part in (reply.chunks if stream else [reply.body]) for choice in part["choices"]]
            assert sum(len(choice.get("token_ids") or []) for choice in shown) < 4
        policy = {"on_failure": "fail_open"}
        async with running_proxy(upstream.url, tmp_path, TableScorer(JUDGES[judge]), policy=policy) as proxy:
            reply = await proxy.chat(stream=stream)
            message = reply.content if stream else reply.body["choices"][0]["message"]["content"]
            assert message == CALM.answer


async def test_a_detector_that_cannot_read_ahead_harms_no_stream(tmp_path: Path) -> None:
    class Unprepared(TableScorer):
        async def prepare(self, messages: Any) -> float:
            raise RuntimeError("a bug")

    async with ScriptedUpstream(Script(CALM)) as upstream, running_proxy(upstream.url, tmp_path, Unprepared()) as proxy:
        reply = await proxy.chat()
    assert (reply.content, reply.finish_reasons) == (CALM.answer, ["stop"])


async def test_a_detector_that_hangs_is_one_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy_judge, "VERDICT_TIMEOUT_S", 0.2)
    async with (
        ScriptedUpstream(Script(CALM)) as upstream,
        running_proxy(upstream.url, tmp_path, TableScorer(delay_s=30)) as proxy,
    ):
        reply = await proxy.chat()
    assert reply.content == DEFAULT_REFUSAL


@pytest.mark.parametrize("tokens_per_frame", [3, 100_000])
async def test_no_stream_asks_for_more_verdicts_at_once_than_its_share(tmp_path: Path, tokens_per_frame: int) -> None:
    class Counting(TableScorer):
        now = most = 0

        async def score(self, context: Any) -> float:
            self.now += 1
            self.most = max(self.most, self.now)
            await anyio.sleep(0.001)
            self.now -= 1
            return await super().score(context)

    scorer = Counting()
    trace = Trace("\n" + "One more sentence is here. " * 120, "\n\nFine.")
    async with (
        ScriptedUpstream(Script(trace, tokens_per_frame=tokens_per_frame)) as upstream,
        running_proxy(upstream.url, tmp_path, scorer) as proxy,
    ):
        reply = await proxy.chat()
        assert reply.reasoning == trace.reasoning
        assert (await proxy.chat(stream=False)).status == 200
    assert scorer.most <= proxy_judge.MAX_UNDECIDED


# -- the log ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("hidden", [True, False])
@pytest.mark.parametrize("error", [LogFull("the disk is full"), ValueError("a bug")])
async def test_a_log_that_fails_refuses_or_passes_as_the_policy_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stream: bool, hidden: bool, error: Exception
) -> None:
    async def fail(*_: Any) -> None:
        raise error

    async with ScriptedUpstream(Script(HALTED)) as upstream:
        for on_failure in ("fail_closed", "fail_open"):
            policy = {"on_failure": on_failure}
            async with running_proxy(upstream.url, tmp_path, policy=policy) as proxy:
                with monkeypatch.context() as patch:
                    patch.setattr(InterventionLog, "insert", fail)
                    reply = await proxy.chat(stream=stream, include_reasoning=not hidden)
            assert reply.status == 200
            assert b"SECRET" not in reply.raw
            content = reply.content if stream else reply.body["choices"][0]["message"]["content"]
            assert content == (DEFAULT_REFUSAL if on_failure == "fail_closed" else "\n\nHere is a safe answer.")
            assert not stream or reply.is_complete


async def test_a_log_that_hangs_is_one_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def hang(*_: Any) -> None:
        await anyio.sleep_forever()

    monkeypatch.setattr("proxy.journal.WRITE_TIMEOUT_S", 0.2)
    async with ScriptedUpstream(Script(HALTED)) as upstream, running_proxy(upstream.url, tmp_path) as proxy:
        with monkeypatch.context() as patch:
            patch.setattr(InterventionLog, "insert", hang)
            reply = await proxy.chat()
    assert reply.content == DEFAULT_REFUSAL
    assert reply.is_complete


# -- the client ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_stops_the_engine(tmp_path: Path, stream: bool) -> None:
    endless = Script(Trace("\n" + "One more sentence is here. " * 3000, ""), delay_ms=1)
    async with ScriptedUpstream(endless) as upstream, running_proxy(upstream.url, tmp_path) as proxy:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: proxy.chat(stream=stream, n=2))
            with anyio.fail_after(PATIENCE_S):
                while len(upstream.chats) < 2 or upstream.num_tokens < 100:  # noqa: ASYNC110 - the engine rings no bell
                    await anyio.sleep(0.02)
            tasks.cancel_scope.cancel()
        await upstream.aborted(2)
        after = upstream.num_tokens
        await anyio.sleep(0.1)
        assert upstream.num_tokens == after
        assert {abort.num_sent < 10_000 for abort in upstream.aborts} == {True}


async def test_a_slow_client_slows_the_engine_and_fills_no_memory(tmp_path: Path) -> None:
    big = Script(Trace("\n" + "x y z. " * 40, "\n\n" + "word " * 200_000), tokens_per_frame=50)
    async with ScriptedUpstream(big) as upstream, running_proxy(upstream.url, tmp_path) as proxy:
        async with proxy.stream(logprobs=True, top_logprobs=5) as live:
            await live.event()
            before, sent = -1, upstream.num_tokens
            with anyio.fail_after(PATIENCE_S):
                while before != sent:  # until the engine is blocked
                    await anyio.sleep(0.5)
                    before, sent = sent, upstream.num_tokens
            assert sent < 100_000, "of 400,000 tokens"
            live.close()
        await upstream.aborted(1)


async def test_a_client_that_never_reads_on_is_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("proxy.client.CLIENT_TIMEOUT_S", 0.5)
    big = Script(Trace("\n" + "x y z. " * 40, "\n\n" + "word " * 100_000), tokens_per_frame=50)
    async with ScriptedUpstream(big) as upstream, running_proxy(upstream.url, tmp_path) as proxy:
        async with proxy.stream(logprobs=True, top_logprobs=5) as live:
            await live.event()
            await upstream.aborted(1)
            live.close()
        upstream.script = Script(CALM)
        assert (await proxy.chat()).is_complete
    assert "the client took nothing for 0.5 s" in caplog.text


async def test_a_client_that_takes_everything_but_the_end_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.client.CLIENT_TIMEOUT_S", 0.05)

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body" and not message["more_body"]:
            await anyio.sleep_forever()

    writer = StreamWriter(send, [])
    await writer.event(b"{}")
    with anyio.fail_after(PATIENCE_S), pytest.raises(ClientStuck):
        await writer.end()


async def test_a_crash_of_the_proxys_own_ends_the_stream_with_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def crash(*_: Any) -> None:
        raise RuntimeError("a bug")

    async with ScriptedUpstream(Script(HALTED)) as upstream, running_proxy(upstream.url, tmp_path) as proxy:
        await proxy.chat(max_tokens=2)
        monkeypatch.setattr(proxy_session.Session, "_splice", crash)
        reply = await proxy.chat()
        assert reply.is_complete
        assert reply.chunks[-1]["error"]["code"] == "internal_error"
        whole = await proxy.chat(stream=False)
        assert whole.status == 500
        [first, _] = await proxy.settled(2)
        assert first.rejected.text.startswith(f" {CUE}")
        monkeypatch.undo()
        assert (await proxy.chat()).is_complete


# -- start and stop -----------------------------------------------------------------------------------------------


async def test_without_its_lifespan_the_application_says_so() -> None:
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(dict(message))

    async def receive() -> Any:
        return {"type": "http.request", "body": b""}

    app = create_app(settings_for("http://127.0.0.1:1", Path("/nowhere")), TableScorer())
    await app({"type": "http", "method": "GET", "path": "/healthz", "headers": []}, receive, send)
    assert sent[0]["status"] == 503
    assert "lifespan" in json.loads(sent[1]["body"])["error"]["message"]


def test_a_taken_port_is_a_wrong_setting() -> None:
    with bind("127.0.0.1", 0) as taken:
        taken.listen()
        with pytest.raises(ConfigError, match="choose another --port"):
            bind("127.0.0.1", taken.getsockname()[1])


async def test_a_frame_of_four_megabytes_is_too_large(tmp_path: Path) -> None:
    async with (
        OddUpstream(OPENING, chunk({"reasoning": "x" * (5 << 20)})) as upstream,
        running_proxy(upstream.url, tmp_path) as proxy,
    ):
        reply = await proxy.chat()
    assert "bytes" in reply.chunks[-1]["error"]["message"]
    assert len(reply.raw) < 10_000


@pytest.mark.skipif(os.geteuid() != 0, reason="a folder that root can't write takes root to make")
async def test_an_unwritable_log_folder_keeps_the_proxy_from_starting(tmp_path: Path) -> None:
    from proxy.app import open_services
    from proxy.log.errors import LogError

    settings = settings_for("http://127.0.0.1:1", tmp_path, log={"url": "sqlite:////proc/nowhere/log.sqlite"})
    with pytest.raises((LogError, ConfigError), match="choose another place"):
        async with open_services(settings, TableScorer()):
            pass
