"""The log behind a live proxy: outages while streams run, requests counted, and no word of text in any output."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import pytest

from proxy.log import Filters, LogReader
from proxy.log.connect import open_engine, parse_url
from proxy.log.texts import PLAIN
from proxy.log.verify import verify
from tests.e2e.harness import Reply, RunningProxy, running_proxy
from tests.patience import PATIENCE_S
from tests.proxy.test_log_spool import outage
from tests.upstream import Fault, Generation, Script, ScriptedUpstream, Trace, on_chat, on_resume

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]

HALTED = Trace("\nOkay. Here is the CUE of it. Then more.\n", "\n\nAn answer.")


def again(generation: Generation) -> Trace:
    """The second leg meets another cue, the third none."""
    is_second = generation.prompt_text.count("reconsider") == 0
    return Trace(" I reconsider. The CUE once more. And on.\n" if is_second else " I go on.\n", "\n\nA safe answer.")


SCRIPT = Script(HALTED, continuation=again, max_model_len=None)


async def counted(proxy: RunningProxy, url: str, number: int) -> None:
    """Until the log holds so many requests: they are counted beside their ends."""
    async with LogReader.open(url) as reader:
        with anyio.fail_after(PATIENCE_S):
            while (await reader.stats()).requests < number:  # noqa: ASYNC110 - the database rings no bell
                await anyio.sleep(0.02)


async def test_an_outage_under_load_shows_in_no_stream_and_costs_no_record(tmp_path: Path, log_url: str) -> None:
    replies: list[Reply] = []
    async with (
        ScriptedUpstream(SCRIPT) as upstream,
        running_proxy(upstream.url, tmp_path, log={"url": log_url, "spool": tmp_path / "spool"}) as proxy,
    ):

        async def client(requests: int) -> None:
            for _ in range(requests):
                reply = await proxy.chat(steer={"show_interventions": True})
                replies.append(reply)

        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(client, 6)
            while len(replies) < 4:  # noqa: ASYNC110 - counted by the clients
                await anyio.sleep(0.005)
            with outage(log_url):
                start = len(replies)
                while len(replies) < start + 12:  # noqa: ASYNC110 - as above
                    await anyio.sleep(0.005)
        await counted(proxy, log_url, 24)
        async with LogReader.open(log_url) as reader:
            stats = await reader.stats()
            shown = {item.id: item.outcome for item in (await reader.list(limit=1000)).items}
    assert [reply.finish_reasons for reply in replies] == [["stop"]] * 24
    assert not any("error" in chunk for reply in replies for chunk in reply.chunks)
    told = [event["id"] for reply in replies for event in reply.told if event["event"] == "intervention"]
    assert len(told) == len(set(told)) == 48
    assert set(told) == set(shown)
    assert set(shown.values()) == {"completed", "halted_again"}
    assert (stats.interventions, stats.requests, stats.halted_requests) == (48, 24, 24)
    engine = open_engine(parse_url(log_url), writes=False)
    assert verify(engine, PLAIN).problems == {}
    engine.dispose()


@pytest.mark.parametrize("on_failure", ["fail_closed", "fail_open"])
async def test_when_the_spool_is_full_too_the_policy_decides(tmp_path: Path, on_failure: str) -> None:
    url = f"sqlite:///{tmp_path}/log.sqlite"
    async with (
        ScriptedUpstream(SCRIPT) as upstream,
        running_proxy(
            upstream.url, tmp_path, policy={"on_failure": on_failure}, log={"url": url, "spool_max_mb": 1}
        ) as proxy,
    ):
        with outage(url):
            first = await proxy.chat("x" * 60_000)  # two records of it fit
            for _ in range(3):
                reply = await proxy.chat("y" * 60_000)
        assert first.finish_reasons == ["stop"]
        assert reply.finish_reasons == (["content_filter"] if on_failure == "fail_closed" else ["stop"])
        assert "CUE" not in reply.reasoning
        assert reply.is_complete


async def test_requests_are_counted_halted_or_not(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/log.sqlite"
    calm = Script(Trace("\nOkay. Fine.\n", "\n\nTwo words."))
    async with ScriptedUpstream(calm) as upstream, running_proxy(upstream.url, tmp_path) as proxy:
        await proxy.chat()
        await proxy.chat(stream=False, n=2)
        upstream.script = SCRIPT
        await proxy.chat()
        await counted(proxy, url, 3)
        with closing(sqlite3.connect(proxy.database)) as connection:
            query = (
                "select outcome, interventions, segments > 0, completion_tokens > 0 from requests order by created_us"
            )
            rows = connection.execute(query).fetchall()
        async with LogReader.open(url) as reader:
            assert (await reader.stats(Filters(mode="hold"))).halted_requests == 1
    assert rows == [("stop", 0, 1, 1), ("stop", 0, 1, 1), ("stop", 2, 1, 1)]


SECRET = "Mustermann"
TEXTS = Trace(f"\nOkay {SECRET}. The CUE for {SECRET}. More {SECRET}.\n", f"\n\nDear {SECRET}.")
SPOKEN = Script(
    TEXTS, continuation=lambda _: Trace(f" For {SECRET} I go on.\n", f"\n\nBest, {SECRET}."), max_model_len=None
)


def contents(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in folder.iterdir() if path.is_file()]


@pytest.mark.parametrize(
    "settings",
    [{"store_text": "none"}, {"encryption_key": "x" * 43 + "="}, {"redact": "tests.e2e.redaction:without_names"}],
)
async def test_no_word_of_text_is_in_any_output_or_file_where_it_may_not_be(
    tmp_path: Path, settings: dict[str, Any], capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    url = f"sqlite:///{tmp_path}/log.sqlite"
    garbage = Fault("garbage", body=SECRET.encode())
    async with (
        ScriptedUpstream(SPOKEN) as upstream,
        running_proxy(upstream.url, tmp_path, log={"url": url, "spool_max_mb": 1, **settings}) as proxy,
    ):
        said = f"I am {SECRET}."
        await proxy.chat(said)
        await proxy.chat(said, stream=False)
        await proxy.post("/v1/chat/completions", data=f'{{"{SECRET}": '.encode())
        await proxy.chat(said, chat_template=SECRET)
        for fault in (on_chat(garbage), on_resume(garbage), on_resume(Fault("rst"))):
            upstream.script = Script(TEXTS, continuation=SPOKEN.continuation, fault=fault, max_model_len=None)
            await proxy.chat(said)
        upstream.script = SPOKEN
        async with proxy.stream(said) as left:
            await left.until("reasoning")
            left.close()
        with outage(url):
            await proxy.chat(said)
            for _ in range(4):
                await proxy.chat(said + "x" * 60_000)  # soon more than the spool takes
            spooled = contents(tmp_path / "log.sqlite-spool")
        page = await proxy.get("/metrics")
        files = contents(tmp_path)
    captured = capfd.readouterr()
    ours = [entry.getMessage() + (entry.exc_text or "") for entry in caplog.records]
    outputs = [captured.out, captured.err, *ours, page.raw.decode()]
    assert len(ours) > 3
    assert not any(SECRET in output for output in outputs)
    assert files
    assert spooled
    assert not any(SECRET.encode() in content for content in files + spooled)
