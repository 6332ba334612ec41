"""The network as an ONNX graph made for CPUs: exact rewrites, fused operators, optionally static int8.

What the graph computes is defined by `inference.astromae`; a test holds every variant against it. Operators of
the domain cosmicai are those of functions/inference/kernels, those of com.microsoft onnxruntime's own
(https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from cosmicai.model import rewrites
from cosmicai.model.rewrites import Affine, doubles
from inference import astromae

Ranges = Mapping[str, tuple[float, float]]
"""Smallest and largest value that enters a Linear layer of the encoder's blocks, by `range_name`."""

INPUTS = ("images", "magnitudes")
OUTPUT = "redshift"
_OPSETS = {"": 21, "com.microsoft": 1, "cosmicai": 1}
_IR_VERSION = 10


LAYERS = ("attention", "project", "expand", "contract")
"""A block's Linear layers that may multiply in int8: queries, keys and values; behind attention; the MLP's."""


def range_name(block: int, layer: str) -> str:
    return f"{block}.{layer}"


def build(model: astromae.AstroMAE, ranges: Ranges | None = None) -> onnx.ModelProto:
    """The graph of images (N, C, S, S) and magnitudes (N, M) to redshift (N,), float32, any N.

    ranges: given, the Linear layers of the encoder's blocks multiply in int8, with weights of 7 bits so that
    AVX2's 16-bit sums cannot overflow, and activations scaled by the ranges: a galaxy's redshift does not
    depend on its neighbours in a batch.
    """
    g, config = _Graph(), model.config
    images = _softened(g, model)
    branches = [
        _encoder_branch(g, model, images, ranges or {}),
        _inception_branch(g, model, images),
        _magnitude_branch(g, model),
    ]
    hidden = g.relu(g.linear(g.op("Concat", *branches, axis=1), rewrites.fusion(model)))
    redshift = g.linear(hidden, rewrites.affine(model.fusion[-1]))
    g.op("Reshape", redshift, g.integers(-1), output=OUTPUT)
    shape: list[str | int | None] = ["N", config.channels, config.image_size, config.image_size]
    inputs = [
        helper.make_tensor_value_info(INPUTS[0], TensorProto.FLOAT, shape),
        helper.make_tensor_value_info(INPUTS[1], TensorProto.FLOAT, ["N", config.magnitudes]),
    ]
    output = helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["N"])
    graph = helper.make_graph(g.nodes, "astromae", inputs, [output], g.weights)
    opsets = [helper.make_opsetid(domain, version) for domain, version in _OPSETS.items()]
    return helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION, producer_name="cosmicai")


@dataclass
class _Graph:
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

    def relu(self, x: str) -> str:
        return self.op("Relu", x)

    def linear(self, x: str, layer: Affine) -> str:
        return self.op("Gemm", x, self.floats(layer.weight), self.floats(layer.bias))

    def normalised(self, x: str, norm: Any) -> str:
        scale, bias = self.floats(doubles(norm.weight)), self.floats(doubles(norm.bias))
        return self.op("LayerNormalization", x, scale, bias, axis=-1, epsilon=norm.eps)

    def convolution(self, x: str, kernel: NDArray[Any], bias: NDArray[Any], groups: int = 1) -> str:
        pads = [kernel.shape[2] // 2] * 4
        return self.op("Conv", x, self.floats(kernel), self.floats(bias), group=groups, pads=pads)


@dataclass(frozen=True)
class _Activation:
    """What enters a Linear layer: float32, or uint8 where its scale and zero are given."""

    graph: _Graph
    value: str
    scale: str | None = None
    zero: str | None = None

    def times(self, weight: NDArray[Any]) -> str:
        """Its product with `weight` (inputs, outputs) in float32; what reads it adds the bias."""
        graph = self.graph
        if self.scale is None or self.zero is None:
            return graph.op("MatMul", self.value, graph.floats(weight))
        scales = np.maximum(np.abs(weight).max(0), 1e-12) / 63  # 7 bits, one scale for each output
        narrow = graph.constant(np.round(weight / scales).astype(np.int8))
        inputs = [self.value, narrow, self.scale, graph.floats(scales), self.zero]
        return graph.op("MatMulIntegerToFloat", *inputs, domain="com.microsoft")


class _Quantiser:
    """The uint8 of a layer's activations; float32 where their range is not known."""

    def __init__(self, graph: _Graph, limits: tuple[float, float] | None) -> None:
        self._graph, self.parameters = graph, list[str]()
        if limits is not None:
            low, high = min(limits[0], 0.0), max(limits[1], 0.0)
            scale = max(high - low, 1e-6) / 255
            self.parameters = [graph.floats(scale), graph.constant(np.array(round(-low / scale), np.uint8))]

    def kernel(self, kind: str, *inputs: str, outputs: Sequence[str] = (), **attributes: Any) -> _Activation:
        """A kernel that gives its last output so; `outputs` are those in front of it."""
        kind += "ToUint8" if self.parameters else ""
        last = f"v{len(self._graph.nodes)}"
        names = [*outputs, last]
        self._graph.ops(kind, *inputs, *self.parameters, outputs=names, domain="cosmicai", **attributes)
        return _Activation(self._graph, last, *self.parameters)

    def of(self, value: str) -> _Activation:
        if self.parameters:
            value = self._graph.op("QuantizeLinear", value, *self.parameters)
        return _Activation(self._graph, value, *self.parameters)


def _softened(g: _Graph, model: astromae.AstroMAE) -> str:
    """asinh(x / softening), each channel with its own; the images themselves where the network has none."""
    if model.softening is None:
        return INPUTS[0]
    return g.kernel("Soften", INPUTS[0], g.floats(1 / doubles(model.softening).ravel()))


def _encoder_branch(g: _Graph, model: astromae.AstroMAE, images: str, ranges: Ranges) -> str:
    encoder, config = model.encoder, model.config
    x = _tokens(g, model, images)  # (N · (T + 1), D)
    blocks = [
        _Block(g, config, block, {layer: ranges.get(range_name(index, layer)) for layer in LAYERS})
        for index, block in enumerate(encoder.blocks)
    ]
    normalised = blocks[0].entered(x)
    for block, following in pairwise(blocks):
        x, normalised = block.forward(x, normalised, following)
    pooled = blocks[-1].pooled(x, normalised)
    head = rewrites.affine(encoder.head).then(rewrites.affine(model.encoder_branch[0]))
    return g.relu(g.linear(g.normalised(pooled, encoder.norm), head))


def _tokens(g: _Graph, model: astromae.AstroMAE, images: str) -> str:
    """Patches as rows, embedded, with their positions and the class token in front."""
    encoder, config = model.encoder, model.config
    grid, patch, width = config.image_size // config.patch_size, config.patch_size, config.width
    x = g.reshape(images, -1, config.channels, grid, patch, grid, patch)
    x = g.reshape(g.op("Transpose", x, perm=[0, 2, 4, 1, 3, 5]), -1, config.channels * patch * patch)
    embed, positions = rewrites.affine(encoder.embed), doubles(encoder.positions)
    x = g.reshape(g.op("MatMul", x, g.floats(embed.weight)), -1, config.tokens, width)
    x = g.op("Add", x, g.floats(positions[:, 1:] + embed.bias))
    count = g.op("Shape", x, start=0, end=1)
    first = g.floats(doubles(encoder.class_token) + positions[:, :1])
    first = g.op("Expand", first, g.op("Concat", count, g.integers(1, width), axis=0))
    return g.reshape(g.op("Concat", first, x, axis=1), -1, width)


class _Block:
    """One transformer block over rows of tokens, (N · (T + 1), D).

    A product leaves its bias to the kernel that reads it, which adds the residual and normalises, too.
    """

    def __init__(
        self,
        graph: _Graph,
        config: astromae.Config,
        block: Any,
        limits: Mapping[str, tuple[float, float] | None],
    ) -> None:
        self._g, self._config, self._block = graph, config, block
        self._quantisers = {layer: _Quantiser(graph, limits[layer]) for layer in LAYERS}

    def entered(self, x: str) -> _Activation:
        """What the first block's attention reads."""
        return self._quantisers["attention"].of(self._g.normalised(x, self._block.attention_norm))

    def forward(self, x: str, normalised: _Activation, following: _Block) -> tuple[str, _Activation]:
        """The block's output, and its normalisation for the attention of the block behind it."""
        out, hidden = self._hidden(x, normalised, skipped=0)
        last = rewrites.affine(self._block.mlp[2])
        norm, quantiser = following._block.attention_norm, following._quantisers["attention"]
        return self._add_norm(hidden.times(last.weight), last.bias, out, norm, quantiser)

    def pooled(self, x: str, normalised: _Activation) -> str:
        """The mean of the patch tokens behind this block, (N, D): nothing is computed for the class token but
        its query, key and value, and the second layer of the MLP runs on the mean."""
        g, tokens, width = self._g, self._config.tokens, self._config.width
        self._quantisers["contract"] = _Quantiser(g, None)
        out, hidden = self._hidden(x, normalised, skipped=1)
        mean = [
            g.op("ReduceMean", g.reshape(rows, -1, tokens, columns), g.integers(1), keepdims=0)
            for rows, columns in ((hidden.value, self._block.mlp[2].in_features), (out, width))
        ]
        return g.op("Add", g.linear(mean[0], rewrites.affine(self._block.mlp[2])), mean[1])

    def _hidden(self, x: str, normalised: _Activation, skipped: int) -> tuple[str, _Activation]:
        """What attention and the parallel module make of x, and of that the MLP's first layer with its GELU."""
        project, expand = rewrites.affine(self._block.attention.project), rewrites.affine(self._block.mlp[0])
        attended = self._attention(normalised, skipped).times(project.weight)
        residual = self._parallel(x, skipped)
        norm, quantiser = self._block.mlp_norm, self._quantisers["expand"]
        out, normalised = self._add_norm(attended, project.bias, residual, norm, quantiser)
        bias = self._g.floats(expand.bias)
        hidden = self._quantisers["contract"].kernel("Gelu", normalised.times(expand.weight), bias)
        return out, hidden

    def _add_norm(
        self, product: str, bias: NDArray[Any], residual: str, norm: Any, quantiser: _Quantiser
    ) -> tuple[str, _Activation]:
        g = self._g
        scale, shift = g.floats(doubles(norm.weight)), g.floats(doubles(norm.bias))
        inputs, out = [product, g.floats(bias), residual, scale, shift], f"v{len(g.nodes)}_sum"
        return out, quantiser.kernel("AddNorm", *inputs, outputs=[out], epsilon=norm.eps)

    def _attention(self, normalised: _Activation, skipped: int) -> _Activation:
        """Of each galaxy's tokens but the first `skipped` to all of them."""
        attention, tokens = self._block.attention, self._config.tokens + 1
        layer = rewrites.queries_keys_values(attention)
        return self._quantisers["project"].kernel(
            "Attention",
            normalised.times(layer.weight),
            self._g.floats(layer.bias),
            tokens=tokens,
            heads=attention.heads,
            skipped=skipped,
        )

    def _parallel(self, x: str, skipped: int) -> str:
        """x with the parallel convolution module's output added to the patch tokens, without the first
        `skipped` tokens of each galaxy."""
        g, config, module = self._g, self._config, self._block.parallel
        if module is None:
            return self._patches(x) if skipped else x
        kernel, bias = rewrites.folded_normalisation(module.expand, module.norm)
        back, last_bias = doubles(module.contract.weight), doubles(module.contract.bias)
        groups = config.parallel_groups
        if module.pointwise:
            first, second = (k.reshape(groups, -1, k.shape[1]) for k in (kernel, back))
            weights = [g.floats(array) for array in (first, bias, second, last_bias)]
            return g.kernel("Parallel", x, *weights, tokens=config.tokens + 1, skipped=skipped)
        patches = self._patches(x)
        grid = g.op("Transpose", g.reshape(patches, -1, config.tokens, config.width), perm=[0, 2, 1])
        grid = g.reshape(grid, -1, config.width, module.grid, module.grid)
        inner = g.convolution(grid, kernel, bias, groups)
        inner = g.op("Mul", inner, g.op("Sigmoid", inner))
        grid = g.convolution(inner, back, last_bias, groups)
        out = g.op("Transpose", g.reshape(grid, -1, config.width, config.tokens), perm=[0, 2, 1])
        if skipped:
            return g.op("Add", g.reshape(out, -1, config.width), patches)
        out = g.op("Pad", out, g.integers(0, 1, 0, 0, 0, 0))  # nothing for the class token
        return g.op("Add", g.reshape(out, -1, config.width), x)

    def _patches(self, x: str) -> str:
        """Rows without those of the class tokens."""
        g, tokens, width = self._g, self._config.tokens, self._config.width
        x = g.op(
            "Slice", g.reshape(x, -1, tokens + 1, width), g.integers(1), g.integers(tokens + 1), g.integers(1)
        )
        return g.reshape(x, -1, width)


def _inception_branch(g: _Graph, model: astromae.AstroMAE, images: str) -> str:
    """The kernel averages over 2×2 pixels before the stem, which has no activation: it is merged into the 1×1
    convolutions of the first block."""
    plan, weights = rewrites.inception(model.inception)
    features = g.kernel("Inception", images, g.constant(plan), g.floats(weights))
    return g.relu(g.linear(features, rewrites.affine(model.inception_branch[0])))


def _magnitude_branch(g: _Graph, model: astromae.AstroMAE) -> str:
    x = INPUTS[1]
    for layer in list(model.magnitude_branch)[:-1:2]:
        x = g.relu(g.linear(x, rewrites.affine(layer)))
    return x
