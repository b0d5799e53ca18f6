"""What cells generate with: the rollout's own engine and vocabulary, opened on the weights of a cell."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from benchmarks.method.places import Weights
from benchmarks.method.sizes import Sizes
from train.rollout.local import LocalConfig, LocalGenerator
from train.rollout.vocabulary import ThinkMarkers, Vocabulary, load_vocabulary


@dataclass(frozen=True, slots=True)
class Opened:
    """A model that is loaded."""

    generator: LocalGenerator
    vocabulary: Vocabulary


@contextmanager
def opened(weights: Weights, sizes: Sizes) -> Iterator[Opened]:
    """Load, and free at the end."""
    vocabulary = load_vocabulary(str(weights.model), ThinkMarkers())
    adapter = None if weights.adapter is None else str(weights.adapter)
    config = LocalConfig(batch_size=sizes.batch, threads=1)
    generator = LocalGenerator(str(weights.model), adapter, config, vocabulary.end_ids)
    try:
        yield Opened(generator, vocabulary)
    finally:
        generator.close()
