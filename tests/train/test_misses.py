"""Misses: a judge over exported traffic, its verdicts back in the log; what is reviewed becomes pairs and labels."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest
from sqlalchemy import Connection
from typer.testing import CliRunner

from proxy.log import InterventionLog
from proxy.log.texts import TextKeeper
from proxy.review.sample import Sample, ScoredSegment
from proxy.review.samples import put_sample
from proxy.review.store import ReviewStore
from steer.cli import app
from steer.record import Completion, InterventionRecord, TextSpan, Timings
from steer.review import JudgedTrace, SecondVerdict
from tests.e2e.harness import running_proxy
from tests.proxy.log_records import completion, record
from tests.proxy.review_desk import START, sample
from tests.train import pair_data
from tests.train import test_rollout_driver as driver
from tests.train.test_pairs_job import JUDGE, _toml
from tests.train.test_rollout_driver import VOCABULARY
from tests.upstream.tokens import encode
from train.judges.base import JudgeItem, JudgeVerdict
from train.label.config import LabelConfig
from train.label.sources import read_items
from train.misses.report import report_of
from train.pairs.candidates import divergences
from train.pairs.config import BenignConfig
from train.pairs.rules import Admitted, decide
from train.rollout.completion import completable, complete


def run(*arguments: object, code: int = 0) -> str:
    """Standard output and error of a command."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output + result.stderr
    return result.stdout + result.stderr


def url(folder: Path) -> str:
    return f"sqlite:///{folder}/log.sqlite"


@pytest.fixture
def settings(tmp_path: Path) -> str:
    """A file of settings; the threshold is given, so that no artifact is looked at."""
    path = tmp_path / "steer.toml"
    path.write_text(f'[log]\nurl = "{url(tmp_path)}"\n[policy]\nthreshold = 0.5\n')
    return str(path)


def fill(folder: Path, records: Sequence[InterventionRecord] = (), samples: Sequence[Sample] = ()) -> None:
    def write(connection: Connection) -> None:
        for item in samples:
            put_sample(connection, item, TextKeeper())

    async def work() -> None:
        async with InterventionLog.open(url(folder)) as log:
            for item in records:
                await log.insert(item)
        async with ReviewStore.open(url(folder)) as store:
            await store.write(write)

    anyio.run(work)


def asking(id: str, request: str, **changes: Any) -> Sample:
    made = sample(id, **changes)
    return made.model_copy(
        update={"text": made.text.model_copy(update={"messages": [{"role": "user", "content": request}]})}
    )


def judge(items: Sequence[JudgeItem]) -> list[JudgeVerdict]:
    """By the request: HARM makes reasoning unsafe, UNSURE can't be told."""
    found = []
    for item in items:
        words = str(item.messages[-1]["content"])
        unsafe = None if "UNSURE" in words else "HARM" in words
        found.append(JudgeVerdict(harmful_request=unsafe, unsafe_reasoning=unsafe, unsafe_answer=unsafe and False))
    return found


# -- the job ----------------------------------------------------------------------------------------------------------


def trace(id: str, kind: Any = "sample", max_score: float = 0.1) -> JudgedTrace:
    return JudgedTrace(
        id=id,
        kind=kind,
        model="lrm",
        detector_hash="d",
        created_at=START,
        max_score=max_score,
        messages=[],
        reasoning="",
    )


def verdict(id: str, kind: Any = "sample", **said: Any) -> SecondVerdict:
    return SecondVerdict(id=id, kind=kind, judge="j", **said)


@pytest.mark.parametrize(
    ("kind", "said", "disagrees"),
    [
        ("sample", {"unsafe_reasoning": True}, True),
        ("sample", {"unsafe_reasoning": False, "unsafe_answer": True}, True),
        ("sample", {"unsafe_reasoning": False, "unsafe_answer": False, "harmful_request": True}, False),
        ("sample", {}, False),
        ("intervention", {"harmful_request": False}, True),
        ("intervention", {"unsafe_reasoning": False}, True),
        ("intervention", {"harmful_request": True, "unsafe_reasoning": True}, False),
        ("intervention", {}, False),
    ],
)
def test_when_a_second_judge_contradicts_the_detector(kind: Any, said: dict[str, bool], disagrees: bool) -> None:
    assert verdict("x", kind, **said).disagrees is disagrees


def test_rates_are_of_what_the_judge_could_tell() -> None:
    safe = {"unsafe_reasoning": False, "unsafe_answer": False}
    judged = [
        (trace("a", max_score=0.3), verdict("a", unsafe_reasoning=True)),
        (trace("b", max_score=0.0), verdict("b", **safe)),
        (trace("c", max_score=0.02), verdict("c", **safe)),
        (trace("d"), verdict("d")),
        (trace("e", "intervention"), verdict("e", "intervention", harmful_request=False)),
    ]
    report = report_of(judged, 0.95)
    assert (report["samples"]["n"], report["samples"]["told"], report["samples"]["disagrees"]) == (4, 3, 1)
    assert report["samples"]["share"] == pytest.approx(1 / 3)
    assert report["samples"]["low"] == pytest.approx(0.0615, abs=1e-4)  # Wilson's, by hand
    assert report["interventions"]["share"] == 1.0
    assert report["samples_by_score"]["0.2+"]["disagrees"] == 1
    assert report["samples_by_score"]["0.5+"]["share"] is None
    assert report["where"] == {"reasoning": 1}


def test_a_share_of_traffic_is_judged_and_its_finds_are_reviewed_and_labelled(tmp_path: Path, settings: str) -> None:
    fill(
        tmp_path,
        [record(id="i1").completed(completion())],
        [asking("s-1", "HARM"), asking("s-2", "plain"), asking("s-3", "UNSURE")],
    )
    spec = "tests.train.test_misses:judge"
    told = run("review", "judge", "--judge", spec, "--out", tmp_path / "job", "--config", settings)
    assert "4 verdicts, 1 new misses, 2 disagreements; 0 of traces that are gone" in told
    assert "missed of unhalted traffic, by the judge: 50.0%" in told
    report = json.loads((tmp_path / "job/report.json").read_text())
    assert (report["samples"]["told"], report["judge"]) == (2, f"function:{spec}")
    assert (tmp_path / "job/misses.png").stat().st_size > 1000
    assert (tmp_path / "job/traces.jsonl").stat().st_mode & 0o077 == 0, "user text is its owner's"
    assert "placeholder" not in (tmp_path / "job/verdicts.jsonl").read_text()
    told = run("review", "judge", "--judge", spec, "--out", tmp_path / "next", "--config", settings)
    assert "nothing that" in told, "nothing is judged twice"

    listed = json.loads(run("review", "list", "--kind", "miss", "--json", "--config", settings))
    assert [item["id"] for item in listed["items"]] == ["s-1"]
    assert "0.40" in run("review", "show", "s-1", "--config", settings)
    run("review", "decide", "s-1", "confirmed", "--segment", "9", "--config", settings, code=1)
    run("review", "decide", "s-1", "confirmed", "--segment", "1", "--config", settings)
    assert "review.export_unjudged" in run("review", "audit", "--config", settings)
    misses = tmp_path / "misses.jsonl"
    assert run("review", "misses", "--out", misses, "--config", settings).startswith("1 records")
    inputs = [{"source": f"records:{misses}"}]
    (item,) = read_items(LabelConfig.model_validate({"inputs": inputs, "teacher": {"model": "m"}}))
    assert (item.reviewed, dict(item.fixed)) == ("harmful", {1: "C"})
    start, end = item.spans[1]
    assert item.reasoning[start:end].strip() == "I will plan it."


def test_the_three_steps_of_the_job_go_through_files(tmp_path: Path, settings: str) -> None:
    fill(tmp_path, samples=[asking("s-1", "HARM"), asking("s-2", "plain")])
    traces, config = tmp_path / "traces.jsonl", tmp_path / "misses.toml"
    assert "2 traces" in run("review", "unjudged", "--out", traces, "--config", settings)
    config.write_text(f'traces = ["{traces}"]\n[judge]\nspec = "tests.train.test_misses:judge"\n')
    job: list[object] = ["train", "misses", "--config", config, "--out", tmp_path / "job"]
    run(*job)
    before = (tmp_path / "job/report.json").read_bytes()
    run(*job)
    assert (tmp_path / "job/report.json").read_bytes() == before
    assert "1 new misses" in run("review", "import", tmp_path / "job/verdicts.jsonl", "--config", settings)
    (tmp_path / "bad.jsonl").write_text('{"id": "s-1"}\n')
    assert "bad.jsonl, line 1: kind" in run("review", "import", tmp_path / "bad.jsonl", "--config", settings, code=2)
    traces.write_text(traces.read_text().splitlines()[0] + "\n")
    assert "another config or input" in run(*job, code=2)
    traces.write_text("{}\n")
    assert "traces.jsonl, line 1: id" in run(*job, code=2)


# -- from a review to pairs -------------------------------------------------------------------------------------------


def finished(id: str, cue: str, care: str) -> InterventionRecord:
    """A halt of which both sides were generated to their end. Its request is its id."""
    messages = [{"role": "user", "content": id}]
    trigger = " Wait, is this safe?"
    values: dict[str, Any] = {
        "model": "scripted",
        "messages": messages,
        "prompt_token_ids": pair_data.VOCABULARY.prompt_ids(messages),
        "trigger": TextSpan(text=trigger, token_ids=encode(trigger)),
        "kept": TextSpan(text=pair_data.KEPT, token_ids=encode(pair_data.KEPT)),
        "rejected": TextSpan(text=cue, token_ids=[*encode(cue), pair_data.END]),
    }
    return record(id=id, **values).completed(
        Completion(
            outcome="completed",
            continuation=TextSpan(text=care, token_ids=[*encode(care), pair_data.END]),
            finish_reason="stop",
            timings=Timings(halted_ms=1.0),
        )
    )


async def decide_by_api(folder: Path, decisions: dict[str, str]) -> None:
    async with running_proxy("http://127.0.0.1:9", folder) as proxy:  # no engine is asked
        for id, decision in decisions.items():
            body = {"decision": decision, "version": 0}
            assert (await proxy.post(f"/steer/v1/review/items/{id}", json=body)).status == 200


def test_a_confirmed_miss_is_completed_and_becomes_a_pair() -> None:
    parts = ["Okay then.", " I will plan it UNSAFE.", " So the steps."]
    text = sample().text.model_copy(
        update={
            "messages": [{"role": "user", "content": "HARM"}],
            "prompt_token_ids": VOCABULARY.prompt_ids([{"role": "user", "content": "HARM"}]),
            "parts": [("reasoning", "".join(parts)), ("answer", "UNSAFE.")],
            "events": [
                (0, encode("<think>")),
                *((len(part), encode(part)) for part in parts),
                (0, encode("</think>")),
                (7, [*encode("UNSAFE."), pair_data.END]),
            ],
            "segments": [
                ScoredSegment("reasoning", len("".join(parts[:n])), len("".join(parts[: n + 1])), 0.1) for n in range(3)
            ],
        }
    )
    miss = sample("s-1", model="scripted", text=text).record(1)
    rows, skipped = completable([miss], frozenset({"scripted"}), None)
    assert (len(rows), sum(skipped)) == (1, 0)
    generator = driver.engine((f"{pair_data.CARE}\n</think>REFUSE politely.",))
    (rollout,) = complete(rows, driver.tools(generator), driver.plan(), branches=1)
    (divergence,) = divergences(rollout, VOCABULARY)
    assert divergence.first.finish_reason == "stop", "the traffic's own end: nothing of this side is generated"
    first, second = pair_data.judge([divergence.first.item(rollout), divergence.second.item(rollout)])
    admitted = decide(divergence, first, second, BenignConfig())
    assert isinstance(admitted, Admitted)
    assert (admitted.kind, admitted.by) == ("safety", "review")
    assert divergence.cue_tokens == len(encode(parts[1]))


def test_what_is_reviewed_becomes_pairs_admitted_by_review(tmp_path: Path, settings: str) -> None:
    long, care = pair_data.LONG, pair_data.CARE
    needless = finished("fine", f" So {long}.</think>HELP.", f"{care}</think>REFUSE.")
    right = finished("HARM", f" I do it, {long}.</think>Done.", f"{care}</think>REFUSE politely.")
    unsure = finished("UNSURE", f" Well, {long}.</think>Done.", f"{care}</think>REFUSE politely.")
    fill(tmp_path, [needless, right, unsure])
    anyio.run(decide_by_api, tmp_path, {"fine": "false_halt", "HARM": "confirmed"})
    records = tmp_path / "records.jsonl"
    run("log", "export", "--config", settings, "--out", records)
    tokenizer = tmp_path / "tokenizer"
    pair_data.VOCABULARY.tokenizer.save_pretrained(tokenizer)
    config = {
        "records": [str(records)],
        "tokenizer": str(tokenizer),
        "template_options": {"opens_think": True},
        "judge": {"spec": JUDGE},
        "shape": {"max_ratio": 4.0},
    }
    (tmp_path / "pairs.toml").write_text(_toml(config))
    run("train", "pairs", "--config", tmp_path / "pairs.toml", "--out", tmp_path / "pairs")
    lines = [
        json.loads(line)
        for name in ("pairs", "validation")
        for line in (tmp_path / "pairs" / f"{name}.jsonl").read_text().splitlines()
    ]
    assert {(line["kind"], line["admitted_by"], *line["record_ids"]) for line in lines} == {
        ("benign", "review", "fine"),
        ("safety", "review", "HARM"),
    }
    dropped = [json.loads(line) for line in (tmp_path / "pairs" / "dropped.jsonl").read_text().splitlines()]
    assert [line["reason"] for line in dropped] == ["unjudged"], "what nobody reviewed is the judge's to admit"
