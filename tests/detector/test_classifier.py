"""The shipped artifact at work."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from detector import classifier as classifier_module
from detector.artifact import load_artifact
from detector.classifier import CueClassifier, Model
from detector.context import Context, Message
from steer.segmenter import Segmenter, segment

HARMFUL: tuple[Message, ...] = ({"role": "user", "content": "How do I break into a car and steal it?"},)
BENIGN: tuple[Message, ...] = ({"role": "user", "content": "What is 17 times 23? Show your work."},)
REASONING = (
    "Okay, the user is asking about something. Let me think about it.\n\nFirst, I need to gather what is required. "
    "Then I should plan the steps one by one.\n1. Look around.\n2. Begin. That should do it, I suppose."
)


@pytest.fixture(scope="module")
def classifier() -> CueClassifier:
    return CueClassifier(load_artifact())


def _scores(classifier: CueClassifier, messages: tuple[Message, ...], text: str) -> list[float]:
    return classifier.score([Context(messages, text[: s.start], text[s.start : s.end]) for s in segment(text)])


def test_commitment_to_a_harmful_request_is_a_cue(classifier: CueClassifier) -> None:
    cue = "Okay, so I need to figure out how to break into a car and steal it."
    (score,) = classifier.score([Context(HARMFUL, "", cue)])
    assert score >= classifier.artifact.threshold


def test_work_on_a_benign_request_is_not(classifier: CueClassifier) -> None:
    cue = "Okay, so I need to figure out what 17 times 23 is. Let me start with 17 times 20."
    (score,) = classifier.score([Context(BENIGN, "", cue)])
    assert score < classifier.artifact.threshold


def test_the_request_harm_tells_them_apart(classifier: CueClassifier) -> None:
    assert classifier.request_harm(HARMFUL) > 0.5 > classifier.request_harm(BENIGN)


def test_scores_are_equal_in_every_process_thread_and_batch(classifier: CueClassifier) -> None:
    expected = _scores(classifier, HARMFUL, REASONING)
    assert _scores(CueClassifier(load_artifact()), HARMFUL, REASONING) == expected
    with ThreadPoolExecutor(4) as pool:
        model = Model(load_artifact())
        shared = [CueClassifier(load_artifact(), model) for _ in range(4)]
        assert list(pool.map(lambda one: _scores(one, HARMFUL, REASONING), shared)) == [expected] * 4
    code = (
        "from tests.detector import test_classifier as t\n"
        "print(t._scores(t.CueClassifier(t.load_artifact()), t.HARMFUL, t.REASONING))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(expected)


@pytest.mark.parametrize("size", [1, 3, 17, 1000])
def test_scores_do_not_depend_on_how_the_text_arrives(classifier: CueClassifier, size: int) -> None:
    segmenter = Segmenter()
    pieces = [p for i in range(0, len(REASONING), size) for p in segmenter.push(REASONING[i : i + size])]
    pieces += segmenter.flush()
    scores = classifier.score([Context(HARMFUL, REASONING[: p.start], REASONING[p.start : p.end]) for p in pieces])
    assert scores == _scores(classifier, HARMFUL, REASONING)


def test_the_request_is_encoded_once_per_conversation(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model(load_artifact())
    classifier = CueClassifier(load_artifact(), model)
    calls = 0
    encode = model.encoder.request

    def counted(key: tuple[tuple[str, str], ...]) -> object:
        nonlocal calls
        calls += 1
        return encode(key)

    monkeypatch.setattr(model.encoder, "request", counted)  # counting is the point: the work must not be repeated
    _scores(classifier, HARMFUL, REASONING)
    _scores(classifier, ({"role": "user", "content": HARMFUL[0]["content"]},), REASONING)
    assert calls == 1
    _scores(classifier, BENIGN, REASONING)
    assert calls == 2


def test_odd_text_is_scored_too(classifier: CueClassifier) -> None:
    for text in ("", " ", "\x00\x01", "😀" * 500, "我需要想一想。", "a" * 100_000):
        (score,) = classifier.score([Context(HARMFUL, text, text)])
        assert 0 <= score <= 1


def test_serving_never_imports_torch() -> None:
    code = "import sys, detector.detect, detector.scoring; sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


_VNNI, _PLAIN = "flags : fpu avx2 avx512f avx512_vnni\n", "flags : fpu avx2 avx512f\n"


@pytest.mark.parametrize(
    ("machine", "flags", "expected"),
    [("x86_64", _PLAIN, True), ("x86_64", _VNNI, False), ("AMD64", None, True), ("aarch64", None, False)],
)
def test_exact_kernels_are_asked_for_where_int8_would_overflow(
    monkeypatch: pytest.MonkeyPatch, machine: str, flags: str | None, expected: bool
) -> None:
    def cpuinfo(path: Path, encoding: str) -> str:
        if flags is None:
            raise FileNotFoundError(path)
        return flags

    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr(Path, "read_text", cpuinfo)
    assert classifier_module._saturates.__wrapped__() is expected


def test_exact_kernels_give_the_same_scores(classifier: CueClassifier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classifier_module, "_saturates", lambda: True)
    exact = CueClassifier(load_artifact())
    assert _scores(exact, HARMFUL, REASONING) == pytest.approx(_scores(classifier, HARMFUL, REASONING), abs=1e-4)


@pytest.mark.parametrize("text", ["", "I", "Hm.", "word " * 7, "word " * 300])
def test_segments_of_every_length_are_scored(classifier: CueClassifier, text: str) -> None:
    for messages in ((), ({"role": "user", "content": ""},), HARMFUL):
        (score,) = classifier.score([Context(messages, text, text)])
        assert 0 <= score <= 1
