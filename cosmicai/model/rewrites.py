"""Exact rewrites of the network: fewer operations for the same function, all computed in float64.

Each function takes layers of `inference.engine.astromae` and returns the weights of what replaces them.
Matrices are (inputs, outputs), as ONNX multiplies them: x @ weight + bias.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from inference.engine import astromae

Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Affine:
    """x @ weight + bias, weight (inputs, outputs), bias (outputs,)."""

    weight: Doubles
    bias: Doubles

    def then(self, other: Affine) -> Affine:
        """This layer and `other` after it, with nothing in between, as one."""
        return Affine(self.weight @ other.weight, self.bias @ other.weight + other.bias)


@dataclass(frozen=True)
class Convolution:
    """kernel (outputs, inputs, k, k), bias (outputs,)."""

    kernel: Doubles
    bias: Doubles

    def after(self, before: Affine) -> Convolution:
        """This convolution, of kernel 1, with `before` applied to the channels of each pixel first."""
        both = before.then(Affine(self.kernel[:, :, 0, 0].T, self.bias))
        return Convolution(both.weight.T[:, :, None, None], both.bias)


def doubles(tensor: Tensor) -> Doubles:
    array: Doubles = tensor.detach().cpu().double().numpy()
    return array


def affine(layer: nn.Module) -> Affine:
    """A Linear layer, or a convolution whose kernel covers all that it sees: a patch, or one pixel."""
    if not isinstance(layer, nn.Linear | nn.Conv2d) or layer.bias is None:
        raise TypeError(f"{type(layer).__name__} is neither a Linear layer nor a convolution with a bias")
    weight = doubles(layer.weight)
    return Affine(weight.reshape(len(weight), -1).T, doubles(layer.bias))


def stack(layers: nn.Sequential) -> list[Affine]:
    """The Linear layers of an `astromae.stack`, without the activations between them."""
    return [affine(layer) for layer in list(layers)[::2]]


def merged(ends: Sequence[Affine], first: Affine) -> Affine:
    """The last layers of several branches and the layer that reads their outputs side by side, as one."""
    edges = np.cumsum([0, *(end.weight.shape[1] for end in ends)])
    slices = [first.weight[start:stop] for start, stop in pairwise(edges)]
    weight = np.concatenate([end.weight @ part for end, part in zip(ends, slices, strict=True)])
    bias = first.bias + sum(end.bias @ part for end, part in zip(ends, slices, strict=True))
    return Affine(weight, bias)


def queries_keys_values(attention: astromae.Attention) -> Affine:
    """The projection (D, 3D) for an attention that multiplies its queries by 1 / sqrt(D / heads).

    Another scale is part of the queries' weights and bias; missing biases are zeros.
    """
    weight, bias = doubles(attention.qkv.weight).T.copy(), doubles(attention.bias())
    if attention.scale is not None:
        width = attention.qkv.in_features
        ratio = attention.scale * math.sqrt(width / attention.heads)
        weight[:, :width] *= ratio
        bias[:width] *= ratio
    return Affine(weight, bias)


def convolution(layer: nn.Module) -> Convolution:
    if not isinstance(layer, nn.Conv2d) or layer.bias is None:
        raise TypeError(f"{type(layer).__name__} is not a convolution with a bias")
    return Convolution(doubles(layer.weight), doubles(layer.bias))


def folded(layer: nn.Module, norm: nn.Module) -> Convolution:
    """A convolution and the BatchNorm after it as one convolution (inference only)."""
    if not isinstance(norm, nn.BatchNorm2d) or norm.running_mean is None or norm.running_var is None:
        raise TypeError(f"{type(norm).__name__} is not a BatchNorm with running statistics")
    plain = convolution(layer)
    scale = doubles(norm.weight) / np.sqrt(doubles(norm.running_var) + norm.eps)
    bias = (plain.bias - doubles(norm.running_mean)) * scale + doubles(norm.bias)
    return Convolution(plain.kernel * scale[:, None, None, None], bias)


@dataclass(frozen=True)
class InceptionLayers:
    """An Inception block's convolutions with BatchNorm folded in; each is followed by the activation.

    five: its 1×1 and its 5×5 convolution; None if the block does not use that path.
    """

    one: Convolution
    three: tuple[Convolution, Convolution]
    five: tuple[Convolution, Convolution] | None
    pooled: Convolution

    def after(self, stem: Affine) -> InceptionLayers:
        """With a 1×1 convolution before the block merged into every path but the pooled one, whose pool comes
        in between."""
        three, five = self.three, self.five
        return replace(
            self,
            one=self.one.after(stem),
            three=(three[0].after(stem), three[1]),
            five=None if five is None else (five[0].after(stem), five[1]),
        )


def inception_layers(block: nn.Module) -> InceptionLayers:
    if not isinstance(block, astromae.InceptionBlock):
        raise TypeError(f"{type(block).__name__} is not an Inception block")
    three = (_unit(block.three[0]), _unit(block.three[1]))
    five = (_unit(block.five[0]), _unit(block.five[1])) if block.uses_five else None
    return InceptionLayers(_unit(block.one), three, five, _unit(block.pooled))


def _unit(unit: nn.Module) -> Convolution:
    if not isinstance(unit, astromae.Unit):
        raise TypeError(f"{type(unit).__name__} is not a convolution with BatchNorm and activation")
    return folded(unit[0], unit[1])


PACKED = 4  # outputs whose weights are side by side; inception.h


def packed(layer: Convolution) -> Doubles:
    """The weights (outputs / 4, k, k, inputs, 4) and then the bias, outputs filled up by zeros, in one row."""
    missing = -len(layer.bias) % PACKED
    kernel = np.pad(layer.kernel, ((0, missing), (0, 0), (0, 0), (0, 0)))
    kernel = kernel.reshape(-1, PACKED, *kernel.shape[1:]).transpose(0, 3, 4, 2, 1)
    return np.concatenate([kernel.ravel(), np.pad(layer.bias, (0, missing))])


def inception(branch: astromae.Inception) -> tuple[NDArray[np.int64], Doubles]:
    """What the kernel of the Inception branch reads: its plan (blocks, 9), and all weights in a row.

    The stem has no activation, and average pooling commutes with it: it is merged into the first block's 1×1
    convolutions if no maximum comes in between. The pooled path computes it (`stem` of kernels.h).
    """
    plan: list[list[int]] = []
    weights: list[Doubles] = []
    for index, block in enumerate(branch.blocks):
        layers, before = inception_layers(block), None
        if index == 0:
            layers, before = layers.after(affine(branch.stem)), convolution(branch.stem)
        row = [layers.one, *layers.three, *(layers.five or (None, None)), before, layers.pooled]
        outputs = [0 if layer is None else len(layer.bias) for layer in row]
        plan.append([layers.one.kernel.shape[1], *outputs, int(index in astromae.HALVED_AFTER)])
        weights += [packed(layer) for layer in row if layer is not None]
    return np.array(plan, np.int64), np.concatenate(weights)
