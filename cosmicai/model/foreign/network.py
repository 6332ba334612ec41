"""An AstroMAE as a user's checkpoint describes it: its weights, and whatever else changes a result.

Every part has the name that it has in the checkpoint, for messages.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from cosmicai.model.foreign.errors import CheckpointError
from cosmicai.model.foreign.files import Floats


@dataclass(frozen=True)
class Linear:
    name: str
    weight: Floats  # (outputs, inputs)
    bias: Floats | None

    def scaled(self, factors: Floats) -> Linear:
        """With each output times a factor. Raises CheckpointError."""
        if factors.shape != (len(self.weight),):
            raise CheckpointError(f"{self.name} has {len(self.weight)} outputs, but {factors.shape} scales")
        bias = None if self.bias is None else self.bias * factors
        return Linear(self.name, self.weight * factors[:, None], bias)


@dataclass(frozen=True)
class Convolution:
    """One that keeps the size of its input, or cuts it into patches."""

    name: str
    weight: Floats  # (outputs, inputs / groups, kernel, kernel)
    bias: Floats | None
    groups: int = 1

    @property
    def outputs(self) -> int:
        return len(self.weight)

    @property
    def kernel(self) -> int:
        return int(self.weight.shape[2])


@dataclass(frozen=True)
class LayerNorm:
    name: str
    weight: Floats | None
    bias: Floats | None
    eps: float


@dataclass(frozen=True)
class BatchNorm:
    name: str
    weight: Floats | None
    bias: Floats | None
    mean: Floats
    variance: Floats
    eps: float


@dataclass(frozen=True)
class Chain:
    """Linear layers with an activation between them."""

    name: str
    layers: tuple[Linear, ...]
    activation: str

    @property
    def inputs(self) -> int:
        return int(self.layers[0].weight.shape[1])

    @property
    def widths(self) -> tuple[int, ...]:
        return tuple(len(layer.weight) for layer in self.layers)

    @property
    def form(self) -> str:
        return "→".join(map(str, (self.inputs, *self.widths)))


@dataclass(frozen=True)
class Attention:
    name: str
    weight: Floats  # (3 × width, width): queries, keys, values
    query_bias: Floats | None
    key_bias: Floats | None
    value_bias: Floats | None
    heads: int
    scale: float | None  # None: of the heads' width
    project: Linear


@dataclass(frozen=True)
class Parallel:
    name: str
    expand: Convolution
    norm: BatchNorm
    activation: str
    contract: Convolution


@dataclass(frozen=True)
class Block:
    name: str
    attention_norm: LayerNorm
    attention: Attention
    mlp_norm: LayerNorm
    mlp: Chain
    parallel: Parallel | None


@dataclass(frozen=True)
class Unit:
    convolution: Convolution
    norm: BatchNorm
    activation: str


@dataclass(frozen=True)
class Pool:
    name: str
    kind: str  # max or average
    size: int


@dataclass(frozen=True)
class Inception:
    """units: one; before three, three; before five, five; pooled."""

    name: str
    units: tuple[Unit, Unit, Unit, Unit, Unit, Unit]
    pool: Pool
    uses_five: bool


@dataclass(frozen=True)
class Encoder:
    image_size: int
    class_token: Floats
    positions: Floats
    embed: Convolution
    blocks: tuple[Block, ...]
    norm: LayerNorm
    head: Linear


@dataclass(frozen=True)
class Vision:
    """The Inception branch, up to its Linear layers."""

    stem: Convolution
    halvings: tuple[Pool, ...]
    blocks: tuple[Inception, ...]

    @property
    def channels(self) -> int:
        """Of the last block's output."""
        last = self.blocks[-1]
        one, _, three, _, five, pooled = (unit.convolution.outputs for unit in last.units)
        return one + three + (five if last.uses_five else 0) + pooled


STACKS = ("encoder_branch", "inception_branch", "magnitude_branch", "fusion")


@dataclass(frozen=True)
class Network:
    """A whole AstroMAE. notes: what was decided on the way and the user should know."""

    encoder: Encoder
    vision: Vision
    encoder_branch: Chain
    inception_branch: Chain
    magnitude_branch: Chain
    fusion: Chain
    notes: tuple[str, ...] = ()


ALONE = (
    "is the model of Inception and magnitudes alone (Input_Mix_Model), without the encoder; the whole network, "
    "a ViT_Astro, is needed"
)


def image_size_of(positions: Floats, embed: Convolution, name: str) -> int:
    """Pixels along a side, by positions (1, 1 + patches, width) and the patch size. Raises CheckpointError."""
    patches = positions.shape[1] - 1 if positions.ndim == 3 and len(positions) == 1 else 0
    side = math.isqrt(max(patches, 0))
    if not side or side * side != patches:
        raise CheckpointError(
            f"{name} has shape {positions.shape}, not (1, 1 + a square number of patches, width)"
        )
    if side * embed.kernel % 8:
        raise CheckpointError(
            f"takes images of {side * embed.kernel} pixels; only multiples of 8 can be halved thrice"
        )
    return side * embed.kernel


def flat_features(vision: Vision, image_size: int) -> int:
    """How many features the Inception branch's Linear layers get: it halves its images three times."""
    return vision.channels * (image_size // 8) ** 2


def check_stem(stem: Convolution, name: str, weight: Floats | None, bias: Floats | None) -> None:
    """Raises CheckpointError if the stem that is registered by itself is not the one that is used."""
    pairs = ((stem.weight, weight), (stem.bias, bias))
    if not all(a is b or (a is not None and b is not None and np.array_equal(a, b)) for a, b in pairs):
        raise CheckpointError(
            f"{name} and {stem.name} are one layer in AstroMAE, but have different weights here"
        )
