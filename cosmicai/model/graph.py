"""The network as an ONNX graph made for CPUs: exact rewrites, fused operators, optionally int8 or bfloat16.

`inference.engine.astromae` defines what the graph computes; a test holds every variant against it. Operators of
the domain cosmicai are those of functions/inference/engine/kernels, which compute the published variant. The
parts of another variant (an activation, a kind of pool) are standard operators. Those of com.microsoft are
onnxruntime's own (https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from itertools import pairwise
from typing import Any

import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from cosmicai.model import rewrites
from cosmicai.model.nodes import BFLOAT16_PRODUCT, PRODUCT, Activation, Graph, Quantiser
from cosmicai.model.rewrites import doubles
from inference.engine import astromae
from inference.engine.interface import DENSITY, EMBEDDING, REDSHIFT

Ranges = Mapping[str, tuple[float, float]]
"""Smallest and largest value that enters a Linear layer of the encoder's blocks, by `range_name`."""

INPUTS = ("images", "magnitudes")
_OPSETS = {"": 21, "com.microsoft": 1, "cosmicai": 1}
_IR_VERSION = 10


LAYERS = ("attention", "project", "expand", "contract")
"""A block's Linear layers that may multiply in int8 or bfloat16: queries, keys and values; after attention; in
the MLP."""


def range_name(block: int, layer: str) -> str:
    return f"{block}.{layer}"


def build(model: astromae.AstroMAE, ranges: Ranges | None = None, in_bfloat16: bool = False) -> onnx.ModelProto:
    """The graph of images (N, C, S, S) and magnitudes (N, M) to redshift (N,) and embedding (N, D): float32.

    A network with a head for p(z) also gives density (N, K), the probabilities of its bins.

    ranges: if given, the Linear layers of the encoder's blocks multiply in int8, with weights whose 16-bit sums
    cannot overflow in AVX2, and activations scaled by the ranges: a galaxy's redshift does not depend on its
    neighbours in a batch. in_bfloat16: if true, without ranges, these layers multiply in bfloat16.
    """
    g, config = Graph(), model.config
    images = _softened(g, model)
    head, *encoder_layers = rewrites.stack(model.encoder_branch)
    encoder_layers.insert(0, rewrites.affine(model.encoder.head).then(head))
    branches = [
        g.stack(
            _encoded(g, model, images, ranges or {}, in_bfloat16),
            encoder_layers,
            config.encoder_branch.activation,
        ),
        g.stack(
            _inception_features(g, model, images),
            rewrites.stack(model.inception_branch),
            config.inception_branch.activation,
        ),
        g.stack(INPUTS[1], rewrites.stack(model.magnitude_branch), config.magnitude_branch.activation),
    ]
    hidden = g.op("Concat", *(hidden for hidden, _ in branches), axis=1)
    first, *others = rewrites.stack(model.fusion)
    ends = [last for _, last in branches]
    hidden, last = g.stack(hidden, [rewrites.merged(ends, first), *others], config.fusion.activation)
    g.op("Reshape", g.linear(hidden, last), g.integers(-1), output=REDSHIFT)
    if model.density is not None:
        head = rewrites.affine(model.density)
        logits = g.linear(hidden, head if others else rewrites.merged(ends, head))
        g.op("Softmax", logits, axis=1, output=DENSITY)
    shape: list[str | int | None] = ["N", config.channels, config.image_size, config.image_size]
    inputs = [
        helper.make_tensor_value_info(INPUTS[0], TensorProto.FLOAT, shape),
        helper.make_tensor_value_info(INPUTS[1], TensorProto.FLOAT, ["N", config.magnitudes]),
    ]
    outputs = [
        helper.make_tensor_value_info(REDSHIFT, TensorProto.FLOAT, ["N"]),
        helper.make_tensor_value_info(EMBEDDING, TensorProto.FLOAT, ["N", config.width]),
    ]
    if config.density_bins:
        outputs.append(helper.make_tensor_value_info(DENSITY, TensorProto.FLOAT, ["N", config.density_bins]))
    graph = helper.make_graph(g.nodes, "astromae", inputs, outputs, g.weights)
    opsets = [helper.make_opsetid(domain, version) for domain, version in _OPSETS.items()]
    functions = [PRODUCT] if ranges else [BFLOAT16_PRODUCT] if in_bfloat16 else []
    return helper.make_model(
        graph, opset_imports=opsets, ir_version=_IR_VERSION, producer_name="cosmicai", functions=functions
    )


def _softened(g: Graph, model: astromae.AstroMAE) -> str:
    """asinh(x / softening), each channel with its own; the images themselves if the network has none."""
    if model.softening is None:
        return INPUTS[0]
    return g.kernel("Soften", INPUTS[0], g.floats(1 / doubles(model.softening).ravel()))


def _encoded(g: Graph, model: astromae.AstroMAE, images: str, ranges: Ranges, in_bfloat16: bool) -> str:
    """The normalised mean of the patch tokens, (N, D), which is the graph's embedding."""
    encoder, config = model.encoder, model.config
    x = _tokens(g, model, images)  # (N · (T + 1), D)
    blocks = [
        _Block(
            g,
            config,
            block,
            {layer: Quantiser(g, ranges.get(range_name(index, layer)), in_bfloat16) for layer in LAYERS},
        )
        for index, block in enumerate(encoder.blocks)
    ]
    normalised = blocks[0].entered(x)
    for block, following in pairwise(blocks):
        x, normalised = block.forward(x, normalised, following)
    return g.normalised(blocks[-1].pooled(x, normalised), encoder.norm, EMBEDDING)


def _tokens(g: Graph, model: astromae.AstroMAE, images: str) -> str:
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
        self, graph: Graph, config: astromae.Config, block: Any, quantisers: dict[str, Quantiser]
    ) -> None:
        """quantisers: of what enters each of the layers in LAYERS."""
        self._g, self._config, self._block, self._quantisers = graph, config, block, quantisers

    def entered(self, x: str) -> Activation:
        """What the first block's attention reads."""
        return self._quantisers["attention"].of(self._g.normalised(x, self._block.attention_norm))

    def forward(self, x: str, normalised: Activation, following: _Block) -> tuple[str, Activation]:
        """The block's output, and its normalisation for the attention of the block after it."""
        out, hidden = self._hidden(x, normalised, skipped=0)
        last = rewrites.affine(self._block.mlp[2])
        norm, quantiser = following._block.attention_norm, following._quantisers["attention"]
        return self._add_norm(hidden.times(last.weight), last.bias, out, norm, quantiser)

    def pooled(self, x: str, normalised: Activation) -> str:
        """The mean of the patch tokens after this block, (N, D): nothing is computed for the class token but
        its query, key and value, and the second layer of the MLP runs on the mean."""
        g, tokens, width = self._g, self._config.tokens, self._config.width
        self._quantisers["contract"] = Quantiser(g)
        out, hidden = self._hidden(x, normalised, skipped=1)
        mean = [
            g.op("ReduceMean", g.reshape(rows, -1, tokens, columns), g.integers(1), keepdims=0)
            for rows, columns in ((hidden.value, self._block.mlp[2].in_features), (out, width))
        ]
        return g.op("Add", g.linear(mean[0], rewrites.affine(self._block.mlp[2])), mean[1])

    def _hidden(self, x: str, normalised: Activation, skipped: int) -> tuple[str, Activation]:
        """x after attention and the parallel module, and the MLP's activated first layer of that."""
        project, expand = rewrites.affine(self._block.attention.project), rewrites.affine(self._block.mlp[0])
        attended = self._attention(normalised, skipped).times(project.weight)
        residual = self._parallel(x, skipped)
        norm, quantiser = self._block.mlp_norm, self._quantisers["expand"]
        out, normalised = self._add_norm(attended, project.bias, residual, norm, quantiser)
        hidden, bias = normalised.times(expand.weight), self._g.floats(expand.bias)
        if self._config.mlp_activation == "gelu":
            return out, self._quantisers["contract"].kernel("Gelu", hidden, bias)
        hidden = self._g.activated(self._g.op("Add", hidden, bias), self._config.mlp_activation)
        return out, self._quantisers["contract"].of(hidden)

    def _add_norm(
        self, product: str, bias: NDArray[Any], residual: str, norm: Any, quantiser: Quantiser
    ) -> tuple[str, Activation]:
        g = self._g
        scale, shift = g.floats(doubles(norm.weight)), g.floats(doubles(norm.bias))
        inputs, out = [product, g.floats(bias), residual, scale, shift], f"v{len(g.nodes)}_sum"
        return out, quantiser.kernel("AddNorm", *inputs, outputs=[out], epsilon=norm.eps)

    def _attention(self, normalised: Activation, skipped: int) -> Activation:
        """The attention of each galaxy's tokens, except the first `skipped`, to all of them."""
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
        expand = rewrites.folded(module.expand, module.norm)
        contract = rewrites.convolution(module.contract)
        groups, activation = config.parallel_groups, config.parallel_activation
        if module.pointwise and activation == "silu":
            first, second = (
                layer.kernel.reshape(groups, -1, layer.kernel.shape[1]) for layer in (expand, contract)
            )
            weights = [g.floats(array) for array in (first, expand.bias, second, contract.bias)]
            return g.kernel("Parallel", x, *weights, tokens=config.tokens + 1, skipped=skipped)
        patches = self._patches(x)
        grid = g.op("Transpose", g.reshape(patches, -1, config.tokens, config.width), perm=[0, 2, 1])
        grid = g.reshape(grid, -1, config.width, module.grid, module.grid)
        inner = g.activated(g.convolution(grid, expand, groups), activation)
        grid = g.convolution(inner, contract, groups)
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


def _inception_features(g: Graph, model: astromae.AstroMAE, images: str) -> str:
    """The Inception branch up to its flat features."""
    config, branch = model.config, model.inception
    kinds = (config.inception_activation, config.inception_pool, config.inception_pool_size, config.halving)
    if kinds == ("relu", "max", 3, "average"):
        plan, weights = rewrites.inception(branch)
        return g.kernel("Inception", images, g.constant(plan), g.floats(weights))
    stem = rewrites.convolution(branch.stem)
    halve = partial(g.pool, kind=config.halving, size=2, stride=2)
    x = halve(g.convolution(images, stem))
    for index, block in enumerate(branch.blocks):
        x = _inception_block(g, config, rewrites.inception_layers(block), x)
        if index in astromae.HALVED_AFTER:
            x = halve(x)
    return g.reshape(x, -1, branch.outputs)


def _inception_block(g: Graph, config: astromae.Config, layers: rewrites.InceptionLayers, x: str) -> str:
    size = config.inception_pool_size
    pooled = g.pool(x, config.inception_pool, size, stride=1, padding=size // 2)
    paths = [(x, [layers.one]), (x, layers.three), (x, layers.five or ()), (pooled, [layers.pooled])]
    outputs = []
    for value, path in paths:
        for layer in path:
            value = g.activated(g.convolution(value, layer), config.inception_activation)
        outputs += [value] if path else []
    return g.op("Concat", *outputs, axis=1)
