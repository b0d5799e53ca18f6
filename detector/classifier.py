"""The classifier: onnxruntime sessions over an artifact, one thread each.

A verdict costs one pass of the small segment scorer. The request encoder runs once per conversation; its vectors are
kept in a bounded cache shared by all classifiers of a process. Segments are scored one by one: on one core batching
gains nothing, and a score must not depend on what else happens to wait.
"""

import platform
import threading
from collections import OrderedDict
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from tokenizers import Tokenizer

from detector.artifact import Artifact
from detector.context import Context, ContextEncoder, Ids, Message, RequestKey, request_key
from detector.errors import ArtifactError

Floats = NDArray[np.float32]

# One entry is 4 x 384 floats, 6 KB: a thousand open conversations cost 6 MB.
_CACHED_REQUESTS = 1024
# On a CPU a fused sum and normalisation is a scalar loop, five times slower than the two operators.
_SLOW_FUSIONS = ["SkipLayerNormFusion"]


class RequestEncoding(NamedTuple):
    """What the scorer knows of a request: `vectors` [slots, width], and the probability that it is harmful."""

    vectors: Floats
    harm: float


class Model:
    """The sessions of one artifact. Safe to share between threads; each call runs on the caller's thread."""

    def __init__(self, artifact: Artifact) -> None:
        try:
            self._scorer = _session(artifact, "model.onnx")
            self._request = _session(artifact, "request.onnx")
            with np.load(artifact.file("embeddings.npz"), allow_pickle=False) as table:
                self._rows: NDArray[np.int8] = table["rows"]
                self._scales: Floats = table["scales"]
            self._calibration = artifact.calibration
            self.encoder = ContextEncoder(Tokenizer.from_file(str(artifact.file("tokenizer.json"))))
        except Exception as error:
            raise ArtifactError(
                f"{artifact.path}: can't be loaded ({error}); retrain with `steer train detector`"
            ) from error
        self._cache: OrderedDict[RequestKey, RequestEncoding] = OrderedDict()
        self._lock = threading.Lock()

    def request(self, messages: Sequence[Message]) -> RequestEncoding:
        """The encoding of the conversation's request, from the cache where it was met before."""
        key = request_key(messages)
        with self._lock:
            found = self._cache.get(key)
            if found is not None:
                self._cache.move_to_end(key)
                return found
        tokens = self.encoder.request(key)
        vectors, harm = self._request.run(
            ["vectors", "harm"], {"words": self._words(tokens.ids), "types": tokens.types[None]}
        )
        encoding = RequestEncoding(vectors[0], float(harm[0]))
        with self._lock:
            self._cache[key] = encoding
            while len(self._cache) > _CACHED_REQUESTS:
                self._cache.popitem(last=False)
        return encoding

    def score(self, request: RequestEncoding, reasoning_before: str, segment: str) -> float:
        """Probability that `segment` is a compliance cue."""
        (score,) = self._scorer.run(["score"], self.feeds(request, reasoning_before, segment))
        # fp32 softmax may overshoot 1 by its rounding, and a verdict must be a probability.
        raw = min(max(float(score[0]), 0.0), 1.0)
        return raw if self._calibration is None else self._calibration.apply(raw)

    def feeds(self, request: RequestEncoding, reasoning_before: str, segment: str) -> dict[str, NDArray[Any]]:
        """What the scorer's graph reads: request [1, slots, width], words [1, length, width], types [1, length]."""
        tokens = self.encoder.segment(reasoning_before, segment)
        return {"request": request.vectors[None], "words": self._words(tokens.ids), "types": tokens.types[None]}

    def _words(self, ids: Ids) -> Floats:
        """Word vectors [1, length, width]."""
        words: Floats = np.multiply(self._rows.take(ids, 0), self._scales.take(ids)[:, None], dtype=np.float32)
        return words[None]


class CueClassifier:
    """Scores segments. One thread at a time per instance; instances may share a `Model`."""

    def __init__(self, artifact: Artifact, model: Model | None = None) -> None:
        self.artifact = artifact
        self._model = Model(artifact) if model is None else model

    def score(self, contexts: Sequence[Context]) -> list[float]:
        """One probability in [0, 1] for each context, in order."""
        return [
            self._model.score(self._model.request(context.messages), context.reasoning_before, context.segment)
            for context in contexts
        ]

    def request_harm(self, messages: Sequence[Message]) -> float:
        """Probability that fulfilling the request would cause harm. Also warms the cache for `score`."""
        return self._model.request(messages).harm


def _session(artifact: Artifact, name: str) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.enable_mem_pattern = False  # every length is another pattern: planning costs more than it saves
    if _saturates():
        options.add_session_config_entry("session.x64quantprecision", "1")
    return ort.InferenceSession(
        str(artifact.file(name)), options, providers=["CPUExecutionProvider"], disabled_optimizers=_SLOW_FUSIONS
    )


@cache
def _saturates() -> bool:
    """Whether this CPU's fast int8 product overflows: x86-64 without VNNI adds pairs of products in 16 bits.

    There scores would differ by up to 0.03 from those of other machines; onnxruntime's exact, slower kernels
    are used instead. Where the CPU can't be asked, right comes before fast.
    """
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return True
    return "avx512_vnni" not in flags and "avx_vnni" not in flags
