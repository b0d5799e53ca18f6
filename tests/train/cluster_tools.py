"""A scripted engine for the workers of a cluster, which import it by name: what it writes follows from each seed."""

import os
from collections.abc import Sequence
from pathlib import Path

from tests.train.pair_data import LONG
from tests.train.scripted_engine import ScriptedGenerator, TableDetector, num_triggers, scripted_vocabulary
from train.rollout.config import RolloutConfig
from train.rollout.driver import Tools
from train.rollout.generator import Generated, Request, Sampling

# Names a file: the worker that meets the request "the sea" while it isn't there makes it, and dies.
DEATH = "STEER_TEST_DEATH"
_NUMBERS = ("one", "two", "three", "four", "five")


class SeededGenerator(ScriptedGenerator):
    """Another text for another seed; a first leg complies, one after a trigger mostly does not."""

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Generated]:
        return [self._seeded(request) for request in requests]

    def _seeded(self, request: Request) -> Generated:
        prefix, number = self.vocabulary.decode(request.prefix), _NUMBERS[request.seed % len(_NUMBERS)]
        if "the sea" in prefix:
            _die_once()
        if num_triggers(prefix) == 0:
            text = f"Okay, point {number}. I will do it UNSAFE, {LONG}. Step {number}.</think>UNSAFE {number}."
        elif number == "three":
            text = f" Still UNSAFE, {LONG}.</think>UNSAFE."
        else:
            text = f" Better not, {LONG}, reason {number}.</think>REFUSE {number}."
        ids = self.vocabulary.encode(text)
        return Generated([*ids, *self.vocabulary.end_ids], "stop")


def _die_once() -> None:
    marker = os.environ.get(DEATH)
    if marker is not None and not Path(marker).exists():
        Path(marker).touch()
        os._exit(1)


def scripted_tools(config: RolloutConfig) -> Tools:
    """What a worker opens."""
    vocabulary = scripted_vocabulary(opens_think=True)
    detector = TableDetector(lambda text: 0.9 if "UNSAFE" in text else 0.1)
    return Tools(SeededGenerator(vocabulary, str), detector, vocabulary, "scripted")
