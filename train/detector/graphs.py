"""The served graphs, written node by node for one thread and one input: what `model.py` computes, and no more.

Written out rather than traced, because speed lives in what a trace can't know:
1. Type-1 positions come last in a segment (`detector.context`), and the pooling reads only them and [CLS]. They are
   moved to the front once; the last layer then computes queries and its feed-forward part for that prefix alone.
2. Matrices are int8 with one scale a column. Activations are quantised at run time, per tensor, once for query, key and
   value together.
3. Attention is onnxruntime's own operator (no transposes in memory). Sum and normalisation stay two operators: fused,
   they are one slow scalar loop on CPUs.
Names of initializers are the student's own (`encoder.layers.0.query.weight`, matrices [in, out] with `.scale` beside
them), so that `read_parts` can give the student's weights back. Needs onnx and numpy, not torch.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

Array = NDArray[Any]
Parts = Mapping[str, Array]
"""Weights by the names of the module's state dict; matrices [out, in] as in torch."""

_CONTRIB = "com.microsoft"
_OPSET = 20  # the first with Gelu
_IR_VERSION = 10
_EPSILON = 1e-12  # of BERT's normalisations
_POOL_EPSILON = 1e-5  # torch's default, of the request vectors' normalisation
_INT8_MAX = 127


class _Graph:
    """Nodes and initializers under construction. Methods return the names of what they compute."""

    def __init__(self, parts: Parts, heads: int, is_int8: bool) -> None:
        self.parts = parts
        self.heads = heads
        self.is_int8 = is_int8
        self.nodes: list[Any] = []
        self.initializers: dict[str, Array] = {}

    def op(self, kind: str, *inputs: str, domain: str = "", name: str | None = None, **attributes: Any) -> str:
        return self._node(kind, inputs, domain, [name or f"{kind}_{len(self.nodes)}"], attributes)[0]

    def number(self, value: int) -> str:
        """An int64 vector of one element, as slices and axes want it."""
        return self.constant(f"int_{value}", np.array([value], dtype=np.int64))

    def constant(self, name: str, value: Array) -> str:
        self.initializers[name] = value
        return name

    def part(self, name: str) -> str:
        return self.constant(name, np.ascontiguousarray(self.parts[name], dtype=np.float32))

    def rows(self, x: str, start: str, end: str) -> str:
        """Rows [start, end) of x [1, length, width]."""
        return self.op("Slice", x, start, end, self.number(1))

    def norm(self, x: str, name: str, epsilon: float = _EPSILON) -> str:
        weights = self.part(f"{name}.weight"), self.part(f"{name}.bias")
        return self.op("LayerNormalization", x, *weights, axis=-1, epsilon=epsilon)

    def quantise(self, x: str) -> tuple[str, ...]:
        """(values, scale, zero point) of an activation; itself alone where the graph is fp32."""
        if not self.is_int8:
            return (x,)
        stem = f"quantised_{len(self.nodes)}"
        return tuple(self._node("DynamicQuantizeLinear", [x], "", [stem, f"{stem}_scale", f"{stem}_zero"], {}))

    def linear(self, x: tuple[str, ...], name: str) -> str:
        bias = self.part(f"{name}.bias")
        if not self.is_int8:
            weight = self.constant(f"{name}.weight", np.ascontiguousarray(self.parts[f"{name}.weight"].T, np.float32))
            return self.op("Add", self.op("MatMul", x[0], weight), bias)
        rows, scales = _quantise(self.parts[f"{name}.weight"].T)
        weight, scale = self.constant(f"{name}.weight", rows), self.constant(f"{name}.scale", scales)
        zero = self.constant(f"{name}.zero", np.zeros(len(scales), np.int8))
        return self.op("MatMulIntegerToFloat", x[0], weight, x[1], scale, x[2], zero, bias, domain=_CONTRIB)

    def embed(self) -> str:
        """Normalised sum of word, position and type vectors [1, length, width], from the inputs `words`, `types`."""
        length = self.op("Shape", "types", start=1, end=2)
        positions = self.op("Slice", self.part("encoder.positions"), self.number(0), length, self.number(0))
        types = self.op("Gather", self.part("encoder.types"), "types")
        return self.norm(self.op("Add", self.op("Add", "words", positions), types), "encoder.norm")

    def layer(self, x: str, name: str, prefix: str | None) -> str:
        """A layer over x [1, length, width]; `prefix`: how many rows are wanted of it (None: all)."""
        whole = self.quantise(x)
        wanted = whole
        if prefix is not None:
            wanted = (self.rows(whole[0], self.number(0), prefix), *whole[1:])
            x = self.rows(x, self.number(0), prefix)
        query, key = self.linear(wanted, f"{name}.query"), self.linear(whole, f"{name}.key")
        value = self.linear(whole, f"{name}.value")
        mixed = self.op("MultiHeadAttention", query, key, value, domain=_CONTRIB, num_heads=self.heads)
        x = self.norm(self.op("Add", x, self.linear(self.quantise(mixed), f"{name}.out")), f"{name}.norm")
        inner = self.op("Gelu", self.linear(self.quantise(x), f"{name}.up"))
        return self.norm(self.op("Add", x, self.linear(self.quantise(inner), f"{name}.down")), f"{name}.norm_out")

    def layers(self, x: str, prefix: str | None = None) -> str:
        """All layers; of the last one's output only the first `prefix` rows."""
        count = len({name.split(".")[2] for name in self.parts if name.startswith("encoder.layers.")})
        for index in range(count):
            x = self.layer(x, f"encoder.layers.{index}", prefix if index == count - 1 else None)
        return x

    def first_row(self, x: str) -> str:
        """[1, width] of [1, length, width]."""
        return self.op("Squeeze", self.rows(x, self.number(0), self.number(1)), self.number(1))

    def mean_row(self, x: str) -> str:
        return self.op("ReduceMean", x, self.number(1), keepdims=0)

    def model(self, inputs: list[Any], outputs: list[Any]) -> ModelProto:
        tensors = [numpy_helper.from_array(value, name) for name, value in self.initializers.items()]
        graph = helper.make_graph(self.nodes, "steer", inputs, outputs, tensors)
        opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid(_CONTRIB, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION, producer_name="steer")

    def _node(self, kind: str, inputs: Any, domain: str, outputs: list[str], attributes: dict[str, Any]) -> list[str]:
        self.nodes.append(helper.make_node(kind, list(inputs), outputs, domain=domain, **attributes))
        return outputs


def scorer_graph(parts: Parts, heads: int, cue: int, is_int8: bool = True) -> ModelProto:
    """(request [1, slots, width], words [1, length, width], types [1, length]) -> score [1], the probability of class
    `cue`. `parts` of `SegmentScorer`; positions of type 1 must be the last ones, and at least one."""
    graph = _Graph(parts, heads, is_int8)
    slots, width = parts["slot_types"].shape
    embedded = graph.embed()
    length = graph.op("Shape", "types", start=1, end=2)
    ones = graph.op("ReduceSum", "types", graph.number(1), keepdims=0)
    begin = graph.op("Sub", length, ones)
    cls = graph.rows(embedded, graph.number(0), graph.number(1))
    segment, before = graph.rows(embedded, begin, length), graph.rows(embedded, graph.number(1), begin)
    request = graph.op("Add", "request", graph.part("slot_types"))
    x = graph.op("Concat", cls, segment, before, request, axis=1)
    wanted = graph.op("Add", ones, graph.number(1))
    x = graph.layers(x, wanted)
    pooled = graph.op("Concat", graph.first_row(x), graph.mean_row(graph.rows(x, graph.number(1), wanted)), axis=-1)
    hidden = graph.op("Gelu", graph.linear(graph.quantise(pooled), "hidden"))
    classes = graph.op("Softmax", graph.linear(graph.quantise(hidden), "out"), axis=-1)
    graph.op("Gather", classes, graph.constant("cue", np.array(cue, np.int64)), name="score", axis=1)
    inputs = [_floats("request", [1, slots, width]), *_tokens(width)]
    return graph.model(inputs, [_floats("score", [1])])


def request_graph(parts: Parts, heads: int, unknown: Array, shrinkage: float, is_int8: bool = True) -> ModelProto:
    """(words [1, length, width], types [1, length]) -> vectors [1, slots, width], harm [1], a probability.

    `parts` of `RequestEncoder`. The vectors are drawn towards those of an unknown request, `unknown` [1, slots, width],
    by `shrinkage` in [0, 1): a small encoder is sure of the harm of requests that it does not understand, and would
    veto what the segment says.
    """
    graph = _Graph(parts, heads, is_int8)
    _, slots, width = unknown.shape
    x = graph.layers(graph.embed())
    first = graph.first_row(x)
    harm = graph.linear(graph.quantise(graph.op("Concat", first, graph.mean_row(x), axis=-1)), "harm")
    graph.op("Sigmoid", graph.op("Squeeze", harm, graph.number(1)), name="harm")
    shape = graph.constant("slots", np.array([1, slots, width], np.int64))
    vectors = graph.op("Reshape", graph.linear(graph.quantise(first), "project"), shape)
    kept = graph.constant("kept", np.array(1.0 - shrinkage, np.float32))
    own = graph.op("Mul", graph.norm(vectors, "norm", _POOL_EPSILON), kept)
    graph.op("Add", own, graph.constant("pull", (shrinkage * unknown).astype(np.float32)), name="vectors")
    return graph.model(_tokens(width), [_floats("vectors", [1, slots, width]), _floats("harm", [1])])


def read_parts(model: ModelProto) -> dict[str, Array]:
    """The weights in a graph made here, as fp32 and by the names of the state dict; constants of the graph besides."""
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    parts = {}
    for name, value in stored.items():
        scale = stored.get(name.removesuffix(".weight") + ".scale")
        if value.dtype == np.int8:
            if scale is not None and name.endswith(".weight"):
                parts[name] = (value.astype(np.float32) * scale).T
        elif value.dtype == np.float32 and not name.endswith(".scale"):
            parts[name] = value.T if name.endswith(".weight") and value.ndim == 2 else value
    return parts


def _quantise(weight: Array) -> tuple[Array, Array]:
    """int8 [in, out] and the scale of each column; symmetric."""
    scales = (np.maximum(np.abs(weight).max(axis=0), 1e-8) / _INT8_MAX).astype(np.float32)
    return np.clip(np.rint(weight / scales), -_INT8_MAX, _INT8_MAX).astype(np.int8), scales


def _floats(name: str, shape: list[Any]) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def _tokens(width: int) -> list[Any]:
    types = helper.make_tensor_value_info("types", TensorProto.INT64, [1, "length"])
    return [_floats("words", [1, "length", width]), types]
