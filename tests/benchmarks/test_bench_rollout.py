"""The rollout benchmark's parts: a checkpoint of noise, a schedule of cuts, and a plain client that asks the same."""

from pathlib import Path

import anyio

from benchmarks.rollout.dummy import VOCABULARY, make
from benchmarks.rollout.plain import Style, generate
from benchmarks.rollout.steered import Clocks, ScriptedDetector
from detector.context import Context
from steer.segmenter import Segmenter
from tests.train.scripted_engine import TableDetector
from tests.upstream import Script
from tests.upstream.server import running
from tests.upstream.tokens import encode
from train.rollout.vocabulary import ThinkMarkers, load_vocabulary


def test_a_checkpoint_of_noise_has_think_markers_and_text_for_every_id(tmp_path: Path) -> None:
    vocabulary = load_vocabulary(str(make(tmp_path, "tiny")), ThinkMarkers())
    prompt = vocabulary.prompt_ids([{"role": "user", "content": "Hello"}])
    assert vocabulary.opening(prompt, None) == "reasoning"
    assert vocabulary.decode(prompt).endswith("<think>\n")
    texts = vocabulary.texts(prompt, range(4000, VOCABULARY, 37))
    assert all(texts)
    segmenter = Segmenter()
    assert 10 < len(texts) / len(segmenter.push("".join(texts))) < 30


def test_scripted_cuts_take_their_share_and_ask_the_real_detector_all_the_same() -> None:
    asked: list[str] = []
    clocks = Clocks()
    contexts = [Context((), "before", f"segment {number}") for number in range(1000)]

    def real(text: str) -> float:
        asked.append(text)
        return 0.3

    scores = ScriptedDetector(TableDetector(real), 0.2, clocks).score(contexts)
    assert set(scores) == {0.0, 1.0}
    assert 150 < sum(score == 1.0 for score in scores) < 250
    assert (len(asked), clocks.verdicts) == (1000, 1000)
    assert ScriptedDetector(TableDetector(real), None, clocks).score(contexts[:2]) == [0.3, 0.3]


def test_a_plain_client_asks_for_exactly_the_tokens_that_the_steered_side_had() -> None:
    legs = [(encode(f"prompt {number}"), 3 + number) for number in range(5)]
    with running(Script(continuation=lambda _: " and so on" * 50)) as upstream:
        made = anyio.run(generate, upstream.url, "scripted", legs, Style(2, is_seeded=True), 1.0)
        bodies = [generation.body for generation in upstream.generations]
    assert made["decoded_tokens"] == sum(count for _, count in legs)
    assert sorted((body["prompt"], body["max_tokens"]) for body in bodies) == sorted(legs)
    assert all(body["ignore_eos"] for body in bodies)
    assert sorted(body["seed"] for body in bodies) == [0, 1, 2, 3, 4]
