"""The organism as an ONNX graph with a KV cache, whose weights lie in the model's own safetensors file.

One step for a batch: new token ids with their positions, and each row's past keys and values (padded; a mask hides the
padding). The past goes in and only the new keys and values come out, so that the server keeps the cache and nothing
long is copied. Inputs: `input_ids`, `positions` [B, T] int64; `past_mask` [B, 1, 1, S] (0 or a large negative number);
`new_mask` [T, T] likewise (causal); `past_key.i`, `past_value.i` [B, KV, S, D], S >= 1. Outputs: `logits` [B, vocab] of
the last position; `key.i`, `value.i` [B, KV, T, D]. All fp32; the fp16 weights are cast once, when a session is made.
"""

import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from train.organism.errors import OrganismDataError

_OPSET = 20
_IR_VERSION = 10  # readable by onnxruntime since 1.18


class _Builder:
    """Collects nodes; every method returns the name of its output."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def op(self, kind: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        name = output or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def split(self, x: str, axis: int, count: int) -> list[str]:
        names = [f"split_{len(self.nodes)}_{i}" for i in range(count)]
        self.nodes.append(helper.make_node("Split", [x], names, name=names[0], axis=axis, num_outputs=count))
        return names

    def constant(self, value: NDArray[Any] | Sequence[int]) -> str:
        array = value if isinstance(value, np.ndarray) else np.array(value, np.int64)
        name = f"constant_{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def weight(self, name: str, entry: dict[str, Any], base: int, location: str) -> str:
        """An fp16 tensor of the safetensors file, cast to fp32."""
        start, end = entry["data_offsets"]
        tensor = TensorProto(
            name=name, dims=entry["shape"], data_type=TensorProto.FLOAT16, data_location=TensorProto.EXTERNAL
        )
        for key, value in (("location", location), ("offset", base + start), ("length", end - start)):
            tensor.external_data.add(key=key, value=str(value))
        self.initializers.append(tensor)
        return self.op("Cast", name, to=TensorProto.FLOAT)


def read_header(path: Path) -> tuple[dict[str, Any], int]:
    """(tensor entries, offset of the data) of a safetensors file; raises OrganismDataError when it is none."""
    with path.open("rb") as file:
        size = struct.unpack("<Q", file.read(8))[0]
        header = json.loads(file.read(size))
    header.pop("__metadata__", None)
    if wrong := [name for name, entry in header.items() if entry["dtype"] != "F16"]:
        raise OrganismDataError(f"{path}: the ONNX graph wants fp16 weights, {wrong[0]} is {header[wrong[0]]['dtype']}")
    return header, size + 8


def write_graph(folder: Path) -> None:
    """Write `model.onnx` beside `config.json` and `model.safetensors`."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    header, base = read_header(folder / "model.safetensors")
    graph = _Graph(config, header, base)
    model = helper.make_model(
        graph.build(), opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION, producer_name="steer"
    )
    (folder / "model.onnx").write_bytes(model.SerializeToString())


class _Graph:
    def __init__(self, config: dict[str, Any], header: dict[str, Any], base: int) -> None:
        self.b = _Builder()
        self._weights, self._base = header, base
        self.layers = int(config["num_hidden_layers"])
        self.heads, self.kv, self.dim = (
            int(config[k]) for k in ("num_attention_heads", "num_key_value_heads", "head_dim")
        )
        self.vocab, self.groups = int(config["vocab_size"]), self.heads // self.kv
        rope = config.get("rope_parameters") or config
        self.theta, self.eps = float(rope["rope_theta"]), float(config["rms_norm_eps"])

    def build(self) -> onnx.GraphProto:
        b = self.b
        embed = self.weight("model.embed_tokens.weight")
        x = b.op("Gather", embed, "input_ids")
        self._rotary()
        self.new_mask = b.op("Concat", *["new_mask"] * self.groups, axis=0)
        shape = b.op("Shape", "past_mask")
        self.past_length = b.op("Gather", shape, b.constant([3]))
        outputs = []
        for i in range(self.layers):
            x = b.op("Add", x, self._attention(self._norm(x, f"model.layers.{i}.input_layernorm"), i))
            x = b.op("Add", x, self._mlp(self._norm(x, f"model.layers.{i}.post_attention_layernorm"), i))
            outputs += [f"key.{i}", f"value.{i}"]
        last = b.op("Gather", x, b.constant(np.array(-1, np.int64)), axis=1)
        b.op("Gemm", self._norm(last, "model.norm"), embed, transB=1, output="logits")
        return helper.make_graph(b.nodes, "organism", self._inputs(), self._outputs(outputs), b.initializers)

    def weight(self, name: str) -> str:
        if name not in self._weights:
            raise OrganismDataError(f"model.safetensors has no tensor {name}")
        return self.b.weight(name, self._weights[name], self._base, "model.safetensors")

    def _linear(self, x: str, name: str) -> str:
        return self.b.op("MatMul", x, self.b.op("Transpose", self.weight(f"{name}.weight"), perm=[1, 0]))

    def _norm(self, x: str, name: str) -> str:
        b = self.b
        mean = b.op("ReduceMean", b.op("Mul", x, x), b.constant([-1]), keepdims=1)
        root = b.op("Sqrt", b.op("Add", mean, b.constant(np.array(self.eps, np.float32))))
        return b.op("Mul", b.op("Div", x, root), self.weight(f"{name}.weight"))

    def _rotary(self) -> None:
        b, half = self.b, self.dim // 2
        frequencies = (self.theta ** (-np.arange(half, dtype=np.float64) / half)).astype(np.float32)
        positions = b.op("Unsqueeze", b.op("Cast", "positions", to=TensorProto.FLOAT), b.constant([1, 3]))
        angles = b.op("Mul", positions, b.constant(frequencies))  # [B, 1, T, D / 2]
        self.cos, self.sin = b.op("Cos", angles), b.op("Sin", angles)

    def _rotate(self, x: str) -> str:
        b = self.b
        first, second = b.split(x, axis=3, count=2)
        left = b.op("Sub", b.op("Mul", first, self.cos), b.op("Mul", second, self.sin))
        right = b.op("Add", b.op("Mul", second, self.cos), b.op("Mul", first, self.sin))
        return b.op("Concat", left, right, axis=3)

    def _heads(self, x: str, count: int) -> str:
        """[B, T, count * D] -> [B, T, count, D]."""
        return self.b.op("Reshape", x, self.b.constant([0, 0, count, self.dim]))

    def _attention(self, x: str, i: int) -> str:
        b, name = self.b, f"model.layers.{i}.self_attn"
        q = self._norm(self._heads(self._linear(x, f"{name}.q_proj"), self.heads), f"{name}.q_norm")
        k = self._norm(self._heads(self._linear(x, f"{name}.k_proj"), self.kv), f"{name}.k_norm")
        q = self._rotate(b.op("Transpose", q, perm=[0, 2, 1, 3]))
        k = b.op("Identity", self._rotate(b.op("Transpose", k, perm=[0, 2, 1, 3])), output=f"key.{i}")
        v = b.op(
            "Transpose", self._heads(self._linear(x, f"{name}.v_proj"), self.kv), perm=[0, 2, 1, 3], output=f"value.{i}"
        )
        # Query heads of one key head go into the time axis: [B, KV, groups * T, D].
        q = b.op(
            "Mul",
            b.op("Reshape", q, b.constant([0, self.kv, -1, self.dim])),
            b.constant(np.array(self.dim**-0.5, np.float32)),
        )
        past = b.op("Add", b.op("MatMul", q, b.op("Transpose", f"past_key.{i}", perm=[0, 1, 3, 2])), "past_mask")
        new = b.op("Add", b.op("MatMul", q, b.op("Transpose", k, perm=[0, 1, 3, 2])), self.new_mask)
        weights = b.op("Softmax", b.op("Concat", past, new, axis=3), axis=3)
        zero, end, axis = b.constant([0]), b.constant([np.iinfo(np.int64).max]), b.constant([3])
        from_past = b.op("MatMul", b.op("Slice", weights, zero, self.past_length, axis), f"past_value.{i}")
        from_new = b.op("MatMul", b.op("Slice", weights, self.past_length, end, axis), v)
        mixed = b.op("Reshape", b.op("Add", from_past, from_new), b.constant([0, self.heads, -1, self.dim]))
        flat = b.op("Reshape", b.op("Transpose", mixed, perm=[0, 2, 1, 3]), b.constant([0, 0, self.heads * self.dim]))
        return self._linear(flat, f"{name}.o_proj")

    def _mlp(self, x: str, i: int) -> str:
        b, name = self.b, f"model.layers.{i}.mlp"
        gate = self._linear(x, f"{name}.gate_proj")
        gate = b.op("Mul", gate, b.op("Sigmoid", gate))
        return self._linear(b.op("Mul", gate, self._linear(x, f"{name}.up_proj")), f"{name}.down_proj")

    def _inputs(self) -> list[onnx.ValueInfoProto]:
        past: list[str | int | None] = ["batch", self.kv, "past", self.dim]
        value = helper.make_tensor_value_info
        return [
            value("input_ids", TensorProto.INT64, ["batch", "time"]),
            value("positions", TensorProto.INT64, ["batch", "time"]),
            value("past_mask", TensorProto.FLOAT, ["batch", 1, 1, "past"]),
            value("new_mask", TensorProto.FLOAT, ["time", "time"]),
            *(
                value(f"past_{part}.{i}", TensorProto.FLOAT, past)
                for i in range(self.layers)
                for part in ("key", "value")
            ),
        ]

    def _outputs(self, names: list[str]) -> list[onnx.ValueInfoProto]:
        new: list[str | int | None] = ["batch", self.kv, "time", self.dim]
        return [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", self.vocab]),
            *(helper.make_tensor_value_info(name, TensorProto.FLOAT, new) for name in names),
        ]
