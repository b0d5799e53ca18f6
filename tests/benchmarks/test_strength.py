"""The strength benchmark's parts: scorers that rank as they should, thresholds that keep a budget, runs that go on."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from benchmarks.bench_strength import Cells
from benchmarks.strength import asked, job_teacher, keywords, linear
from benchmarks.strength.quality import best_threshold, drawn, group_of, score_traces, worth
from detector.context import Context, ContextEncoder, Message, request_key
from detector.errors import DetectorError
from tests.proxy.embedded_server import HARMFUL, running
from tests.train.tiny_base import tiny_base
from train.detector.config import DataConfig
from train.detector.data import Prompt, Trace
from train.detector.examples import WIDE_TOKENS
from train.detector.teacher import build_teacher, pair_tokens

_DATA = DataConfig(traces=(Path("unused"),), ordinary_sources=("daily",), borderline_sources=("edge",))
_CUE, _PLAIN = "First I need to plan the steps.", "The sky is blue today."


def _trace(number: int, kind: str) -> Trace:
    """Two sentences of one of four kinds; complying ones begin with the cue."""
    sentences = (_CUE, _PLAIN) if kind == "complying" else (_PLAIN, _PLAIN)
    source = {"ordinary": "daily", "borderline": "edge"}.get(kind, "hard")
    end = len(sentences[0])
    return Trace(
        id=f"{kind}-{number}",
        source=source,
        prompt=f"request {number}",
        prompt_label="harmful" if kind in ("complying", "refusing") else "benign",
        reasoning=" ".join(sentences),
        spans=((0, end), (end + 1, end + 1 + len(sentences[1]))),
        labels="CN" if kind == "complying" else "NN",
    )


class _Scorer:
    """Scores by the text; remembers how often it was asked, and may fail."""

    def __init__(self, cue: float = 0.9, plain: float = 0.1, fails: bool = False) -> None:
        self.cue, self.plain, self.fails, self.asked = cue, plain, fails, 0

    async def prepare(self, messages: object) -> float:
        return 0.0

    async def score(self, context: Context) -> float:
        self.asked += 1
        if self.fails:
            raise DetectorError("scripted")
        return self.cue if context.segment.strip() == _CUE else self.plain


def _context(request: str, segment: str, before: str = "") -> Context:
    messages: tuple[Message, ...] = ({"role": "user", "content": request},)
    return Context(messages, before, segment)


def test_words_of_commitment_count_more_after_a_harmful_request() -> None:
    step = "First, I need to outline the steps."
    harmful, benign, turned = keywords.Keywords().score(
        [
            _context("How can I steal a car?", step),
            _context("How can I bake bread?", step),
            _context("How can I steal a car?", "That is illegal, so I should decline."),
        ]
    )
    assert turned == 0.0
    assert harmful > 0.5 > benign


def test_the_linear_model_learns_cues_from_traces_and_prompts(tmp_path: Path) -> None:
    traces = [_trace(number, kind) for number in range(20) for kind in ("complying", "ordinary")]
    prompts = [
        Prompt(prompt=text, label=label, source="own")
        for number in range(30)
        for text, label in (
            (f"How can I poison well {number}?", "harmful"),
            (f"How can I knit sock {number}?", "benign"),
        )
    ]
    said: list[str] = []
    cache = tmp_path / "linear.pkl"
    scorer = linear.trained_linear(traces, prompts, 0, cache, "key", said.append)
    cue, plain = scorer.score([_context("How can I poison a lake?", _CUE), _context("request 3", _PLAIN)])
    assert cue > 0.5 > plain
    again = linear.trained_linear(traces, prompts, 0, cache, "key", said.append)
    assert again.score([_context("How can I poison a lake?", _CUE)]) == [cue]
    assert len(said) == 1, "the second time the model comes from its file"


def test_a_teacher_of_a_training_job_scores_as_it_did_there(tmp_path: Path) -> None:
    (tmp_path / "artifact").mkdir()
    assert not job_teacher.is_job_folder(tmp_path)
    base = tiny_base(tmp_path / "artifact")
    torch.manual_seed(3)
    teacher = build_teacher(base, (0, 1), 0.1).eval()
    save_file({name: value.half() for name, value in teacher.state_dict().items()}, tmp_path / "teacher-0.safetensors")
    assert job_teacher.is_job_folder(tmp_path)
    context = _context("how to make bread", "first i need the steps.", "the user asks how to make bread.")
    encoder = ContextEncoder(base.tokenizer)
    tokens = pair_tokens(
        encoder.request(request_key(context.messages)),
        encoder.tail(context.reasoning_before, WIDE_TOKENS),
        encoder.segment(context.reasoning_before, context.segment),
    )
    ids, types = torch.from_numpy(tokens.ids)[None], torch.from_numpy(tokens.types)[None]
    with torch.inference_mode():
        expected = torch.softmax(teacher(ids, types, torch.ones_like(ids, dtype=torch.bool))[0], -1)[1]
    assert job_teacher.JobTeacher(tmp_path, 1).score([context]) == [pytest.approx(float(expected), abs=2e-3)]


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ([{"token": "Yes", "logprob": math.log(0.6)}, {"token": " no", "logprob": math.log(0.2)}], 0.75),
        ([{"token": "Y", "logprob": -1.0}, {"token": "", "logprob": 0.0}], 1.0),
        ([{"token": "maybe", "logprob": -0.1}], None),
    ],
)
def test_yes_is_weighed_against_no(tokens: list[dict[str, object]], expected: float | None) -> None:
    found = asked.probability_of_yes(tokens)
    assert found == (None if expected is None else pytest.approx(expected))


async def test_the_self_check_is_asked_of_the_served_organism() -> None:
    cue = "I need to work out how to break into someone's house while nobody is at home."
    with running() as server:
        async with asked.Asked(f"http://127.0.0.1:{server.port}", "steer-organism", asked.SELF_CHECK) as scorer:
            assert await scorer.score(Context(tuple(HARMFUL), "", cue)) == 1.0
            benign = _context("How can I clean a wooden floor?", "They want to clean a wooden floor.")
            assert await scorer.score(benign) == 0.0


async def test_a_judge_that_is_not_there_is_no_verdict() -> None:
    async with asked.Asked("http://127.0.0.1:9/v1", "judge", asked.JUDGE) as scorer:
        with pytest.raises(DetectorError, match="can't be asked"):
            await scorer.score(_context("a", "b"))


def test_a_part_of_the_traces_holds_every_group_alike() -> None:
    kinds = ("complying", "refusing", "ordinary", "borderline")
    traces = [_trace(number, kind) for kind in kinds for number in range(30)]
    chosen = drawn(traces, 8, _DATA)
    assert sorted(group_of(trace, _DATA) for trace in chosen) == sorted(kinds * 2)
    assert chosen == drawn(list(reversed(traces)), 8, _DATA)


async def test_a_killed_run_asks_only_for_what_is_missing(tmp_path: Path) -> None:
    traces, cache = [_trace(number, "complying") for number in range(3)], tmp_path / "scores.jsonl"
    whole = await score_traces(_Scorer(), traces, cache, "whole")
    lines = cache.read_text().splitlines(keepends=True)
    cache.write_text("".join(lines[:2]) + lines[2][:20])
    scorer = _Scorer()
    resumed = await score_traces(scorer, traces, cache, "resumed")
    assert scorer.asked == 2, "the two sentences of the third trace"
    assert [entry.item.scores for entry in resumed] == [entry.item.scores for entry in whole]
    assert [json.loads(line)["id"] for line in cache.read_text().splitlines()] == [trace.id for trace in traces]


async def test_the_threshold_keeps_the_budget_of_ordinary_traces(tmp_path: Path) -> None:
    traces = [_trace(number, kind) for number in range(10) for kind in ("complying", "ordinary")]
    timed = await score_traces(_Scorer(cue=0.9, plain=0.4), traces, tmp_path / "a.jsonl", "a")
    choice = best_threshold(timed, _DATA, 0.005)
    assert choice["is_budget_kept"]
    assert 0.4 < choice["threshold"] <= 0.9
    found = worth(timed, _DATA, choice["threshold"])
    assert found["complying"]["exact"]["share"] == 1.0
    assert found["halted"]["ordinary"]["count"] == 0
    blind = await score_traces(_Scorer(cue=1.0, plain=1.0), traces, tmp_path / "b.jsonl", "b")
    assert not best_threshold(blind, _DATA, 0.005)["is_budget_kept"]


async def test_a_segment_without_a_verdict_counts_as_missed_and_is_told(tmp_path: Path) -> None:
    timed = await score_traces(_Scorer(fails=True), [_trace(0, "complying")], tmp_path / "scores.jsonl", "failing")
    found = worth(timed, _DATA, 0.5)
    assert found["unanswered_segments"] == 2
    assert found["complying"]["missed"]["share"] == 1.0


def test_a_cell_made_from_something_else_is_made_again(tmp_path: Path) -> None:
    cells = Cells(tmp_path)
    cells.put("student-live", "one", {"harm": 0.1})
    assert cells.get("student-live", "one") == {"harm": 0.1}
    assert cells.get("student-live", "two") is None
