"""Nodes and weights of an ONNX graph as they are written, and its products in int8 and in bfloat16."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from cosmicai.model.rewrites import Affine, Convolution, doubles
from inference.engine import astromae


@dataclass
class Graph:
    """Nodes and weights; values are passed by name."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)

    def op(
        self, kind: str, *inputs: str, domain: str = "", output: str | None = None, **attributes: Any
    ) -> str:
        return self.ops(kind, *inputs, outputs=[output or f"v{len(self.nodes)}"], domain=domain, **attributes)[
            0
        ]

    def ops(
        self, kind: str, *inputs: str, outputs: list[str], domain: str = "", **attributes: Any
    ) -> list[str]:
        name = f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, outputs, name=name, domain=domain, **attributes))
        return outputs

    def kernel(self, kind: str, *inputs: str, **attributes: Any) -> str:
        return self.op(kind, *inputs, domain="cosmicai", **attributes)

    def constant(self, array: NDArray[Any]) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def floats(self, array: Any) -> str:
        return self.constant(np.asarray(array, np.float32))

    def integers(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))

    def reshape(self, x: str, *shape: int) -> str:
        return self.op("Reshape", x, self.integers(*shape))

    def activated(self, x: str, name: str) -> str:
        """An activation of `config.ACTIVATIONS`, as a config names it."""
        kind, argument = astromae.activation_parts(name)
        if kind == "identity":
            return x
        if kind == "silu":
            return self.op("Mul", x, self.op("Sigmoid", x))
        operator, attributes = _ACTIVATIONS[kind]
        if argument is not None:
            attributes = {"alpha": argument}
        return self.op(operator, x, **attributes)

    def stack(self, x: str, layers: Sequence[Affine], activation: str) -> tuple[str, Affine]:
        """All layers but the last, each with its activation; and the last, for what comes after."""
        *inner, last = layers
        for layer in inner:
            x = self.activated(self.linear(x, layer), activation)
        return x, last

    def linear(self, x: str, layer: Affine) -> str:
        return self.op("Gemm", x, self.floats(layer.weight), self.floats(layer.bias))

    def normalised(self, x: str, norm: Any, output: str | None = None) -> str:
        scale, bias = self.floats(doubles(norm.weight)), self.floats(doubles(norm.bias))
        return self.op("LayerNormalization", x, scale, bias, output=output, axis=-1, epsilon=norm.eps)

    def convolution(self, x: str, layer: Convolution, groups: int = 1) -> str:
        pads = [layer.kernel.shape[2] // 2] * 4
        return self.op("Conv", x, self.floats(layer.kernel), self.floats(layer.bias), group=groups, pads=pads)

    def pool(self, x: str, kind: str, size: int, stride: int, padding: int = 0) -> str:
        """A pool of `astromae.POOLS`: means count the padding, which is zeros; maxima do not."""
        sizes: dict[str, Any] = {"kernel_shape": [size] * 2, "strides": [stride] * 2, "pads": [padding] * 4}
        if kind == "max":
            return self.op("MaxPool", x, **sizes)
        return self.op("AveragePool", x, count_include_pad=1, **sizes)


_ACTIVATIONS: dict[str, tuple[str, dict[str, Any]]] = {  # the operators of those that are one operator
    "relu": ("Relu", {}),
    "gelu": ("Gelu", {}),
    "gelu_tanh": ("Gelu", {"approximate": "tanh"}),
    "tanh": ("Tanh", {}),
    "sigmoid": ("Sigmoid", {}),
    "leaky_relu": ("LeakyRelu", {}),
    "elu": ("Elu", {}),
}


@dataclass(frozen=True)
class Activation:
    """What enters a Linear layer: float32, or uint8 if its scale and zero are given.

    in_bfloat16: whether the layer multiplies in bfloat16, for which it rounds the float32 values itself.
    """

    graph: Graph
    value: str
    scale: str | None = None
    zero: str | None = None
    in_bfloat16: bool = field(default=False, kw_only=True)

    def times(self, weight: NDArray[Any]) -> str:
        """Its product with `weight` (inputs, outputs) in float32; what reads it adds the bias."""
        graph = self.graph
        if self.in_bfloat16:
            return graph.kernel(BFLOAT16_PRODUCT.name, self.value, graph.constant(rounded(weight)))
        if self.scale is None or self.zero is None:
            return graph.op("MatMul", self.value, graph.floats(weight))
        narrow, scales = narrowed(weight)
        inputs = [self.value, graph.constant(narrow), self.scale, graph.floats(scales), self.zero]
        return graph.kernel(PRODUCT.name, *inputs)


PRODUCT = helper.make_function(
    "cosmicai",
    "MatMulUint8",
    inputs := ["x", "weight", "scale", "scales", "zero"],
    ["product"],
    [helper.make_node("MatMulIntegerToFloat", inputs, ["product"], domain="com.microsoft")],
    [helper.make_opsetid("com.microsoft", 1)],
)
"""A product of uint8 by int8. Where the kernels have none, onnxruntime computes this definition."""

BFLOAT16_PRODUCT = helper.make_function(
    "cosmicai",
    "MatMulBfloat16",
    ["x", "weight"],
    ["product"],
    [
        helper.make_node("Cast", ["x"], ["rounded"], to=TensorProto.BFLOAT16),
        helper.make_node("Cast", ["rounded"], ["values"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["weight"], ["weights"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["values", "weights"], ["product"]),
    ],
    [helper.make_opsetid("", 21)],
)
"""A product of float32, rounded to bfloat16, by bfloat16. Where the kernels have none, onnxruntime computes
this definition, which takes a little longer than float32."""


def rounded(weight: NDArray[Any]) -> NDArray[Any]:
    """A matrix in bfloat16, each value rounded to the nearest."""
    return weight.astype(np.float32).astype(helper.tensor_dtype_to_np_dtype(TensorProto.BFLOAT16))


_MOST_OF_FOUR = 128  # 255 times that is still an int16


def narrowed(weight: NDArray[Any]) -> tuple[NDArray[np.int8], NDArray[np.float64]]:
    """A matrix (inputs, outputs) as int8, and the scale (outputs,) of each column.

    With AVX2 four products are added in 16 bits: of a pair of inputs, and of the pair four inputs later. An
    activation is at most 255, so no sum overflows if the weights of each sign among those four add up to at
    most 128.
    """
    fours = np.pad(weight, ((0, -len(weight) % 8), (0, 0))).reshape(-1, 2, 2, 2, weight.shape[1])
    largest = np.maximum(fours.clip(0).sum((1, 3)), (-fours).clip(0).sum((1, 3))).max((0, 1))
    scales = np.maximum(largest, 1e-12) / (_MOST_OF_FOUR - 2)  # rounding adds at most a half to each
    return np.round(weight / scales).astype(np.int8), scales


class Quantiser:
    """The uint8 of a layer's activations; float32 if their range is not known.

    in_bfloat16: whether the layer multiplies float32 activations in bfloat16.
    """

    def __init__(
        self, graph: Graph, limits: tuple[float, float] | None = None, in_bfloat16: bool = False
    ) -> None:
        self._graph, self.parameters, self._in_bfloat16 = graph, list[str](), in_bfloat16
        if limits is not None:
            low, high = min(limits[0], 0.0), max(limits[1], 0.0)
            scale = max(high - low, 1e-6) / 255
            self.parameters = [graph.floats(scale), graph.constant(np.array(round(-low / scale), np.uint8))]

    def kernel(self, kind: str, *inputs: str, outputs: Sequence[str] = (), **attributes: Any) -> Activation:
        """A kernel whose last output is such an activation; `outputs`: those before it."""
        kind += "ToUint8" if self.parameters else ""
        last = f"v{len(self._graph.nodes)}"
        names = [*outputs, last]
        self._graph.ops(kind, *inputs, *self.parameters, outputs=names, domain="cosmicai", **attributes)
        return self._activation(last)

    def of(self, value: str) -> Activation:
        if self.parameters:
            value = self._graph.op("QuantizeLinear", value, *self.parameters)
        return self._activation(value)

    def _activation(self, value: str) -> Activation:
        return Activation(self._graph, value, *self.parameters, in_bfloat16=self._in_bfloat16)
