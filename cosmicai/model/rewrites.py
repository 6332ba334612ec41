"""Exact rewrites of the network: fewer operations for the same function, all computed in float64.

Each function takes layers of `inference.astromae` and gives the weights of what replaces them. Matrices are
(inputs, outputs), as ONNX multiplies them: x @ weight + bias.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from inference import astromae

Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Affine:
    """x @ weight + bias, weight (inputs, outputs), bias (outputs,)."""

    weight: Doubles
    bias: Doubles

    def then(self, other: Affine) -> Affine:
        """This layer and `other` behind it, with nothing in between, as one."""
        return Affine(self.weight @ other.weight, self.bias @ other.weight + other.bias)

    def columns(self, start: int, stop: int) -> Affine:
        return Affine(self.weight[:, start:stop], self.bias[start:stop])


def doubles(tensor: Tensor) -> Doubles:
    array: Doubles = tensor.detach().cpu().double().numpy()
    return array


def affine(layer: nn.Module) -> Affine:
    """A Linear layer, or a convolution with kernel 1 over its channels."""
    if not isinstance(layer, nn.Linear | nn.Conv2d) or layer.bias is None:
        raise TypeError(f"{type(layer).__name__} is neither a Linear layer nor a convolution with a bias")
    weight = doubles(layer.weight)
    return Affine(weight.reshape(len(weight), -1).T, doubles(layer.bias))


def queries_keys_values(attention: astromae.Attention) -> Affine:
    """The projection (D, 3D) with the missing key bias as zeros."""
    keys = attention.query_bias * 0 if attention.key_bias is None else attention.key_bias
    bias = np.concatenate([doubles(b) for b in (attention.query_bias, keys, attention.value_bias)])
    return Affine(doubles(attention.qkv.weight).T, bias)


def folded_normalisation(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Doubles, Doubles]:
    """Kernel and bias of the convolution with the BatchNorm behind it folded in (inference only)."""
    mean, variance = (norm.running_mean, norm.running_var)
    if convolution.bias is None or mean is None or variance is None:
        raise TypeError("the convolution lacks a bias, or the BatchNorm its running statistics")
    scale = doubles(norm.weight) / np.sqrt(doubles(variance) + norm.eps)
    bias = (doubles(convolution.bias) - doubles(mean)) * scale + doubles(norm.bias)
    return doubles(convolution.weight) * scale[:, None, None, None], bias


def fusion(model: astromae.AstroMAE) -> Affine:
    """The first fusion layer with the last Linear of each of the three branches merged into its slice of it."""
    first = affine(model.fusion[0])
    ends = [affine(b[-1]) for b in (model.encoder_branch, model.inception_branch, model.magnitude_branch)]
    edges = np.cumsum([0, *(end.weight.shape[1] for end in ends)])
    slices = [first.weight[a:b] for a, b in pairwise(edges)]
    weight = np.concatenate([end.weight @ part for end, part in zip(ends, slices, strict=True)])
    bias = first.bias + sum(end.bias @ part for end, part in zip(ends, slices, strict=True))
    return Affine(weight, bias)


@dataclass(frozen=True)
class Convolution:
    """kernel (outputs, inputs, k, k), bias (outputs,)."""

    kernel: Doubles
    bias: Doubles


PACKED = 6  # outputs whose weights lie side by side; kernels.cpp


def packed(layer: Convolution) -> Doubles:
    """The weights (outputs / 6, k, k, inputs, 6) and then the bias, outputs filled up by zeros, in one row."""
    missing = -len(layer.bias) % PACKED
    kernel = np.pad(layer.kernel, ((0, missing), (0, 0), (0, 0), (0, 0)))
    kernel = kernel.reshape(-1, PACKED, *kernel.shape[1:]).transpose(0, 3, 4, 2, 1)
    return np.concatenate([kernel.ravel(), np.pad(layer.bias, (0, missing))])


def inception_layers(block: astromae.InceptionBlock, before: Affine | None = None) -> list[Convolution | None]:
    """An Inception block's convolutions, each with a ReLU behind it: 1×1; 1×1 and 3×3; 1×1 and 5×5, None where
    the block lacks that path; 1×1 before the pooled path.

    before: a 1×1 convolution without activation in front of the block, which is merged into those with
    kernel 1. An average pool between them may go before both: it commutes with 1×1 convolutions.
    """

    def pointwise(layer: Any) -> Convolution:
        merged = affine(layer[0]) if before is None else before.then(affine(layer[0]))
        return Convolution(merged.weight.T[:, :, None, None], merged.bias)

    def path(layers: Any) -> list[Convolution | None]:
        if layers is None:
            return [None, None]
        wide = layers[1][0]
        return [pointwise(layers[0]), Convolution(doubles(wide.weight), doubles(wide.bias))]

    return [pointwise(block.one), *path(block.three), *path(block.five), pointwise(block.pooled)]


def inception(branch: astromae.Inception) -> tuple[NDArray[np.int64], Doubles]:
    """What the kernel of the Inception branch reads: its plan (blocks, 8), and all weights in a row.

    The stem, which has no activation, is merged into the 1×1 convolutions of the first block.
    """
    before: Affine | None = affine(branch.stem)
    plan, weights = [], []
    for index, block in enumerate(branch.blocks):
        if not isinstance(block, astromae.InceptionBlock):
            raise TypeError(f"{type(block).__name__} is no Inception block")
        layers, before = inception_layers(block, before), None
        present = [layer for layer in layers if layer is not None]
        outputs = [0 if layer is None else len(layer.bias) for layer in layers]
        plan.append([present[0].kernel.shape[1], *outputs, int(index in astromae.HALVED_BEHIND)])
        weights += [packed(layer) for layer in present]
    return np.array(plan, np.int64), np.concatenate(weights)
