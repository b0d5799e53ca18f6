"""The whole job against a teacher on a real port, through the OpenAI SDK: labels, faults, kills, cost, agreement."""

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from steer.cli import app
from tests.patience import PATIENCE_S
from tests.train.scripted_teacher import Fault, ScriptedTeacher, letters, serving, shown
from train.detector.data import label_segments, read_traces
from train.label import run as run_module
from train.label import teacher as teacher_module
from train.label.config import LabelConfig
from train.label.errors import LabelConfigError, TeacherError
from train.label.run import run

HARMFUL = "The user asks for it. So I plan it (cue). Then the next part (cue). No, I must not (safe)."
BENIGN = "The user asks for bread. I will list the parts. Then I explain them."


@pytest.fixture
def teacher() -> Iterator[ScriptedTeacher]:
    with serving(ScriptedTeacher()) as running:
        yield running


@pytest.fixture
def pictures() -> bool:
    """Whether plots are drawn: a picture takes longer than all else in a run, so two tests alone look at them."""
    return False


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, pictures: bool) -> None:
    monkeypatch.setattr(teacher_module, "_FIRST_WAIT_S", 0.01)
    if not pictures:
        monkeypatch.setattr(run_module, "plot_labels", lambda *_: None)
        monkeypatch.setattr(run_module, "plot_agreement", lambda *_: None)


def _traces(path: Path, count: int, **extra: object) -> Path:
    lines = []
    for number in range(count):
        is_harmful = number % 2 == 0
        prompt = f"forbidden thing {number}" if is_harmful else f"bread {number}"
        reasoning = HARMFUL if is_harmful else BENIGN
        lines.append(json.dumps({"id": f"t{number}", "prompt": prompt, "model": "m", "reasoning": reasoning, **extra}))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _values(url: str, source: Path, teacher: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    given = {"base_url": url, "model": "judge", "concurrency": 4, **(teacher or {})}
    return {"inputs": [{"source": str(source)}], "teacher": given, **changes}


def _config(*args: Any, **changes: Any) -> LabelConfig:
    return LabelConfig.model_validate(_values(*args, **changes))


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("pictures", [True])
def test_labels_are_what_detector_training_reads(teacher: ScriptedTeacher, tmp_path: Path) -> None:
    report = run(_config(teacher.url, _traces(tmp_path / "own.jsonl", 4)), tmp_path / "out")
    traces = read_traces([tmp_path / "out/traces.jsonl"])
    assert [trace.id for trace in traces] == ["t0", "t1", "t2", "t3"]
    assert [(t.source, t.prompt_label, t.labels) for t in traces[:2]] == [
        ("own", "harmful", "NCCS"),
        ("own", "benign", "NNN"),
    ]
    assert [piece.label for piece in label_segments(traces[0])] == [0, 1, 1, 2]
    assert traces[0].reasoning[slice(*traces[0].spans[1])].strip() == "So I plan it (cue)."
    assert report["conversations"] == {"labelled": 4, "failed": 0}
    assert report["letters"] == {"C": 4, "N": 8, "S": 2}
    assert (tmp_path / "out/labels.png").exists()
    body = teacher.bodies[-1]
    assert body["temperature"] == 0
    assert body["response_format"]["json_schema"]["strict"] is True


def test_a_finished_job_is_not_run_again_and_another_is_refused(teacher: ScriptedTeacher, tmp_path: Path) -> None:
    source = _traces(tmp_path / "own.jsonl", 2)
    first = run(_config(teacher.url, source), tmp_path / "out")
    sent = len(teacher.bodies)
    assert run(_config(teacher.url, source, {"concurrency": 1}), tmp_path / "out") == first
    with pytest.raises(LabelConfigError, match="another config or input"):
        run(_config(teacher.url, source, {"model": "other"}), tmp_path / "out")
    assert len(teacher.bodies) == sent


def test_answers_in_a_shared_cache_are_paid_for_once(teacher: ScriptedTeacher, tmp_path: Path) -> None:
    cache = str(tmp_path / "cache.jsonl")
    first = run(_config(teacher.url, _traces(tmp_path / "a.jsonl", 2), cache=cache), tmp_path / "a")
    sent = len(teacher.bodies)
    more = run(_config(teacher.url, _traces(tmp_path / "b.jsonl", 3), cache=cache), tmp_path / "b")
    assert len(teacher.bodies) == sent + 1
    assert (first["calls"], more["calls"]) == (sent, sent + 1)
    run(_config(teacher.url, tmp_path / "a.jsonl", {"temperature": 0.5}, cache=cache), tmp_path / "c")
    assert len(teacher.bodies) == 2 * sent + 1, "another temperature is another answer"


def test_tokens_and_cost_are_reported(teacher: ScriptedTeacher, tmp_path: Path) -> None:
    prices = {"input": 2.0, "cached_input": 0.5, "output": 10.0, "currency": "EUR"}
    report = run(_config(teacher.url, _traces(tmp_path / "own.jsonl", 3), prices=prices), tmp_path / "out")
    assert report["tokens"] == {"input": 4000, "cached": 2400, "output": 40}  # three traces and the probe
    assert report["cost"]["total"] == pytest.approx((1600 * 2 + 2400 * 0.5 + 40 * 10) / 1e6)
    assert report["cost"]["currency"] == "EUR"


def test_long_traces_go_in_windows_that_carry_verdict_and_letters(teacher: ScriptedTeacher, tmp_path: Path) -> None:
    reasoning = " ".join(f"This is step number {n} (cue)." if n >= 7 else f"This is a thought {n}." for n in range(20))
    source = tmp_path / "long.jsonl"
    source.write_text(json.dumps({"id": "1", "prompt": "forbidden", "reasoning": reasoning}))
    run(_config(teacher.url, source, window={"sentences": 8, "overlap": 2}), tmp_path / "out")
    (line,) = _lines(tmp_path / "out/traces.jsonl")
    assert line["labels"] == "N" * 7 + "C" * 13
    asked = [shown(body) for body in teacher.bodies[1:]]
    assert [len(window["sentences"]) for window in asked] == [6, 7, 7]
    assert [window.get("request_verdict") for window in asked] == [None, "H", "H"]
    assert [entry[1] for entry in asked[2]["earlier"].values()] == ["C", "C"]
    short = _config(teacher.url, source, window={"sentences": 8, "overlap": 2, "max_sentences": 5})
    run(short, tmp_path / "short")
    (line,) = _lines(tmp_path / "short/traces.jsonl")
    assert (line["labels"], len(line["spans"])) == ("NNNNN", 5)


@pytest.mark.parametrize(
    ("formats", "settled", "probes"),
    [(("json_schema",), "schema", 1), (("json_object", "none"), "json", 2), (("none",), "text", 3)],
)
def test_the_probe_finds_the_strictest_format_that_works(
    teacher: ScriptedTeacher, tmp_path: Path, formats: tuple[str, ...], settled: str, probes: int
) -> None:
    teacher.formats = formats
    report = run(_config(teacher.url, _traces(tmp_path / "own.jsonl", 2)), tmp_path / "out")
    assert report["teacher"]["response_format"] == settled
    assert len(teacher.bodies) == probes + 2
    assert report["conversations"]["labelled"] == 2


def test_a_bad_answer_is_asked_for_again_with_the_error_told(teacher: ScriptedTeacher, tmp_path: Path) -> None:
    source = _traces(tmp_path / "own.jsonl", 1)
    good = json.dumps({"request": "H", "labels": {"1": "N", "2": "N"}})  # the probe has two sentences
    teacher.faults = [good, '{"request": "H", "labels": {"1": "N"}}']
    run(_config(teacher.url, source), tmp_path / "out")
    told = teacher.bodies[-1]["messages"]
    assert told[-2] == {"role": "assistant", "content": '{"request": "H", "labels": {"1": "N"}}'}
    assert "sentences 2, 3, 4 have none" in told[-1]["content"]
    assert _lines(tmp_path / "out/traces.jsonl")[0]["labels"] == "NCCS"


def _fails_for(mark: str, said: str | Fault) -> Any:
    return lambda body: said if any(mark in m["content"] for m in shown(body)["conversation"]) else letters(body)


def test_what_fails_is_recorded_and_can_be_asked_for_again(teacher: ScriptedTeacher, tmp_path: Path) -> None:
    config = _config(teacher.url, _traces(tmp_path / "own.jsonl", 4))
    teacher.answer = _fails_for("thing 2", "I won't label this.")
    report = run(config, tmp_path / "out")
    assert report["conversations"] == {"labelled": 3, "failed": 1}
    (failed,) = _lines(tmp_path / "out/failed.jsonl")
    assert failed["id"] == "t2"
    assert "no usable answer in 3 attempts" in failed["reason"]
    assert "I won't label this." in failed["reason"]
    assert [line["id"] for line in _lines(tmp_path / "out/traces.jsonl")] == ["t0", "t1", "t3"]

    teacher.answer = None
    sent = len(teacher.bodies)
    assert run(config, tmp_path / "out", retry_failed=True)["conversations"] == {"labelled": 4, "failed": 0}
    assert len(teacher.bodies) == sent + 1
    assert _lines(tmp_path / "out/failed.jsonl") == []


def test_a_conversation_that_the_engine_refuses_fails_alone(teacher: ScriptedTeacher, tmp_path: Path) -> None:
    teacher.answer = _fails_for("bread 1", Fault(400, "maximum context length exceeded"))
    report = run(_config(teacher.url, _traces(tmp_path / "own.jsonl", 4)), tmp_path / "out")
    assert report["conversations"] == {"labelled": 3, "failed": 1}
    assert "maximum context length" in _lines(tmp_path / "out/failed.jsonl")[0]["reason"]


def test_a_teacher_that_talks_nonsense_ends_the_job(teacher: ScriptedTeacher, tmp_path: Path) -> None:
    source = _traces(tmp_path / "own.jsonl", 30)
    teacher.answer = lambda _: "la la la"
    with pytest.raises(TeacherError, match=r"(?s)JSON schema does not work.*plain text does not work.*la la la"):
        run(_config(teacher.url, source), tmp_path / "out")
    assert len(teacher.bodies) == 3

    teacher.answer = lambda body: letters(body) if len(shown(body)["sentences"]) == 2 else "la la la"
    config = _config(teacher.url, source, {"give_up_after": 5, "attempts": 1})
    with pytest.raises(TeacherError, match="5 conversations in a row could not be labelled"):
        run(config, tmp_path / "later")
    assert len(teacher.bodies) < 20
    assert not (tmp_path / "later/traces.jsonl").exists()


def test_a_rate_limit_holds_every_request_for_as_long_as_it_says(teacher: ScriptedTeacher, tmp_path: Path) -> None:
    good = json.dumps({"request": "B", "labels": {"1": "N", "2": "N"}})
    teacher.faults = [good, Fault(429, "slow down", {"retry-after": "0.6"})]
    report = run(_config(teacher.url, _traces(tmp_path / "own.jsonl", 8), {"concurrency": 2}), tmp_path / "out")
    gaps = [later - earlier for earlier, later in zip(teacher.times[1:], teacher.times[2:], strict=False)]
    assert max(gaps) > 0.5
    assert len([gap for gap in gaps if gap > 0.5]) == 1, "both wait out the same pause"
    assert report["conversations"]["failed"] == 0
    assert report["teacher"]["retried_by_this_start"] == 1


def test_requests_keep_the_pace_and_the_bound(teacher: ScriptedTeacher, tmp_path: Path) -> None:
    teacher.delay_s = 0.05
    source = _traces(tmp_path / "own.jsonl", 12)
    run(_config(teacher.url, source, {"concurrency": 3}), tmp_path / "bound")
    assert teacher.most_open == 3
    teacher.times.clear()
    run(_config(teacher.url, source, {"requests_per_minute": 600, "seed": 1}), tmp_path / "pace")
    assert teacher.times[-1] - teacher.times[0] > 0.9 * 12 * 0.1


def test_what_may_pass_is_tried_again_until_it_is_too_often(teacher: ScriptedTeacher, tmp_path: Path) -> None:
    source = _traces(tmp_path / "own.jsonl", 2)
    teacher.faults = [Fault(503), Fault(500), Fault(429)]
    assert run(_config(teacher.url, source), tmp_path / "out")["teacher"]["retried_by_this_start"] == 3
    teacher.faults = [Fault(503, "loading the model")] * 3
    with pytest.raises(TeacherError, match=r"status 503: loading the model, 3 times; .*start the job again"):
        run(_config(teacher.url, source, {"retries": 2}), tmp_path / "down")
    teacher.faults = [Fault(429, "no", {"retry-after": "900"})]
    with pytest.raises(TeacherError, match="asks to wait 900 s"):
        run(_config(teacher.url, source), tmp_path / "long")
    teacher.faults = [Fault(429, "no money", code="insufficient_quota")]
    with pytest.raises(TeacherError, match="quota is spent"):
        run(_config(teacher.url, source), tmp_path / "quota")
    with pytest.raises(TeacherError, match="Connection error"):
        run(_config("http://127.0.0.1:9/v1", source, {"retries": 1}), tmp_path / "nobody")


def test_a_wrong_key_model_or_address_is_said_at_once(
    teacher: ScriptedTeacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = _traces(tmp_path / "own.jsonl", 2)
    with pytest.raises(LabelConfigError, match=r"api_key_env: the environment variable LABEL_KEY is not set"):
        run(_config(teacher.url, source, {"api_key_env": "LABEL_KEY"}), tmp_path / "out")
    monkeypatch.setenv("LABEL_KEY", "wrong")
    teacher.key = "right"
    with pytest.raises(LabelConfigError, match=r"does not accept the key in LABEL_KEY \(status 401"):
        run(_config(teacher.url, source, {"api_key_env": "LABEL_KEY"}), tmp_path / "out")
    monkeypatch.setenv("LABEL_KEY", "right")
    run(_config(teacher.url, source, {"api_key_env": "LABEL_KEY"}), tmp_path / "out")
    assert "right" not in (tmp_path / "out/report.json").read_text()
    teacher.key, teacher.faults = None, [Fault(404, "The model `judge` does not exist")]
    with pytest.raises(LabelConfigError, match="knows no model 'judge'"):
        run(_config(teacher.url, source), tmp_path / "model")
    with pytest.raises(LabelConfigError, match="mostly ends in /v1"):
        run(_config(teacher.url.removesuffix("/v1"), source), tmp_path / "address")


def test_agreement_with_given_labels_and_with_a_reference(teacher: ScriptedTeacher, tmp_path: Path) -> None:
    source = _traces(tmp_path / "own.jsonl", 6)
    run(_config(teacher.url, source), tmp_path / "first")
    people = _lines(tmp_path / "first/traces.jsonl")
    people[0]["labels"] = "NNCS"  # its first cue is one sentence later
    people[4]["reasoning"] += " More."
    labelled = tmp_path / "people.jsonl"
    labelled.write_text("\n".join(map(json.dumps, people)))

    made = run(_config(teacher.url, source, references={"people": str(labelled)}), tmp_path / "second")["agreement"]
    assert made["people"]["conversations"] == 5
    assert made["people"]["other_reasoning"] == 1
    assert made["people"]["first_cue"]["exact"]["value"] == 0.5
    assert made["people"]["first_cue"]["within_one"]["value"] == 1

    report = run(_config(teacher.url, labelled), tmp_path / "given")
    assert report["agreement"]["given"]["sentences"][0] == [12, 1, 0]
    assert _lines(tmp_path / "given/traces.jsonl")[0]["labels"] == "NNCS", "people's labels stand"
    run(_config(teacher.url, labelled, labelled="replace"), tmp_path / "replaced")
    assert _lines(tmp_path / "replaced/traces.jsonl")[0]["labels"] == "NCCS"
    sent = len(teacher.bodies)
    kept = run(_config(teacher.url, labelled, labelled="keep"), tmp_path / "kept")
    assert len(teacher.bodies) == sent
    assert kept["teacher"] is None
    assert kept["labelled_by"] == {"given": 6}


@pytest.mark.parametrize("pictures", [True])
def test_agreement_is_drawn(teacher: ScriptedTeacher, tmp_path: Path) -> None:
    labels = {"prompt_label": "benign", "spans": [[0, 3]], "labels": "N"}
    run(_config(teacher.url, _traces(tmp_path / "own.jsonl", 2, **labels)), tmp_path / "out")
    assert (tmp_path / "out/agreement.png").stat().st_size > 1000
    assert (tmp_path / "out/labels.png").stat().st_size > 1000


def test_reviewers_marks_stand_against_the_teacher(teacher: ScriptedTeacher, tmp_path: Path) -> None:
    record = {
        "id": "r1", "request_id": "q", "attempt": 0, "created_at": "2026-01-01T00:00:00Z", "mode": "hold", "model": "m",
        "policy_hash": "p", "detector_hash": "d", "trigger_id": None, "channel": "reasoning", "score": 0.9,
        "messages": [{"role": "user", "content": "looks fine"}], "kept": {"text": "The user asks. "},
        "rejected": {"text": "I will do it now. And then this (safe)."}, "timings": {"halted_ms": 1.0},
        "review_state": "confirmed",
    }  # fmt: skip
    other = {**record, "id": "r2", "request_id": "q2", "review_state": "false_halt"}
    path = tmp_path / "log.jsonl.gz"
    with gzip.open(path, "wt") as sink:
        sink.write(json.dumps(record) + "\n" + json.dumps(other) + "\n")
    report = run(_config(teacher.url, f"records:{path}"), tmp_path / "out")
    first, second = _lines(tmp_path / "out/traces.jsonl")
    assert (first["prompt_label"], first["labels"], first["labelled_by"]) == ("harmful", "NCS", "teacher and reviewer")
    assert (second["prompt_label"], second["labels"], second["labelled_by"]) == ("benign", "NNN", "reviewer")
    assert [trace.source for trace in read_traces([tmp_path / "out/traces.jsonl"])] == ["interventions"] * 2
    assert report["sources"] == {"interventions": 2}
    assert len(teacher.bodies) == 2, "the probe and the confirmed halt"


def _toml(path: Path, url: str, source: Path) -> Path:
    path.write_text(f"""
[[inputs]]
source = "{source}"
[teacher]
base_url = "{url}"
model = "judge"
concurrency = 4
""")
    return path


@pytest.mark.timeout(300)
def test_a_killed_job_goes_on_without_asking_anything_twice(teacher: ScriptedTeacher, tmp_path: Path) -> None:
    teacher.delay_s = 0.1
    config = _toml(tmp_path / "label.toml", teacher.url, _traces(tmp_path / "own.jsonl", 30))
    command = [
        sys.executable,
        "-m",
        "steer.cli",
        "train",
        "label",
        "--config",
        str(config),
        "--out",
        str(tmp_path / "o"),
    ]
    job = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while len(teacher.bodies) < 12:
        assert job.poll() is None
        time.sleep(0.02)
    os.kill(job.pid, signal.SIGKILL)
    job.wait()
    assert not (tmp_path / "o/traces.jsonl").exists()
    with (tmp_path / "o/cache.jsonl").open("ab") as cache:
        cache.write(b'{"key": "torn')
    known = len(_lines_but_last(tmp_path / "o/cache.jsonl"))
    before, teacher.delay_s = len(teacher.bodies), 0.0
    assert before - known <= 4, "only what was in flight is lost"
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    assert "30 labelled, 0 failed" in done.stdout
    assert len(teacher.bodies) - before == 31 - known
    assert len(read_traces([tmp_path / "o/traces.jsonl"])) == 30


def _lines_but_last(path: Path) -> list[bytes]:
    return path.read_bytes().split(b"\n")[:-1]


def test_a_full_disk_ends_the_job_and_leaves_whole_lines(
    teacher: ScriptedTeacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = _config(teacher.url, _traces(tmp_path / "own.jsonl", 10))
    real, calls = os.fsync, []

    def fsync(file: int) -> None:
        calls.append(file)
        if len(calls) == 5:
            raise OSError(28, "No space left on device")
        real(file)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="No space left on device") as caught:
        run(config, tmp_path / "out")
    assert caught.value.filename == str(tmp_path / "out/cache.jsonl")
    assert not (tmp_path / "out/traces.jsonl").exists()
    monkeypatch.undo()
    before = len(_lines(tmp_path / "out/cache.jsonl"))
    sent = len(teacher.bodies)
    assert run(config, tmp_path / "out")["conversations"]["labelled"] == 10
    assert len(teacher.bodies) - sent == 11 - before


def test_the_command_says_what_is_wrong_and_ends_with_the_right_code(teacher: ScriptedTeacher, tmp_path: Path) -> None:
    def command(config: Path) -> tuple[int, str]:
        result = CliRunner().invoke(app, ["train", "label", "--config", str(config), "--out", str(tmp_path / "out")])
        return result.exit_code, result.output

    missing = _toml(tmp_path / "missing.toml", teacher.url, tmp_path / "none.jsonl")
    code, said = command(missing)
    assert code == 2
    assert "none.jsonl: No such file" in said
    teacher.answer = lambda _: "la la la"
    code, said = command(_toml(tmp_path / "ok.toml", teacher.url, _traces(tmp_path / "own.jsonl", 1)))
    assert code == 1
    assert "can't be used as a teacher" in said
    assert not (tmp_path / "out/report.json").exists()


def test_two_jobs_do_not_share_a_cache_at_the_same_time(teacher: ScriptedTeacher, tmp_path: Path) -> None:
    from train.label.cache import CallCache

    config = _config(teacher.url, _traces(tmp_path / "own.jsonl", 1), cache=str(tmp_path / "cache.jsonl"))
    with CallCache(tmp_path / "cache.jsonl"), pytest.raises(LabelConfigError, match="in use by another job"):
        run(config, tmp_path / "out")
    (tmp_path / "cache.jsonl").write_text("{}\n")
    with pytest.raises(LabelConfigError, match="line 1 is no cached answer"):
        run(config, tmp_path / "out")
