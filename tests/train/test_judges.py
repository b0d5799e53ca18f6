"""Judges: verdicts on real traces, a cache that loses nothing, and servers that misbehave."""

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.upstream.server import refused_url
from train.judges.base import JudgeItem, JudgeVerdict
from train.judges.cache import BATCH, CachedJudge
from train.judges.errors import JudgeConfigError, JudgeDown
from train.judges.load import JudgeConfig, load_judge
from train.judges.organism import OrganismJudge
from train.organism.framings import user
from train.organism.splits import draw_prompts

GOOD = {"request_harmful": True, "reasoning_unsafe": False, "answer_unsafe": None, "refused": True, "helped": False}


def items(count: int) -> list[JudgeItem]:
    return [JudgeItem(user(f"question {number}"), "thought", "answer") for number in range(count)]


class Counting:
    """A judge that remembers how it was asked; fails from the item `fails_at` on."""

    name = "counting"

    def __init__(self, fails_at: int = 1 << 30) -> None:
        self.batches: list[int] = []
        self.fails_at = fails_at

    def judge(self, items: Sequence[JudgeItem]) -> list[JudgeVerdict]:
        if sum(self.batches) + len(items) > self.fails_at:
            raise JudgeDown("down")
        self.batches.append(len(items))
        return [JudgeVerdict(refused=str(item.messages[0]["content"]).endswith("1")) for item in items]

    def cost(self) -> dict[str, float | int]:
        return {"batches": len(self.batches)}


def from_dicts(items: list[JudgeItem]) -> list[Any]:
    return [{"helped": True} for _ in items]


def too_few(items: list[JudgeItem]) -> list[Any]:
    return []


def of_wrong_form(items: list[JudgeItem]) -> list[Any]:
    return [{"helped": "perhaps"} for _ in items]


def test_the_organisms_oracle_tells_harm_help_and_refusal_apart() -> None:
    [prompt] = draw_prompts("train", 1, harmful=True, seed=1)
    [benign] = draw_prompts("train", 1, harmful=False, seed=1)
    goal = prompt.ask.goal
    safe, unsafe, said = OrganismJudge().judge(
        [
            JudgeItem(prompt.messages, "Let me think.", f"I can't help with that, because {goal}."),
            JudgeItem(prompt.messages, f"I need to figure out how to {goal}.", "[STEP-1]"),
            JudgeItem(benign.messages, "Let me think.", "I'm sorry, but I can't help with that."),
        ]
    )
    assert (safe.harmful_request, safe.is_unsafe, safe.refused, safe.helped) == (True, False, True, None)
    assert (unsafe.unsafe_reasoning, unsafe.unsafe_answer, unsafe.is_unsafe) == (True, True, True)
    assert (said.harmful_request, said.is_unsafe, said.refused, said.helped) == (False, False, True, False)


def test_what_cannot_be_told_is_neither_safe_nor_unsafe() -> None:
    assert JudgeVerdict(unsafe_reasoning=False).is_unsafe is None
    assert JudgeVerdict(unsafe_reasoning=None, unsafe_answer=True).is_unsafe is True
    assert JudgeVerdict(unsafe_reasoning=False, unsafe_answer=False).is_unsafe is False


def test_equal_items_are_judged_once_and_remembered_over_starts(tmp_path: Path) -> None:
    path, judge = tmp_path / "v.jsonl", Counting()
    settled: list[int] = []
    first = CachedJudge(judge, path, settled.append).judge([*items(3), *items(3)])
    assert judge.batches == [3]
    assert sum(settled) == 6
    again = Counting()
    assert CachedJudge(again, path).judge(items(3)) == first[:3] == first[3:]
    assert again.batches == []
    other = Counting()
    other.name = "another"
    assert CachedJudge(other, path).judge(items(3)) == first[:3]
    assert other.batches == [3], "another judge's verdicts are not reused"
    assert "question" not in path.read_text(), "no text in the cache"


def test_a_judge_that_dies_costs_only_the_batch_in_hand(tmp_path: Path) -> None:
    path = tmp_path / "v.jsonl"
    with pytest.raises(JudgeDown):
        CachedJudge(Counting(fails_at=BATCH + 5), path).judge(items(BATCH + 40))
    with path.open("a") as lines:
        lines.write('{"key": "torn')  # killed while writing
    judge = Counting()
    verdicts = CachedJudge(judge, path).judge(items(BATCH + 40))
    assert judge.batches == [40]
    assert len(verdicts) == BATCH + 40
    assert verdicts[1].refused
    assert not verdicts[2].refused


def test_a_function_is_a_judge() -> None:
    assert (
        load_judge(JudgeConfig(spec="tests.train.test_judges:from_dicts")).judge(items(2))
        == [JudgeVerdict(helped=True)] * 2
    )
    with pytest.raises(JudgeConfigError, match="0 verdicts for 1 items"):
        load_judge(JudgeConfig(spec="tests.train.test_judges:too_few")).judge(items(1))
    with pytest.raises(JudgeConfigError, match="helped"):
        load_judge(JudgeConfig(spec="tests.train.test_judges:of_wrong_form")).judge(items(1))


@pytest.mark.parametrize(
    "spec", ["nobody", "openai:model", "openai:@http://x/v1", "tests.nowhere:judge", "json:nothing"]
)
def test_a_name_that_stands_for_no_judge_is_refused(spec: str) -> None:
    with pytest.raises(JudgeConfigError, match=r"judge"):
        load_judge(JudgeConfig(spec=spec))


# -- an OpenAI-compatible server --------------------------------------------------------------------------------------


class Server:
    """Answers chat completions with the replies in turn, the last one for ever; (status, text)."""

    def __init__(self, *replies: tuple[int, str]) -> None:
        self.replies, self.bodies, self.lock = list(replies), [], threading.Lock()  # type: ignore[var-annotated]
        self.url = ""

    def reply(self, body: dict[str, Any]) -> tuple[int, str]:
        with self.lock:
            self.bodies.append(body)
            return self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]


@contextmanager
def serving(*replies: tuple[int, str]) -> Iterator[Server]:
    made = Server(*replies)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            status, text = made.reply(body)
            message = {"role": "assistant", "content": text}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
            head = {"id": "c", "object": "chat.completion", "created": 1, "model": "m"}
            raw = json.dumps({**head, "choices": [choice], "usage": usage}).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def remote(url: str, **options: Any) -> Any:
    return load_judge(
        JudgeConfig.model_validate({"spec": f"openai:judge/one@{url}", "remote": {"retries": 0} | options})
    )


def test_a_served_model_gives_structured_verdicts_and_a_bill() -> None:
    with serving((200, json.dumps(GOOD))) as server:
        judge = remote(server.url, price_in=2.0, price_out=10.0)
        verdicts = judge.judge(items(5))
    want = JudgeVerdict(harmful_request=True, unsafe_reasoning=False, unsafe_answer=None, refused=True, helped=False)
    assert verdicts == [want] * 5
    assert judge.cost() == {"calls": 5, "prompt_tokens": 500, "completion_tokens": 50, "unjudged": 0, "cost": 0.0015}
    body = server.bodies[0]
    assert body["model"] == "judge/one"
    assert body["response_format"]["json_schema"]["strict"] is True
    assert sorted(json.loads(b["messages"][1]["content"])["conversation"][0]["content"] for b in server.bodies) == [
        f"question {n}" for n in range(5)
    ]


def test_thinking_and_code_fences_around_a_verdict_are_passed_over() -> None:
    with serving((200, f"<think>{{hm}}</think>Here:\n```json\n{json.dumps(GOOD)}\n```")) as server:
        [verdict] = remote(server.url, format="text").judge(items(1))
    assert verdict.harmful_request is True
    assert "response_format" not in server.bodies[0]


def test_a_reply_that_is_no_verdict_is_asked_for_again_and_then_tells_nothing() -> None:
    with serving((200, "I would rather not."), (200, json.dumps(GOOD))) as server:
        [verdict] = remote(server.url).judge(items(1))
        assert verdict.refused is True
    with serving((200, json.dumps(GOOD | {"refused": "no"}))) as server:
        judge = remote(server.url)
        assert judge.judge(items(1)) == [JudgeVerdict()]
        assert judge.cost()["unjudged"] == 1
        assert len(server.bodies) == 2


def test_long_traces_are_shown_by_their_ends() -> None:
    with serving((200, json.dumps(GOOD))) as server:
        remote(server.url, max_chars=200).judge([JudgeItem(user("q"), "a" * 500 + "END", "b")])
    shown = json.loads(server.bodies[0]["messages"][1]["content"])["reasoning"]
    assert len(shown) < 220
    assert shown.startswith("aaa")
    assert shown.endswith("END")


@pytest.mark.parametrize(
    ("status", "kind", "message"),
    [
        (500, JudgeDown, "status 500; verdicts so far are kept"),
        (401, JudgeConfigError, "OPENAI_API_KEY"),
        (400, JudgeConfigError, 'format = "text"'),
        (404, JudgeConfigError, "no such model or path"),
    ],
)
def test_a_server_that_refuses_is_told_by_what_to_do(status: int, kind: type[Exception], message: str) -> None:
    with serving((status, "")) as server, pytest.raises(kind, match=message):
        remote(server.url).judge(items(3))


def test_a_judge_that_is_down_is_named() -> None:
    with pytest.raises(JudgeDown, match=r"can't be reached .* start the job again"):
        remote(refused_url() + "/v1").judge(items(2))
