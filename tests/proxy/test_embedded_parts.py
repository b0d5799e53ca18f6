"""Parts of the embedded server without HTTP: sampling, text streams, model files."""

from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
from starlette.requests import Request
from tokenizers import Tokenizer

from proxy.embedded.engine import Engine
from proxy.embedded.errors import EngineFailed, ModelFilesError
from proxy.embedded.model import DEFAULT_FOLDER, Model
from proxy.embedded.respond import EventStream, until_disconnect
from proxy.embedded.sampling import SamplingParams, TokenPicker
from proxy.embedded.textstream import ChatSplitter, TextStream


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(DEFAULT_FOLDER / "tokenizer.json"))


def _draws(params: SamplingParams, logits: list[float], count: int = 4000) -> dict[int, float]:
    picker = TokenPicker(params)
    drawn = [picker.pick(np.array(logits, np.float32)) for _ in range(count)]
    return {id: drawn.count(id) / count for id in set(drawn)}


def test_samples_follow_the_distribution_at_the_temperature() -> None:
    logits = [0.0, 1.0, 2.0]
    shares = _draws(SamplingParams(1, temperature=2.0, seed=3), logits)
    wanted = np.exp(np.array(logits) / 2)
    wanted /= wanted.sum()
    assert [shares[i] for i in range(3)] == pytest.approx(wanted.tolist(), abs=0.03)


def test_temperature_zero_takes_the_likeliest() -> None:
    assert _draws(SamplingParams(1, temperature=0), [0.1, 0.3, 0.2], 20) == {1: 1.0}


def test_top_p_keeps_the_smallest_set_that_reaches_it() -> None:
    assert set(_draws(SamplingParams(1, top_p=0.7, seed=1), [np.log(0.5), np.log(0.3), np.log(0.2)])) == {0, 1}
    assert set(_draws(SamplingParams(1, top_p=0.01, seed=1), [0.0, 5.0, 1.0])) == {1}


def test_top_k_keeps_k_tokens() -> None:
    assert set(_draws(SamplingParams(1, top_k=2, seed=1), [0.0, 0.1, 0.2, 0.05])) == {1, 2}


def test_a_character_of_several_tokens_appears_once_it_is_whole(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("🙂 語").ids
    stream = TextStream(tokenizer, stop=(), skip_special_tokens=False)
    texts = [stream.push(id, None).text for id in ids]
    assert "".join(texts) == "🙂 語"
    assert "\ufffd" not in "".join(texts)


def test_text_that_may_begin_a_stop_string_is_held_until_it_is_clear(tokenizer: Tokenizer) -> None:
    stream = TextStream(tokenizer, stop=("one two three",), skip_special_tokens=False)
    deltas = [stream.push(id, None) for id in tokenizer.encode("zero one two").ids]
    deltas += [stream.push(id, None) for id in tokenizer.encode(" four").ids]
    shown = [delta.text for delta in deltas]
    assert "".join(shown) == "zero one two four"
    assert not any(text.endswith("one two") for text in shown)


def test_markers_in_plain_text_are_no_markers(tokenizer: Tokenizer) -> None:
    """Only the token ends the reasoning; letters that spell it do not."""
    pieces = tokenizer.encode("a </thi").ids + tokenizer.encode("nk> b").ids
    end = tokenizer.encode("</think>").ids[0]
    stream = TextStream(tokenizer, stop=(), skip_special_tokens=False)
    splitter = ChatSplitter(tokenizer, is_thinking=True, has_tools=False)
    deltas = [splitter.sort(stream.push(id, None)) for id in [*pieces, end, *tokenizer.encode("c").ids]]
    assert "".join(d.reasoning for d in deltas) == "a </think> b"
    assert "".join(d.content for d in deltas) == "c"


def test_a_broken_tool_call_is_shown_as_text(tokenizer: Tokenizer) -> None:
    stream = TextStream(tokenizer, stop=(), skip_special_tokens=False)
    splitter = ChatSplitter(tokenizer, is_thinking=False, has_tools=True)
    ids = tokenizer.encode("<tool_call>\n{no json}\n</tool_call>").ids
    deltas = [splitter.sort(stream.push(id, None)) for id in ids]
    assert "".join(d.content for d in deltas) == "<tool_call>\n{no json}\n</tool_call>"
    assert not any(d.calls for d in deltas)


def test_a_folder_without_a_model_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ModelFilesError, match=r"has no config\.json"):
        Model(tmp_path)


def test_a_broken_graph_is_refused_by_name(tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (tmp_path / name).write_bytes((DEFAULT_FOLDER / name).read_bytes())
    (tmp_path / "model.onnx").write_bytes(b"broken")
    with pytest.raises(ModelFilesError, match=r"model\.onnx cannot be loaded"):
        Model(tmp_path)


def test_the_shipped_weights_stay_within_their_budget() -> None:
    assert sum(path.stat().st_size for path in DEFAULT_FOLDER.iterdir()) <= 12 << 20


class _Failing(Model):
    """A real model whose steps fail on demand."""

    fails = False

    def step(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        if self.fails:
            raise RuntimeError("out of memory")
        return super().step(*args, **kwargs)


async def test_a_failed_step_ends_its_streams_with_an_error_and_the_engine_goes_on() -> None:
    model = _Failing()
    engine = Engine(model, slots=2)
    engine.start()
    params = SamplingParams(50, temperature=0)
    try:
        tokens = engine.generate([1, 2, 3], params)
        await anext(tokens)
        model.fails = True
        with pytest.raises(EngineFailed, match="out of memory"):
            async for _ in tokens:
                pass
        with pytest.raises(EngineFailed, match="could not be processed"):
            await anext(engine.generate([1, 2, 3], params))
        model.fails = False
        assert (await anext(engine.generate([1, 2, 3], params))).finish_reason is None
    finally:
        engine.close()


async def test_a_failure_reaches_clients_as_an_error_body_and_as_an_error_frame() -> None:
    failed = EngineFailed("a decoding step failed")
    sent: list[Any] = []

    async def produce(emit: Any) -> None:
        await emit({"a": 1})
        raise failed

    async def receive() -> Any:
        await anyio.sleep_forever()

    async def send(message: Any) -> None:
        sent.append(message)

    async def body() -> dict[str, Any]:
        raise failed

    await EventStream(produce)({"type": "http"}, receive, send)
    frames = [message["body"] for message in sent if "body" in message]
    assert frames[0] == b'data: {"a":1}\n\n'
    assert b"a decoding step failed" in frames[1]
    assert frames[2] == b"data: [DONE]\n\n"
    response = await until_disconnect(Request({"type": "http"}, receive), body())
    assert response.status_code == 500
    assert b"a decoding step failed" in bytes(response.body)
