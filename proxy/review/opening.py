"""Opens review for one process: the desk behind the API, and the sampling of unhalted traffic where it is asked for."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from prometheus_client import Counter

from proxy.access.gate import Admission
from proxy.errors import ConfigError
from proxy.log.reader import LogReader
from proxy.log.setup import make_texts, open_reader
from proxy.review.api import ReviewApi
from proxy.review.desk import ReviewDesk
from proxy.review.samples import SampleKeeper
from proxy.review.sampling import SampledChoice, Sampler
from proxy.review.store import ReviewStore
from proxy.settings import Settings


@dataclass(frozen=True, slots=True)
class Review:
    """`sampler` None: nothing is sampled."""

    api: ReviewApi
    sampler: Sampler | None

    def sample(self, request_id: str, admission: Admission) -> SampledChoice | None:
        """A collector for a choice of a request that is drawn; whoever is not trained on is not sampled either."""
        if self.sampler is None or not admission.may_train or not self.sampler.draw(request_id):
            return None
        return self.sampler.choice()


@asynccontextmanager
async def open_desk(settings: Settings, threshold: float) -> AsyncIterator[ReviewDesk]:
    """For a command. Raises ConfigError, LogError."""
    async with open_reader(settings.log) as reader, ReviewStore.open(settings.log.url) as store:
        texts = make_texts(settings.log)
        yield ReviewDesk(store, reader, texts, threshold=threshold, needed=settings.review.reviewers)


@asynccontextmanager
async def open_review(
    settings: Settings, reader: LogReader, threshold: float, counter: Counter
) -> AsyncIterator[Review]:
    """Until the block ends. Raises ConfigError, LogError."""
    texts, review = make_texts(settings.log), settings.review
    if review.sample_share and not texts.keeps_unhalted:
        raise ConfigError(
            f'review.sample_share: samples hold text that log.store_text = "{settings.log.store_text}" does not '
            'allow: set it to "full", or sample_share to 0'
        )
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(ReviewStore.open(settings.log.url))
        sampler = None
        if review.sample_share:
            sampler = await stack.enter_async_context(
                Sampler(
                    SampleKeeper(store, texts, review.sample_keep_days),
                    counter,
                    share=review.sample_share,
                    max_chars=review.sample_max_chars,
                    per_hour=review.sample_per_hour,
                )
            )
        desk = ReviewDesk(store, reader, texts, threshold=threshold, needed=review.reviewers)
        yield Review(ReviewApi(desk), sampler)
