"""The network as an ONNX graph made for CPUs: exact rewrites, fused operators, optionally static int8.

What the graph computes is defined by `inference.astromae`; a test holds every variant against it. Operators of
the domain com.microsoft are onnxruntime's own
(https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
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
_OPSETS = {"": 21, "com.microsoft": 1}
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

    def own(self, kind: str, *inputs: str, **attributes: Any) -> str:
        return self.op(kind, *inputs, domain="com.microsoft", **attributes)

    def split(self, x: str, sizes: list[int], axis: int) -> list[str]:
        outputs = [f"v{len(self.nodes)}_{part}" for part in range(len(sizes))]
        return self.ops("Split", x, self.integers(*sizes), outputs=outputs, axis=axis)

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

    def average(self, x: str, size: int) -> str:
        return self.op("AveragePool", x, kernel_shape=[size, size], strides=[size, size])


class _Int8:
    """An activation in uint8, and Linear layers over it; in float32 where its range is not known."""

    def __init__(self, graph: _Graph, x: str, limits: tuple[float, float] | None) -> None:
        self._graph, self._x, self._quantised = graph, x, limits is not None
        if limits is not None:
            low, high = min(limits[0], 0.0), max(limits[1], 0.0)
            scale = max(high - low, 1e-6) / 255
            self._scale = graph.floats(scale)
            self._zero = graph.constant(np.array(round(-low / scale), np.uint8))
            self._x = graph.op("QuantizeLinear", x, self._scale, self._zero)

    def linear(self, layer: Affine) -> str:
        if not self._quantised:
            return self._graph.linear(self._x, layer)
        scales = np.maximum(np.abs(layer.weight).max(0), 1e-12) / 63  # 7 bits, one scale for each output
        graph, weight = self._graph, np.round(layer.weight / scales).astype(np.int8)
        inputs = [self._x, graph.constant(weight), self._scale, graph.floats(scales), self._zero, ""]
        return graph.own("MatMulIntegerToFloat", *inputs, graph.floats(layer.bias))


def _softened(g: _Graph, model: astromae.AstroMAE) -> str:
    """asinh(x / softening) as sign(v) · log(|v| + sqrt(v² + 1)), which is vectorised; Asinh itself is not."""
    if model.softening is None:
        return INPUTS[0]
    v = g.op("Mul", INPUTS[0], g.floats(1 / doubles(model.softening)))
    root = g.op("Sqrt", g.op("Add", g.op("Mul", v, v), g.floats(1.0)))
    return g.op("Mul", g.op("Sign", v), g.op("Log", g.op("Add", g.op("Abs", v), root)))


def _encoder_branch(g: _Graph, model: astromae.AstroMAE, images: str, ranges: Ranges) -> str:
    encoder, config = model.encoder, model.config
    x = _tokens(g, model, images)  # (N · (T + 1), D)
    blocks = [
        _Block(g, config, block, {layer: ranges.get(range_name(index, layer)) for layer in LAYERS})
        for index, block in enumerate(encoder.blocks)
    ]
    for block in blocks[:-1]:
        x = block.forward(x)
    pooled = blocks[-1].pooled(x)
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
    """One transformer block over rows of tokens, (N · (T + 1), D)."""

    def __init__(
        self,
        graph: _Graph,
        config: astromae.Config,
        block: Any,
        limits: Mapping[str, tuple[float, float] | None],
    ) -> None:
        self._g, self._config, self._block, self._limits = graph, config, block, limits

    def forward(self, x: str) -> str:
        g = self._g
        out = g.op("Add", self._attention(x, x), x)
        if self._block.parallel is not None:
            out = g.op("Add", out, self._parallel(x, with_class_token=True))
        hidden = _Int8(g, self._hidden(out), self._limits["contract"])
        return g.op("Add", hidden.linear(rewrites.affine(self._block.mlp[2])), out)

    def pooled(self, x: str) -> str:
        """The mean of the patch tokens behind this block, (N, D): nothing is computed for the class token but
        its key and value, and the second layer of the MLP runs on the mean."""
        g, tokens, width = self._g, self._config.tokens, self._config.width
        patches = self._patches(x)
        out = g.op("Add", self._attention(x, patches), patches)
        if self._block.parallel is not None:
            out = g.op("Add", out, self._parallel(patches, with_class_token=False))
        hidden = self._hidden(out)
        mean = [
            g.op("ReduceMean", g.reshape(rows, -1, tokens, columns), g.integers(1), keepdims=0)
            for rows, columns in ((hidden, self._block.mlp[2].in_features), (out, width))
        ]
        return g.op("Add", g.linear(mean[0], rewrites.affine(self._block.mlp[2])), mean[1])

    def _patches(self, x: str) -> str:
        """Rows without those of the class tokens."""
        g, tokens, width = self._g, self._config.tokens, self._config.width
        x = g.op(
            "Slice", g.reshape(x, -1, tokens + 1, width), g.integers(1), g.integers(tokens + 1), g.integers(1)
        )
        return g.reshape(x, -1, width)

    def _attention(self, x: str, asking: str) -> str:
        """Attention of the rows `asking` to all rows `x`."""
        g, width, tokens = self._g, self._config.width, self._config.tokens
        attention = self._block.attention
        layer = rewrites.queries_keys_values(attention)
        keyed = _Int8(g, g.normalised(x, self._block.attention_norm), self._limits["attention"])
        queries, length = keyed, tokens + 1
        if asking != x:
            normalised = g.normalised(asking, self._block.attention_norm)
            queries, length = _Int8(g, normalised, self._limits["attention"]), tokens
        q = g.reshape(queries.linear(layer.columns(0, width)), -1, length, width)
        k, v = (
            g.reshape(keyed.linear(layer.columns(n * width, (n + 1) * width)), -1, tokens + 1, width)
            for n in (1, 2)
        )
        mixed = g.own("MultiHeadAttention", q, k, v, num_heads=attention.heads)
        out = _Int8(g, g.reshape(mixed, -1, width), self._limits["project"])
        return out.linear(rewrites.affine(attention.project))

    def _hidden(self, x: str) -> str:
        """The MLP's first layer and its GELU."""
        g, first, limits = self._g, rewrites.affine(self._block.mlp[0]), self._limits["expand"]
        normalised = g.normalised(x, self._block.mlp_norm)
        if limits is not None:
            return g.own("Gelu", _Int8(g, normalised, limits).linear(first))
        return g.own("BiasGelu", g.op("MatMul", normalised, g.floats(first.weight)), g.floats(first.bias))

    def _parallel(self, x: str, with_class_token: bool) -> str:
        """The parallel convolution module; nothing comes from it for the class token."""
        g, config, module = self._g, self._config, self._block.parallel
        kernel, bias = rewrites.folded_normalisation(module.expand, module.norm)
        back, last_bias = doubles(module.contract.weight), doubles(module.contract.bias)
        if module.pointwise:
            out = self._pointwise(x, kernel, bias, back)
        else:
            x = self._patches(x) if with_class_token else x
            grid = g.op("Transpose", g.reshape(x, -1, config.tokens, config.width), perm=[0, 2, 1])
            grid = g.reshape(grid, -1, config.width, module.grid, module.grid)
            inner = self._silu(g.convolution(grid, kernel, bias, config.parallel_groups))
            grid = g.convolution(inner, back, np.zeros(config.width), config.parallel_groups)
            out = g.op("Transpose", g.reshape(grid, -1, config.width, config.tokens), perm=[0, 2, 1])
            if with_class_token:  # a row of anything in front; the mask below makes it zero
                out = g.op("Pad", out, g.integers(0, 1, 0, 0, 0, 0))
        if not with_class_token:
            return g.op("Add", g.reshape(out, -1, config.width), g.floats(last_bias))
        mask = np.ones((1, config.tokens + 1, 1))
        mask[0, 0] = 0
        out = g.op("Mul", g.reshape(out, -1, config.tokens + 1, config.width), g.floats(mask))
        return g.reshape(g.op("Add", out, g.floats(mask * last_bias)), -1, config.width)

    def _pointwise(self, x: str, kernel: Any, bias: Any, back: Any) -> str:
        g, groups = self._g, self._config.parallel_groups
        expand, contract = rewrites.block_diagonal(kernel, groups), rewrites.block_diagonal(back, groups, 128)
        if len(expand) != len(contract):
            contract = rewrites.block_diagonal(back, groups, back.shape[1] * groups // len(expand))
        biases = np.split(bias, len(expand))
        parts = g.split(x, [len(matrix) for matrix in expand], axis=1) if len(expand) > 1 else [x]
        outs = [
            g.op("MatMul", self._silu(g.linear(part, Affine(first, b))), g.floats(second))
            for part, first, b, second in zip(parts, expand, biases, contract, strict=True)
        ]
        return g.op("Concat", *outs, axis=1)

    def _silu(self, x: str) -> str:
        return self._g.own("QuickGelu", x, alpha=1.0)  # x · sigmoid(alpha · x)


def _inception_branch(g: _Graph, model: astromae.AstroMAE, images: str) -> str:
    x = g.average(images, 2)  # before the stem, which has no activation and merges into the first block
    before: Affine | None = rewrites.affine(model.inception.stem)
    for index, block in enumerate(model.inception.blocks):
        x, before = _inception_block(g, block, x, before), None
        if index in (1, 3):
            x = g.average(x, 2)
    first = rewrites.affine(model.inception_branch[0])
    return g.relu(g.linear(g.op("Flatten", x), first))


def _inception_block(g: _Graph, block: Any, x: str, before: Affine | None) -> str:
    pointwise, channels = rewrites.pointwise_convolutions(block, before)
    kernel = pointwise.weight.T[:, :, None, None]
    one, *reduced, pooled = g.split(g.relu(g.convolution(x, kernel, pointwise.bias)), channels, axis=1)
    paths = [one]
    wide = [block.three[1][0], *([] if block.five is None else [block.five[1][0]])]
    for value, layer in zip(reduced, wide, strict=True):
        paths.append(g.relu(g.convolution(value, doubles(layer.weight), doubles(layer.bias))))
    mean = g.op("AveragePool", pooled, kernel_shape=[3, 3], strides=[1, 1], pads=[1] * 4, count_include_pad=1)
    return g.op("Concat", *paths, mean, axis=1)


def _magnitude_branch(g: _Graph, model: astromae.AstroMAE) -> str:
    x = INPUTS[1]
    for layer in list(model.magnitude_branch)[:-1:2]:
        x = g.relu(g.linear(x, rewrites.affine(layer)))
    return x
