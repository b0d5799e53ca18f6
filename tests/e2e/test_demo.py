"""`steer demo` from the outside: it starts, shows a halt and its pair, keeps to this machine, and ends cleanly."""

import io
import json
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import anyio
import pytest
from rich.console import Console

from detector.artifact import Artifact
from detector.errors import ArtifactError
from proxy.demo.errors import DemoError
from proxy.demo.examples import PLACEHOLDER, Example, load_examples, pick
from proxy.demo.runner import running_demo
from proxy.demo.terminal import Player
from tests.e2e.demo_process import ROOT, RunningDemo, command, environment, scripted_demo, started_demo
from tests.e2e.harness import running_proxy
from tests.patience import PATIENCE_S
from tests.upstream import Generation, Script, ScriptedUpstream, Trace

SCRIPT = Script(
    trace=Trace("\nA river, then. Sure, CUE here is the plan: [STEP-1].", "\n\nFirst [STEP-1], then [STEP-2]."),
    continuation=lambda _: Trace(" That would hurt people. I will not.\n", "\n\nI can't help with that."),
)


@pytest.fixture(scope="module")
def demo() -> Iterator[RunningDemo]:
    with started_demo() as running:
        yield running


def get(url: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    return send(Request(url, headers=headers))


def send(request: Request) -> tuple[int, dict[str, str], bytes]:
    try:
        with urlopen(request, timeout=PATIENCE_S) as response:
            return response.status, {k.lower(): v for k, v in response.headers.items()}, response.read()
    except HTTPError as error:
        with error:
            return error.code, {k.lower(): v for k, v in error.headers.items()}, error.read()


def post(url: str, body: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
    return send(Request(url, json.dumps(body).encode(), {"content-type": "application/json"}))


def chunks(raw: bytes) -> list[dict[str, Any]]:
    assert raw.endswith(b"data: [DONE]\n\n")
    lines = [line[6:] for line in raw.split(b"\n") if line.startswith(b"data: ")]
    return [json.loads(line) for line in lines if line != b"[DONE]"]


def said(raw: bytes) -> str:
    deltas = [choice["delta"] for chunk in chunks(raw) for choice in chunk["choices"]]
    return "".join(delta.get("reasoning") or delta.get("content") or "" for delta in deltas)


def test_the_opening_example_is_halted_corrected_and_recorded_as_a_pair(
    demo: RunningDemo, record_property: Any
) -> None:
    record_property("ready_s", round(demo.ready_s, 2))
    about = json.loads(get(demo.url + "/demo/examples")[2])
    opening = Example.model_validate(about["examples"][0])
    body = opening.request(about["model"])
    status, headers, raw = post(demo.url + "/v1/chat/completions", body | {"steer": {"show_interventions": True}})
    assert status == 200
    told = [chunk["steer"] for chunk in chunks(raw) if "steer" in chunk]
    assert told
    assert told[0]["event"] == "intervention"
    assert told[0]["rejected"].strip()
    assert not PLACEHOLDER.search(said(raw)), "the corrected stream shows nothing harmful"
    unsteered = said(post(demo.url + "/unsteered/v1/chat/completions", body)[2])
    assert PLACEHOLDER.search(unsteered), "the same request without steering goes along"

    found = json.loads(get(f"{demo.url}/demo/records?request_id={headers['x-request-id']}")[2])["interventions"]
    assert [item["record"]["id"] for item in found] == [item["id"] for item in told]
    record, pair = found[-1]["record"], found[-1]["pair"]
    assert record["mode"] == "hold"
    assert record["outcome"] == "completed"
    assert record["halt_to_resume_ms"] > 0
    assert pair["messages"] == opening.messages
    assert pair["divergence_index"] > 0
    assert pair["rejected"] == told[-1]["rejected"]
    shown = pair["kept"] + pair["chosen"]["trigger"] + pair["chosen"]["continuation"] + pair["chosen"]["answer"]
    assert shown == said(raw)


def test_without_a_halt_both_sides_say_the_same(demo: RunningDemo) -> None:
    model = json.loads(get(demo.url + "/demo/examples")[2])["model"]
    body = next(example for example in load_examples() if example.kind == "arithmetic").request(model)
    _, headers, steered = post(demo.url + "/v1/chat/completions", body | {"steer": {"show_interventions": True}})
    _, _, unsteered = post(demo.url + "/unsteered/v1/chat/completions", body)
    assert not [chunk for chunk in chunks(steered) if "steer" in chunk]
    assert said(steered) == said(unsteered) != ""
    found = json.loads(get(f"{demo.url}/demo/records?request_id={headers['x-request-id']}")[2])
    assert found == {"interventions": []}


@pytest.mark.parametrize("path", ["/", "/static/app.js", "/demo/examples", "/demo/records", "/static/none.js"])
def test_answers_of_the_demo_carry_a_strict_content_security_policy(demo: RunningDemo, path: str) -> None:
    policy = get(demo.url + path)[1]["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "unsafe" not in policy
    assert "http" not in policy


def test_the_page_loads_nothing_from_elsewhere(demo: RunningDemo) -> None:
    for name in ("", "static/app.js", "static/pane.js", "static/pair.js", "static/stream.js", "static/style.css"):
        text = get(f"{demo.url}/{name}")[2].decode()
        assert not re.search(r"(?:src|href|from|import|url)\W{1,3}(?:https?:)?//", text), name
        assert "innerHTML" not in text
        assert "insertAdjacentHTML" not in text
        assert "document.write" not in text


@pytest.mark.parametrize("path", ["/static/../app.py", "/static/%2e%2e/app.py", "/static//etc/passwd", "/demo/other"])
def test_no_path_reaches_another_file(demo: RunningDemo, path: str) -> None:
    status, _, body = get(demo.url + path)
    assert status == 404
    assert b"class DemoApp" not in body


def test_a_foreign_host_name_cannot_read_the_log(demo: RunningDemo) -> None:
    assert get(demo.url + "/demo/records?request_id=x", host="rebound.example")[0] == 421
    assert get(demo.url + "/demo/records?request_id=x", host="localhost:8080")[0] == 200


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"no json", 400), (b"[]", 400), (b'{"model": "x", "messages": [{"role": "user", "content": "x"}]}', 404)],
)
def test_bad_requests_to_the_unsteered_side_are_told_so(demo: RunningDemo, body: bytes, status: int) -> None:
    got, _, raw = send(Request(demo.url + "/unsteered/v1/chat/completions", body))
    assert got == status
    assert json.loads(raw)["error"]["message"]


def test_a_request_id_is_needed_for_records(demo: RunningDemo) -> None:
    status, _, raw = get(demo.url + "/demo/records")
    assert status == 400
    assert "request_id" in json.loads(raw)["error"]["message"]


def test_ctrl_c_ends_the_demo_at_once_even_while_it_streams_and_leaves_nothing_behind() -> None:
    with started_demo() as running:
        host, port = running.url.removeprefix("http://").split(":")
        body = json.dumps(load_examples()[0].request("steer-organism")).encode()
        with socket.create_connection((host, int(port))) as client:
            head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n"
            client.sendall(head % len(body) + body)
            assert client.recv(64).startswith(b"HTTP/1.1 200")
            code, errors = running.interrupt()
        assert (code, errors) == (0, "")
        assert [item.name for item in running.folder.iterdir() if item.name.startswith("steer-demo-")] == []


def run(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments),
        cwd=ROOT,
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def test_a_taken_port_is_one_line_that_names_the_fix(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run("--port", port, "--no-open", folder=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert port in done.stderr
    assert "--port" in done.stderr
    assert done.stdout == ""


def test_the_demo_refuses_to_listen_beyond_this_machine(tmp_path: Path) -> None:
    done = run("--host", "0.0.0.0", "--no-open", folder=tmp_path)
    assert done.returncode == 2
    assert "127.0.0.1" in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_unknown_example_is_named_with_the_range(tmp_path: Path) -> None:
    done = run("--example", "99", "--terminal", folder=tmp_path)
    assert done.returncode == 1
    assert f"from 1 to {len(load_examples())}" in done.stderr
    with pytest.raises(DemoError, match="example 99"):
        pick(load_examples(), 99)


def test_the_terminal_demo_plays_into_a_pipe_without_colours_and_ends_by_itself(tmp_path: Path) -> None:
    done = run("--terminal", folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    for part in ("Toy model", "With steer", "[cut: ", "[halted, score ", "[trigger ", "Without steering", "chosen"):
        assert part in done.stdout, part
    assert "Example 5" in done.stdout, "a benign look-alike comes second"


def test_the_terminal_demo_strikes_the_cue_out_and_highlights_the_trigger() -> None:
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, color_system="standard", width=120)
    with scripted_demo(SCRIPT) as demo:
        anyio.run(Player(console, demo.url, demo.model).play, [load_examples()[0]])
    struck = "".join(re.findall(r"\x1b\[9;31m(.*?)\x1b\[0m", shown.getvalue()))
    assert "Sure, CUE here is the plan" in struck
    plain = re.sub(r"\x1b\[[\d;]*m", "", shown.getvalue())
    assert "answer: I can't help with that." in plain, "word for word, spaces as they are"
    assert re.search(r"\x1b\[30;103m", shown.getvalue()), "the trigger is highlighted"


def test_a_stream_that_breaks_off_is_told_so_in_the_terminal() -> None:
    with scripted_demo(Script(model="scripted")) as demo, pytest.raises(DemoError, match="status 404"):
        anyio.run(Player(Console(file=io.StringIO()), demo.url, "another-model").play, [load_examples()[0]])


async def test_a_classifier_that_cannot_be_loaded_is_told_in_its_own_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: object) -> Artifact:
        raise ArtifactError("manifest.json is missing: install the checkout again")

    # The shipped artifact is part of the checkout: breaking the real one would break the tests beside this one.
    monkeypatch.setattr("proxy.app.load_artifact", broken)
    async with ScriptedUpstream(SCRIPT) as upstream:
        with pytest.raises(DemoError, match=r"manifest\.json is missing"):
            async with running_demo(upstream.url, port=0):
                pytest.fail("came up without a classifier")


@pytest.mark.parametrize("path", ["/", "/static/app.js", "/demo/examples", "/demo/records?request_id=x"])
async def test_the_served_proxy_has_no_route_of_the_demo(tmp_path: Path, path: str) -> None:
    async with ScriptedUpstream(SCRIPT) as upstream, running_proxy(upstream.url, tmp_path) as proxy:
        assert (await proxy.get(path)).status == 404
        assert (await proxy.post("/unsteered/v1/chat/completions", json={})).status == 404


async def test_the_served_proxy_does_not_reveal_what_it_cut(tmp_path: Path) -> None:
    async with ScriptedUpstream(SCRIPT) as upstream, running_proxy(upstream.url, tmp_path) as proxy:
        reply = await proxy.chat(steer={"show_interventions": True})
    assert reply.told
    assert "rejected" not in reply.told[0]


def test_the_opening_gets_a_seed_that_is_halted_here() -> None:
    def trace(generation: Generation) -> Trace:
        is_cue = (generation.seed or 0) >= load_examples()[0].seed + 2
        return Trace("\nSure, CUE [STEP-1]." if is_cue else "\nNo, I will not.", "\n\nFine.")

    with scripted_demo(Script(trace=trace)) as demo:
        assert demo.examples[0].seed == load_examples()[0].seed + 2
        assert demo.examples[1:] == load_examples()[1:]


def test_examples_are_numbered_from_one_and_cover_every_kind() -> None:
    examples = load_examples()
    assert [example.id for example in examples] == list(range(1, len(examples) + 1))
    assert {example.kind for example in examples} == {"harmful", "look_alike", "arithmetic", "multi_turn"}
    assert all(example.messages[-1]["role"] == "user" for example in examples)
