"""Detectors that the classifier is held against, as functions that a rollout can name."""

from collections.abc import Sequence

from benchmarks.strength.keywords import Keywords
from detector.context import Context
from train.organism.oracle import is_cue

_KEYWORDS = Keywords()


def oracle(contexts: Sequence[Context]) -> list[float]:
    """Never wrong: the organism's own sentence forms. No detector can be stronger."""
    return [float(is_cue(context.segment)) for context in contexts]


def keywords(contexts: Sequence[Context]) -> list[float]:
    """Lists of words, on the segment and the request."""
    return _KEYWORDS.score(contexts)
