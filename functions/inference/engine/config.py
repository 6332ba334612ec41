"""config.json of a model folder: every width, depth and activation of the network as a field."""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from torch import nn


class ConfigError(ValueError):
    """A model's config.json or weights do not describe a network that this file can build."""


@dataclass(frozen=True)
class Stack:
    """Linear layers with an activation between them and none after the last."""

    widths: tuple[int, ...]
    activation: str = "relu"


MOST_BINS = 2000  # of p(z)
Widths = tuple[int, int, int, int, int, int]
"""Channels of an Inception block: 1×1; 1×1 and 3×3 after it; 1×1 and 5×5 after it; 1×1 after the pool."""


@dataclass(frozen=True)
class Config:
    """Everything that shapes the network. The defaults are the published ones.

    A Linear layer or convolution that has no bias in a user's network has a bias of zeros here, which computes
    the same; only the attention's biases are fields of their own.
    """

    image_size: int = 32
    channels: int = 5
    magnitudes: int = 5
    asinh_softening: tuple[float, ...] | None = None  # images -> asinh(images / softening), per channel
    hidden_magnitudes: tuple[float, ...] | None = None  # replace unknown magnitudes; zeros do unknown images

    patch_size: int = 8
    width: int = 192
    depth: int = 12
    heads: int = 6
    attention_scale: float | None = None  # of the queries; None: (width / heads) ** -0.5
    query_bias: bool = True
    key_bias: bool = False
    value_bias: bool = True
    mlp_width: int = 768
    mlp_activation: str = "gelu"
    norm_eps: float = 1e-6  # of the blocks' LayerNorms
    parallel_width: int = 768
    parallel_groups: int = 48  # of the parallel convolution module; 0: plain blocks without it
    parallel_kernel: int = 1
    parallel_activation: str = "silu"
    parallel_norm_eps: float = 1e-5
    final_norm_eps: float = 1e-6
    head_width: int = 192

    stem_width: int = 32
    inception: tuple[Widths, ...] = ((16,) * 6, (16,) * 6, (8,) * 6, (8,) * 6, (4,) * 6)
    inception_five: tuple[bool, ...] = (True, True, True, True, False)  # whether a block uses its 5×5 path
    inception_activation: str = "relu"
    inception_norm_eps: float = 1e-5
    inception_pool: str = "max"  # or "average": what a block's fourth path begins with
    inception_pool_size: int = 3
    halving: str = "average"  # or "max": how the branch halves its images

    encoder_branch: Stack = field(default=Stack((1096, 1096)))
    inception_branch: Stack = field(default=Stack((1096, 1096)))
    magnitude_branch: Stack = field(default=Stack((1024,) * 5))
    fusion: Stack = field(default=Stack((1024, 1)))
    density_bins: int = 0  # of the second head, which gives p(z) in bins of ln(1 + z); 0: no such head
    density_to: float = 3.0  # redshift at the end of the last bin

    def __post_init__(self) -> None:
        for item in fields(self):
            what, fits = _KINDS[str(item.type)]
            _require(fits(getattr(self, item.name)), item.name, what)
            least = 0 if item.name in _MAY_BE_ZERO else 1
            _require(item.type != "int" or getattr(self, item.name) >= least, item.name, f"at least {least}")
        _require(self.image_size % self.patch_size == 0, "image_size", "a multiple of patch_size")
        _require(self.image_size % 8 == 0, "image_size", "a multiple of 8 (it is halved three times)")
        _require(self.width % self.heads == 0, "width", "a multiple of heads")
        _require(self.width % 4 == 0, "width", "a multiple of 4 (sine-cosine positions)")
        _require(self.parallel_kernel % 2 == 1, "parallel_kernel", "odd")
        _require(self.inception_pool_size % 2 == 1, "inception_pool_size", "odd")
        _require(0 <= self.density_bins <= MOST_BINS, "density_bins", f"a number from 0 to {MOST_BINS}")
        _require(0 < self.density_to <= 1000, "density_to", "a redshift above 0, at most 1000")
        _require(len(self.inception) == 5, "inception", "five blocks of six widths")
        _require(len(self.inception_five) == 5, "inception_five", "five of true and false")
        _require(self.inception_pool in POOLS, "inception_pool", " or ".join(POOLS))
        _require(self.halving in POOLS, "halving", " or ".join(POOLS))
        _require(self.fusion.widths[-1:] == (1,), "fusion", "a stack whose last width is 1")
        for name, length in (("asinh_softening", self.channels), ("hidden_magnitudes", self.magnitudes)):
            values = getattr(self, name)
            _require(values is None or len(values) == length, name, f"{length} values")
        for name in ("mlp_activation", "parallel_activation", "inception_activation"):
            activation(getattr(self, name), name)
        for name in ("encoder_branch", "inception_branch", "magnitude_branch", "fusion"):
            stack = getattr(self, name)
            _require(bool(stack.widths), name, "a stack of at least one width")
            activation(stack.activation, name)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, pixels, pixels)."""
        return self.channels, self.image_size, self.image_size

    @property
    def tokens(self) -> int:
        return (self.image_size // self.patch_size) ** 2

    @classmethod
    def read(cls, path: Path) -> Config:
        """A Config from a JSON file; fields that it lacks are as published.

        Raises ConfigError that names a field which is unknown or not what it must be.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"model config: {path.name} is not JSON ({error})") from error
        if not isinstance(values, dict):
            raise ConfigError(f"model config: {path.name} is not a JSON object")
        return cls.parse(values)

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Config:
        known = [item.name for item in fields(cls)]
        for name in sorted(set(values) - set(known)):
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"the fields are {', '.join(known)}"
            raise ConfigError(f"model config: {name}: unknown field; {hint}")
        return cls(**{name: _parsed(value) for name, value in values.items()})

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=2) + "\n")


def _parsed(value: Any) -> Any:
    if isinstance(value, dict):
        unknown = sorted(set(value) - {"widths", "activation"})
        _require(not unknown, ", ".join(unknown), "widths or activation of a stack")
        return Stack(_parsed(value.get("widths", ())), value.get("activation", "relu"))
    return tuple(_parsed(item) for item in value) if isinstance(value, list) else value


def _require(holds: bool, name: str, allowed: str) -> None:
    if not holds:
        raise ConfigError(f"model config: {name} must be {allowed}")


_MAY_BE_ZERO = ("parallel_groups", "density_bins")


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return _is_whole(value) or (isinstance(value, float) and math.isfinite(value))


def _are(fits: Callable[[Any], bool], values: object) -> bool:
    return isinstance(values, tuple) and all(map(fits, values))


def _are_widths(values: object) -> bool:
    return _are(lambda width: _is_whole(width) and width > 0, values)


_KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "int": ("a whole number", _is_whole),
    "float": ("a number", _is_number),
    "float | None": ("a number or null", lambda value: value is None or _is_number(value)),
    "bool": ("true or false", lambda value: isinstance(value, bool)),
    "str": ("a text", lambda value: isinstance(value, str)),
    "tuple[float, ...] | None": (
        "a list of numbers or null",
        lambda value: value is None or _are(_is_number, value),
    ),
    "tuple[Widths, ...]": (
        "five blocks of six widths",
        lambda value: _are(lambda widths: _are_widths(widths) and len(widths) == 6, value),
    ),
    "tuple[bool, ...]": (
        "a list of true and false",
        lambda value: _are(lambda one: isinstance(one, bool), value),
    ),
    "Stack": (
        'a stack such as {"widths": [64, 64], "activation": "relu"}',
        lambda value: (
            isinstance(value, Stack) and isinstance(value.activation, str) and _are_widths(value.widths)
        ),
    ),
}
"""What a field must be, by its type: in words, and whether a value is that."""

ACTIVATIONS: dict[str, Callable[..., nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "gelu_tanh": lambda: nn.GELU(approximate="tanh"),
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "identity": nn.Identity,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
}
PARAMETRIC = ("leaky_relu", "elu")  # written with their slope or alpha, as in leaky_relu(0.1)
_ACTIVATION = re.compile(r"([a-z_]+)(?:\(([0-9.e+-]+)\))?")


def activation_parts(name: str, field: str = "activation") -> tuple[str, float | None]:
    """'leaky_relu(0.1)' as ('leaky_relu', 0.1), 'relu' as ('relu', None); raises ConfigError for others."""
    match = _ACTIVATION.fullmatch(name)
    kind, argument = match.groups() if match else ("", None)
    fits = kind in ACTIVATIONS and (argument is not None) == (kind in PARAMETRIC)
    names = [f"{known}(number)" if known in PARAMETRIC else known for known in ACTIVATIONS]
    _require(fits, f"{field} {name!r}", f"one of {', '.join(names)}")
    return kind, None if argument is None else float(argument)


def activation(name: str, field: str = "activation") -> nn.Module:
    kind, argument = activation_parts(name, field)
    return ACTIVATIONS[kind]() if argument is None else ACTIVATIONS[kind](argument)


POOLS: dict[str, Callable[..., nn.Module]] = {"max": nn.MaxPool2d, "average": nn.AvgPool2d}
