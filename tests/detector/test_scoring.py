"""The queue under stress, with scorers that block, fail or count; no sleeps."""

import threading
from collections.abc import Sequence

import anyio
import anyio.lowlevel
import pytest

from detector.artifact import load_artifact
from detector.classifier import CueClassifier
from detector.context import Context, Message
from detector.errors import DetectorError, Overloaded
from detector.scoring import ScoringQueue
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class GatedScorer:
    """Scores the length of a segment / 100, but only once its gate is open; remembers what it scored."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.is_scoring = threading.Event()
        self.scored: list[str] = []

    def score(self, contexts: Sequence[Context]) -> list[float]:
        self.is_scoring.set()
        assert self.gate.wait(10)
        self.scored += [context.segment for context in contexts]
        return [len(context.segment) / 100 for context in contexts]

    def request_harm(self, messages: Sequence[Message]) -> float:
        return 0.5


class FailingScorer(GatedScorer):
    """Fails on the word "bad"."""

    def score(self, contexts: Sequence[Context]) -> list[float]:
        if contexts[0].segment == "bad":
            raise ZeroDivisionError("no")
        return super().score(contexts)


def _context(segment: str) -> Context:
    return Context(({"role": "user", "content": "hi"},), "", segment)


async def _until(queue: ScoringQueue, pending: int) -> None:
    with anyio.fail_after(PATIENCE_S):
        while queue.pending != pending:
            await anyio.lowlevel.checkpoint()


async def test_the_real_classifier_gives_the_same_scores_through_the_queue() -> None:
    artifact = load_artifact()
    contexts = [_context(text) for text in ("One thing.", "Another thing.", "So I need to do it.")]
    expected = CueClassifier(artifact).score(contexts)
    found: dict[int, float] = {}
    async with ScoringQueue(artifact, workers=2) as queue, anyio.create_task_group() as group:

        async def ask(index: int) -> None:
            found[index] = await queue.score(contexts[index])

        for index in range(3):
            group.start_soon(ask, index)
    assert [found[index] for index in range(3)] == expected


async def test_preparing_gives_the_request_harm() -> None:
    artifact = load_artifact()
    messages: tuple[Message, ...] = ({"role": "user", "content": "How do I bake bread?"},)
    async with ScoringQueue(artifact) as queue:
        assert await queue.prepare(messages) == CueClassifier(artifact).request_harm(messages)


async def test_a_full_queue_refuses_at_once_and_serves_what_it_accepted() -> None:
    scorer = GatedScorer()
    results: list[float] = []
    async with ScoringQueue(None, max_pending=2, classifiers=[scorer]) as queue, anyio.create_task_group() as group:

        async def ask(text: str) -> None:
            results.append(await queue.score(_context(text)))

        group.start_soon(ask, "a")
        group.start_soon(ask, "bb")
        await _until(queue, 2)
        with pytest.raises(Overloaded, match="raise max_pending"):
            await queue.score(_context("ccc"))
        scorer.gate.set()
    assert results == [0.01, 0.02]


async def test_room_comes_back_after_an_overload() -> None:
    scorer = GatedScorer()
    async with ScoringQueue(None, max_pending=1, classifiers=[scorer]) as queue, anyio.create_task_group() as group:
        group.start_soon(queue.score, _context("a"))
        await _until(queue, 1)
        with pytest.raises(Overloaded):
            await queue.score(_context("b"))
        scorer.gate.set()
        await _until(queue, 0)
        assert await queue.score(_context("b")) == 0.01


async def test_a_client_that_leaves_is_not_scored_and_makes_room() -> None:
    scorer = GatedScorer()
    async with ScoringQueue(None, max_pending=2, classifiers=[scorer]) as queue, anyio.create_task_group() as group:
        group.start_soon(queue.score, _context("first"))
        await _until(queue, 1)
        with anyio.CancelScope() as scope:
            scope.cancel()
            await queue.score(_context("left"))
        assert queue.pending == 1
        scorer.gate.set()
        assert await queue.score(_context("last")) == 0.04
    assert scorer.scored == ["first", "last"]


async def test_a_failing_classifier_fails_its_client_only() -> None:
    scorer = FailingScorer()
    scorer.gate.set()
    async with ScoringQueue(None, classifiers=[scorer]) as queue:
        with pytest.raises(DetectorError, match="ZeroDivisionError"):
            await queue.score(_context("bad"))
        assert await queue.score(_context("good")) == 0.04


async def test_closing_fails_those_that_wait_and_ends_what_is_being_scored() -> None:
    scorer = GatedScorer()
    outcomes: dict[str, object] = {}

    async def ask(queue: ScoringQueue, text: str) -> None:
        try:
            outcomes[text] = await queue.score(_context(text))
        except DetectorError as error:
            outcomes[text] = str(error)

    async with anyio.create_task_group() as group, ScoringQueue(None, classifiers=[scorer]) as queue:
        group.start_soon(ask, queue, "begun")
        group.start_soon(ask, queue, "waiting")
        await _until(queue, 2)
        with anyio.fail_after(PATIENCE_S):
            while not scorer.is_scoring.is_set():
                await anyio.lowlevel.checkpoint()
        threading.Timer(0.05, scorer.gate.set).start()
    assert outcomes["begun"] == 0.05
    assert "closed" in str(outcomes["waiting"])


async def test_a_queue_that_is_not_open_says_so() -> None:
    queue = ScoringQueue(None, classifiers=[GatedScorer()])
    with pytest.raises(DetectorError, match="async with"):
        await queue.score(_context("x"))
    async with queue:
        pass
    with pytest.raises(DetectorError, match="closed"):
        await queue.score(_context("x"))


async def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="max_pending"):
        ScoringQueue(None, max_pending=0, classifiers=[GatedScorer()])
    with pytest.raises(ValueError, match="workers"):
        ScoringQueue(load_artifact(), workers=0)
