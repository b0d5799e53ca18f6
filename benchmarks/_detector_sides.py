"""Side by side: the same sentences as served, by the graph alone, and by the plain ways of doing the same.

A full-context cross-encoder reads the prompt, the sentences before and the segment for every verdict; its weights are
random, its shape and lengths are not.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from benchmarks import _detector_peers as peers
from benchmarks._detector_clock import Seconds, percentiles, timed
from detector.artifact import Artifact
from detector.classifier import CueClassifier, Model
from detector.context import Context, message_text
from detector.wordpieces import WordPieces

_HEAD_WIDTH = 32  # of attention, in every model here
_CROSS_PROMPT_TOKENS = 400
_CHARS = 8  # at most, of a token; what is read for the cross-encoder's length


class Sides:
    """The same sentences, one by one, by every means; each in turn, so that all meet the same disturbances."""

    def __init__(self, artifact: Artifact) -> None:
        self.model = Model(artifact)
        self.classifier = CueClassifier(artifact, self.model)
        tokenizer = Tokenizer.from_file(str(artifact.file("tokenizer.json")))
        self.pieces = WordPieces(tokenizer)
        self.parts = peers.stored_scorer(artifact)
        self.shape = peers.scorer_shape(self.parts)
        heads = self.shape.width // _HEAD_WIDTH
        self.runs: dict[str, peers.Run] = {
            "graph_alone": peers.int8_onnx(artifact),
            "onnx_fp32": peers.fp32_onnx(self.parts, heads),
        }
        try:
            import torch  # noqa: PLC0415  # of the training side
        except ImportError:
            print("torch is not installed: the eager models are left out")
            self.cross: Callable[[int], object] | None = None
        else:
            torch.set_num_threads(1)
            self.runs["torch_eager_fp32"] = peers.torch_eager(self.parts, heads)
            self.cross = peers.cross_encoder(tokenizer.get_vocab_size())

    def measure(self, chosen: list[Context]) -> dict[str, Any]:
        seconds: dict[str, list[Seconds]] = {}
        scores: dict[str, list[float]] = {name: [] for name in self.runs}
        products: list[peers.Macs] = []
        for context in chosen:
            feeds = self.model.feeds(self.model.request(context.messages), context.reasoning_before, context.segment)
            types = feeds["types"]
            products.append(peers.scorer_macs(self.shape, types.shape[1], int(types.sum())))
            work: dict[str, Callable[[], object]] = {"served": lambda: self.classifier.score([context])}  # noqa: B023
            work |= {name: lambda run=run: run(feeds) for name, run in self.runs.items()}  # type: ignore[misc]  # noqa: B023
            if self.cross is not None:
                length = self._cross_length(context)
                work["cross_encoder_torch"] = lambda: self.cross(length)  # type: ignore[misc]  # noqa: B023
            for name, one in work.items():
                seconds.setdefault(name, []).append(timed(one))
            for name, run in self.runs.items():
                scores[name].append(float(np.asarray(run(feeds)).ravel()[0]))
        figures: dict[str, Any] = {name: percentiles(values) for name, values in seconds.items()}
        return self._compared(figures, scores, products)

    def _compared(
        self, figures: dict[str, Any], scores: dict[str, list[float]], products: list[peers.Macs]
    ) -> dict[str, Any]:
        served = figures["served"]["mean_ms"]
        print(f"\n{'the same sentences':>22} {'p50 ms':>9} {'p95 ms':>9} {'times served':>13}")
        for name, one in figures.items():
            one["times_served"] = round(one["mean_ms"] / served, 2)
            print(f"{name:>22} {one['p50_ms']:>9} {one['p95_ms']:>9} {one['times_served']:>13}")
        exact = np.array(scores["onnx_fp32"])
        figures["largest_score_difference_to_fp32"] = {
            name: float(np.abs(np.array(values) - exact).max())
            for name, values in scores.items()
            if name != "onnx_fp32"
        }
        peak = {kind: peers.gemm_peak(kind) for kind in ("int8", "fp32")}
        at_peak = sum(one.int8 / peak["int8"] + one.fp32 / peak["fp32"] for one in products) / 1e9
        figures["gemm"] = {
            "peak_gmacs_per_s": {kind: round(value, 1) for kind, value in peak.items()},
            "mean_mmacs_per_sentence": round(float(np.mean([sum(one) for one in products])) / 1e6, 1),
            "share_of_peak_served": round(1000 * at_peak / (served * len(products)), 3),
            "share_of_peak_graph": round(1000 * at_peak / (figures["graph_alone"]["mean_ms"] * len(products)), 3),
        }
        print(f"\nGEMM: {figures['gemm']}")
        return figures

    def _cross_length(self, context: Context) -> int:
        """Tokens of [CLS] prompt, at most 400, [SEP] what was said before and the segment [SEP], at most 512."""
        text = context.reasoning_before[-_CHARS * peers.CROSS_TOKENS :] + context.segment
        prompt = message_text(context.messages[0])[: _CHARS * _CROSS_PROMPT_TOKENS]
        spent = min(_CROSS_PROMPT_TOKENS, len(self.pieces.ids(prompt))) + len(self.pieces.ids(text)) + 3
        return min(peers.CROSS_TOKENS, spent)
