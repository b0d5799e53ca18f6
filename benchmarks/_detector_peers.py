"""What the detector is measured against on the same core: the core itself, and the same work done the plain way.

Needs onnx for the core's peak and the fp32 graph, torch for the eager models; without them those rows are left out.
The torch side is given ready tokens, so its text is free: every ratio understates.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from detector.artifact import Artifact

_PEAK_SHAPE = (512, 1024, 1024)  # large enough that a product's start and its quantised edges don't count
_PEAK_REPEATS = 40
CROSS_LAYERS, CROSS_WIDTH, CROSS_HEADS, CROSS_TOKENS = 6, 384, 12, 512

Feeds = dict[str, NDArray[Any]]
Run = Callable[[Feeds], object]


class Shape(NamedTuple):
    """Of the segment scorer."""

    width: int
    inner: int
    layers: int
    slots: int


class Macs(NamedTuple):
    """Multiply-accumulates of one score: int8 in the weights' products, fp32 in attention."""

    int8: int
    fp32: int


def session(model: Any) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def gemm_peak(kind: str) -> float:
    """The core's GEMM rate through onnxruntime in 1e9 multiply-accumulates a second; the best of many.

    `kind`: "int8" (activations uint8, weights int8, as served) or "fp32".
    """
    from onnx import TensorProto, helper, numpy_helper  # noqa: PLC0415  # of the training side

    rows, inner, columns = _PEAK_SHAPE
    rng = np.random.default_rng(0)
    x: NDArray[Any] = rng.integers(0, 255, (rows, inner)).astype(np.uint8)
    weight: NDArray[Any] = rng.integers(-127, 127, (inner, columns)).astype(np.int8)
    element, constants = (
        (TensorProto.UINT8, TensorProto.INT32),
        [numpy_helper.from_array(np.array(128, np.uint8), "zero")],
    )
    node = helper.make_node("MatMulInteger", ["x", "w", "zero"], ["y"])
    if kind == "fp32":
        x, weight = x.astype(np.float32), weight.astype(np.float32)
        element, constants = (TensorProto.FLOAT, TensorProto.FLOAT), []
        node = helper.make_node("MatMul", ["x", "w"], ["y"])
    ends = [helper.make_tensor_value_info(name, kind, None) for name, kind in zip("xy", element, strict=True)]
    graph = helper.make_graph([node], "peak", [ends[0]], [ends[1]], [numpy_helper.from_array(weight, "w"), *constants])
    runner = session(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10))
    seconds = []
    for _ in range(_PEAK_REPEATS):
        started = time.process_time()
        runner.run(None, {"x": x})
        seconds.append(time.process_time() - started)
    return rows * inner * columns / min(seconds) / 1e9


def scorer_macs(shape: Shape, length: int, segment: int) -> Macs:
    """Of one score over `length` tokens, `segment` of them the segment's: what the served graph really multiplies.

    The last layer computes queries and feed-forward for [CLS] and the segment alone (train/detector/graphs.py).
    """
    rows, wanted = length + shape.slots, segment + 1
    square, block = shape.width**2, shape.width * shape.inner
    full = rows * (4 * square + 2 * block)
    last = rows * 2 * square + wanted * (2 * square + 2 * block)
    attention = 2 * shape.width * rows * ((shape.layers - 1) * rows + wanted)
    return Macs((shape.layers - 1) * full + last + 2 * square, attention)


def stored_scorer(artifact: Artifact) -> dict[str, NDArray[Any]]:
    """The weights of the artifact's scorer as fp32, by the names of the student's state dict.

    Raises `ValueError` for a graph that train/detector/graphs.py did not write.
    """
    import onnx  # noqa: PLC0415  # of the training side

    from train.detector.graphs import read_parts  # noqa: PLC0415

    parts = read_parts(onnx.load(str(artifact.file("model.onnx"))))
    if "encoder.layers.0.query.weight" not in parts:
        raise ValueError(f"{artifact.path}: its graph was written by an older export; export the weights anew")
    return parts


def scorer_shape(parts: dict[str, NDArray[Any]]) -> Shape:
    slots, width = parts["slot_types"].shape
    layers = len({name.split(".")[2] for name in parts if name.startswith("encoder.layers.")})
    return Shape(width, len(parts["encoder.layers.0.up.bias"]), layers, slots)


def int8_onnx(artifact: Artifact) -> Run:
    """The artifact's scorer as it is, without what surrounds it."""
    import onnx  # noqa: PLC0415  # of the training side

    runner = session(onnx.load(str(artifact.file("model.onnx"))))
    return lambda feeds: runner.run(["score"], feeds)[0]


def fp32_onnx(parts: dict[str, NDArray[Any]], heads: int) -> Run:
    """The same graph in fp32."""
    from train.detector.graphs import scorer_graph  # noqa: PLC0415

    runner = session(scorer_graph(parts, heads, cue=1, is_int8=False))
    return lambda feeds: runner.run(["score"], feeds)[0]


def torch_eager(parts: dict[str, NDArray[Any]], heads: int) -> Run:
    """The same model as it is trained, in torch eager fp32."""
    import torch  # noqa: PLC0415

    from train.detector.model import SegmentScorer, Sizes  # noqa: PLC0415

    shape = scorer_shape(parts)
    sizes = Sizes(shape.width, heads, shape.inner, shape.slots, 1, shape.layers, 1, 0.0)
    scorer = SegmentScorer(sizes).eval()
    scorer.load_state_dict({name: torch.from_numpy(np.array(parts[name])) for name in scorer.state_dict()})

    @torch.inference_mode()
    def run(feeds: Feeds) -> object:
        inputs = [torch.from_numpy(feeds[name]) for name in ("request", "words", "types")]
        return torch.softmax(scorer(*inputs), -1)[:, 1].numpy()

    return run


def cross_encoder(vocabulary: int) -> Callable[[int], object]:
    """A full-context cross-encoder of random weights in torch eager fp32: 6 layers, 384 wide; takes a length."""
    import torch  # noqa: PLC0415
    from torch import nn  # noqa: PLC0415

    layer = nn.TransformerEncoderLayer(
        CROSS_WIDTH, CROSS_HEADS, 4 * CROSS_WIDTH, dropout=0.0, activation="gelu", batch_first=True
    )
    embed = nn.Embedding(vocabulary, CROSS_WIDTH).eval()
    encoder, head = nn.TransformerEncoder(layer, CROSS_LAYERS).eval(), nn.Linear(CROSS_WIDTH, 3).eval()
    positions = torch.randn(CROSS_TOKENS, CROSS_WIDTH)

    @torch.inference_mode()
    def run(length: int) -> object:
        ids = torch.arange(length) % vocabulary
        return head(encoder(embed(ids)[None] + positions[:length])[:, 0])

    return run
