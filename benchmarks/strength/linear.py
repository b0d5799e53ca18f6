"""A linear cue detector: TF-IDF of words and of character n-grams, three fields, multinomial logistic regression.

It is trained on the traces and prompts that the detector's configuration names, on the same split and with the same
synthetic openers. What it can't do by construction is combine: a request's words and a segment's words add up.
"""

import hashlib
import pickle
import random
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.sparse import csr_matrix, hstack
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import SGDClassifier
from sklearn.pipeline import FeatureUnion, make_union

from detector.context import Context, Message, fold, message_text
from train.detector.augment import openers
from train.detector.data import LABELS, Prompt, Trace, label_segments

_REQUEST_HEAD_CHARS, _REQUEST_TAIL_CHARS = 500, 200
_PREVIOUS_CHARS = 200
_SEGMENT_CHARS = 320
# As many segments of a trace as the student draws in an epoch, and half as many openers of a prompt as it is taught.
_SEGMENTS_PER_TRACE, _OPENERS = 12, 2
_WORD_FEATURES, _CHAR_FEATURES = 40_000, 60_000


class Row(NamedTuple):
    """One example, texts as they are read; `label` indexes `LABELS`."""

    request: str
    previous: str
    segment: str
    label: int


def _request(text: str) -> str:
    if len(text) > _REQUEST_HEAD_CHARS + _REQUEST_TAIL_CHARS:
        text = f"{text[:_REQUEST_HEAD_CHARS]} {text[-_REQUEST_TAIL_CHARS:]}"
    return fold(text)


def _previous(text: str) -> str:
    return fold(text[-_PREVIOUS_CHARS:])


def rows_of(traces: Sequence[Trace], prompts: Sequence[Prompt], seed: int) -> list[Row]:
    """Examples: labelled segments, and openers of prompts whose label is certain."""
    rng, rows = random.Random(seed), []
    for trace in traces:
        request = _request(trace.prompt)
        labelled = [piece for piece in label_segments(trace) if piece.label is not None]
        for piece in rng.sample(labelled, min(_SEGMENTS_PER_TRACE, len(labelled))):
            text = trace.reasoning[piece.start : piece.end][:_SEGMENT_CHARS]
            assert piece.label is not None, "filtered above"
            rows.append(Row(request, _previous(trace.reasoning[: piece.start]), fold(text), piece.label))
    for prompt in prompts:
        if prompt.label in ("harmful", "benign"):
            drawn = openers(prompt.prompt, prompt.label == "harmful", _OPENERS, rng)
            rows += [
                Row(_request(prompt.prompt), _previous(before), fold(text), label) for before, text, label in drawn
            ]
    return rows


class LinearModel:
    """The fitted vectorisers (request, previous, segment) and classifier."""

    def __init__(self, seed: int) -> None:
        self._fields = {name: _vectoriser() for name in ("request", "previous", "segment")}
        self._classifier = SGDClassifier(
            loss="log_loss", alpha=3e-6, class_weight="balanced", max_iter=20, tol=None, random_state=seed
        )

    def fit(self, rows: Sequence[Row]) -> None:
        """Train on `rows`; each distinct text of a field is read once."""
        parts = []
        for name, vectoriser in self._fields.items():
            texts = [getattr(row, name) for row in rows]
            distinct = {text: number for number, text in enumerate(dict.fromkeys(texts))}
            matrix = csr_matrix(vectoriser.fit_transform(list(distinct)))
            parts.append(matrix[np.array([distinct[text] for text in texts])])
        self._classifier.fit(hstack(parts, format="csr"), np.array([row.label for row in rows]))

    def request(self, text: str) -> Any:
        """The request's features, [1, features] sparse."""
        return self._fields["request"].transform([text])

    def cue(self, request: Any, previous: str, segment: str) -> float:
        """Probability of class C."""
        parts = [request, self._fields["previous"].transform([previous]), self._fields["segment"].transform([segment])]
        return float(self._classifier.predict_proba(hstack(parts, format="csr"))[0, LABELS.index("C")])


class Linear:
    """A classifier as `detector.scoring.ScoringQueue` takes one. A request's features are kept for its next segment."""

    def __init__(self, model: LinearModel) -> None:
        self._model = model
        self._request = lru_cache(maxsize=256)(model.request)

    def score(self, contexts: Sequence[Context]) -> list[float]:
        """The probability of a cue for each context."""
        return [
            self._model.cue(
                self._request(_asked(context.messages)),
                _previous(context.reasoning_before),
                fold(context.segment[:_SEGMENT_CHARS]),
            )
            for context in contexts
        ]

    def request_harm(self, messages: Sequence[Message]) -> float:
        """Reads the request ahead; the model has no score of its own for it."""
        self._request(_asked(messages))
        return 0.0


def trained_linear(
    traces: Sequence[Trace], prompts: Sequence[Prompt], seed: int, cache: Path, key: str, say: Callable[[str], None]
) -> Linear:
    """The model in `cache` where it was made from the same `key`, else a new one, written there whole."""
    own = hashlib.sha256(f"{key} {seed} {Path(__file__).read_text(encoding='utf-8')}".encode()).hexdigest()
    if cache.exists():
        saved_key, model = pickle.loads(cache.read_bytes())
        if saved_key == own:
            return Linear(model)
    rows = rows_of(traces, prompts, seed)
    say(f"linear: fitting TF-IDF and logistic regression on {len(rows)} segments")
    model = LinearModel(seed)
    model.fit(rows)
    partial = cache.with_suffix(".part")
    partial.write_bytes(pickle.dumps((own, model)))
    partial.replace(cache)
    return Linear(model)


def _asked(messages: Sequence[Message]) -> str:
    last = next((m for m in reversed(messages) if m.get("role") == "user"), messages[-1] if messages else {})
    return _request(message_text(last))


def _vectoriser() -> FeatureUnion:
    return make_union(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=3, max_features=_WORD_FEATURES, dtype=np.float32),
        TfidfVectorizer(
            analyzer="char_wb",
            ngram_range=(3, 5),
            sublinear_tf=True,
            min_df=3,
            max_features=_CHAR_FEATURES,
            dtype=np.float32,
        ),
    )
