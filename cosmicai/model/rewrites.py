"""Exact rewrites of the network: fewer operations for the same function, all computed in float64.

Each function takes layers of `inference.astromae` and gives the weights of what replaces them. Matrices are
(inputs, outputs), as ONNX multiplies them: x @ weight + bias.
"""

from __future__ import annotations

from collections.abc import Sequence
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


def block_diagonal(kernel: Doubles, groups: int, most_inputs: int = 32) -> list[Doubles]:
    """A grouped convolution with kernel 1 as matrix products over consecutive slices of the channels.

    kernel: (outputs, inputs / groups, 1, 1). Several groups share one block-diagonal matrix of at most
    `most_inputs` rows: tiny products waste more time than the zeros do.
    """
    outputs, per_group = kernel.shape[:2]
    joined = max(
        n for n in range(1, groups + 1) if groups % n == 0 and n * per_group <= max(most_inputs, per_group)
    )
    per_output = outputs // groups
    matrices = []
    for first in range(0, groups, joined):
        matrix = np.zeros((joined * per_group, joined * per_output))
        for place in range(joined):
            rows = slice((first + place) * per_output, (first + place + 1) * per_output)
            matrix[
                place * per_group : (place + 1) * per_group, place * per_output : (place + 1) * per_output
            ] = kernel[rows, :, 0, 0].T
        matrices.append(matrix)
    return matrices


def fusion(model: astromae.AstroMAE) -> Affine:
    """The first fusion layer with the last Linear of each of the three branches merged into its slice of it."""
    first = affine(model.fusion[0])
    ends = [affine(b[-1]) for b in (model.encoder_branch, model.inception_branch, model.magnitude_branch)]
    edges = np.cumsum([0, *(end.weight.shape[1] for end in ends)])
    slices = [first.weight[a:b] for a, b in pairwise(edges)]
    weight = np.concatenate([end.weight @ part for end, part in zip(ends, slices, strict=True)])
    bias = first.bias + sum(end.bias @ part for end, part in zip(ends, slices, strict=True))
    return Affine(weight, bias)


def pointwise_convolutions(
    block: astromae.InceptionBlock, before: Affine | None = None
) -> tuple[Affine, list[int]]:
    """The 1×1 convolutions that read an Inception block's input, as one, and the channels of each of its parts.

    before: a 1×1 convolution without activation in front of the block, which is merged too. An average pool
    between them may go before both: it commutes with 1×1 convolutions.
    """
    readers: Sequence[Any] = [
        block.one,
        block.three[0],
        *([] if block.five is None else [block.five[0]]),
        block.pooled,
    ]
    parts = [affine(reader[0]) for reader in readers]
    merged = Affine(np.concatenate([p.weight for p in parts], 1), np.concatenate([p.bias for p in parts]))
    return merged if before is None else before.then(merged), [len(part.bias) for part in parts]
