"""A state dict as a Network: by the published names, or by shapes if stacks of Linear layers have others.

What neither names nor shapes show is given by the user or assumed as published (assumed.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from cosmicai.model.foreign.assumed import Assumed
from cosmicai.model.foreign.candidates import ANCHOR
from cosmicai.model.foreign.errors import CheckpointError, listed, shown
from cosmicai.model.foreign.files import File, Floats
from cosmicai.model.foreign.network import (
    ALONE,
    Attention,
    BatchNorm,
    Block,
    Chain,
    Convolution,
    Encoder,
    Inception,
    LayerNorm,
    Linear,
    Network,
    Parallel,
    Pool,
    Unit,
    Vision,
    check_stem,
    flat_features,
    image_size_of,
)
from cosmicai.model.foreign.roles import PUBLISHED, assigned
from inference.data.tensors import Tensor

_FORWARD = "the network is put together as the published one: a state dict holds no code"
_MOST_BLOCKS = 200  # of an encoder; the published one has 12
_UNIT = re.compile(r"(.*\.|)(\d+)\.branch1\.conv\.weight")
_PARAMETRISED = re.compile(r"(.*)\.(?:parametrizations\.|weight_(?:orig|g|v|u)$)")


def read(tensors: Mapping[str, object], file: File, assumed: Assumed) -> Network:
    """tensors: by names without prefixes (candidates.plain_names). Raises CheckpointError."""
    names = _Names(dict(tensors), file, assumed)
    _check_kind(tensors)
    encoder = _encoder(names, _one_prefix(tensors))
    stem, units, tail = _vision(names)
    known, others = _stacks(names)
    if tail is not None:
        known["inception_branch"] = tail
    candidates = [tail] if tail is not None else [*others.values()]
    vision = _with_paths(names, stem, units, [chain.inputs for chain in candidates], encoder.image_size)
    flat = flat_features(vision, encoder.image_size)
    inputs = {"encoder_branch": len(encoder.head.weight), "inception_branch": flat}
    stacks = assigned(known, others, inputs)
    for role, chain in stacks.items():
        stacks[role] = replace(chain, activation=names.text(f"{role}.activation"))
    by_shape = [f"{stacks[role].name} is the {role}, by its shapes" for role in stacks.keys() - known.keys()]
    if names.left:
        raise CheckpointError(f"has tensors without a place in AstroMAE: {listed(names.left)}")
    return Network(encoder, vision, **stacks, notes=(_FORWARD, *sorted(by_shape)))


def _check_kind(tensors: Mapping[str, object]) -> None:
    """Raises CheckpointError for what is recognised and is not an AstroMAE."""
    for name in tensors:
        if match := _PARAMETRISED.match(name):
            raise CheckpointError(
                f"{match[1]} is parametrised or normalised (weight or spectral norm): remove that with "
                "torch.nn.utils and save it again"
            )
    if not any(name.endswith(ANCHOR) for name in tensors):
        if any("vis_inception." in name or "magnitude_block." in name for name in tensors):
            raise CheckpointError(ALONE)
        raise CheckpointError(f"has no tensor {ANCHOR}: it is not an AstroMAE; it holds {listed(tensors)}")
    if any(name.rpartition(".")[2] == "mask_token" or "decoder_blocks." in name for name in tensors):
        raise CheckpointError("is a masked autoencoder before its fine-tuning: it gives no redshifts")


def _one_prefix(tensors: Mapping[str, object]) -> str:
    """The prefix of the encoder's names."""
    prefixes = [name.removesuffix(ANCHOR) for name in tensors if name.endswith(ANCHOR)]
    if len(prefixes) != 1:
        raise CheckpointError(
            f"has {len(prefixes)} tensors {ANCHOR}: {listed(prefixes)}; say which with --select"
        )
    return prefixes[0]


@dataclass
class _Names:
    """The tensors that have no place in the network yet."""

    left: dict[str, object]
    file: File
    assumed: Assumed

    def take(self, name: str, dimensions: int | None = None) -> Floats:
        values = self.maybe(name)
        if values is None:
            raise CheckpointError(f"lacks the tensor {name}{self._instead(name)}")
        if dimensions is not None and values.ndim != dimensions:
            raise CheckpointError(f"{name} has shape {values.shape}, expected {dimensions} dimensions")
        return values

    def maybe(self, name: str) -> Floats | None:
        return self.file.floats(self.left.pop(name), name) if name in self.left else None

    def _instead(self, name: str) -> str:
        parent = name.split(".")[0]
        near = [other for other in self.left if other.startswith(f"{parent}.")] or list(self.left)
        return f"; without a place so far: {listed(near)}" if near else ""

    def number(self, name: str) -> float:
        return float(self.assumed.value(name))

    def text(self, name: str) -> str:
        return str(self.assumed.value(name))

    def linear(self, name: str) -> Linear:
        return Linear(name, self.take(f"{name}.weight", 2), self.maybe(f"{name}.bias"))

    def convolution(self, name: str, groups: int = 1) -> Convolution:
        weight = self.take(f"{name}.weight", 4)
        if weight.shape[2] != weight.shape[3]:
            raise CheckpointError(
                f"{name}.weight has shape {weight.shape}; only square kernels are computed here"
            )
        return Convolution(name, weight, self.maybe(f"{name}.bias"), groups)

    def layer_norm(self, name: str, eps: str) -> LayerNorm:
        return LayerNorm(name, self.maybe(f"{name}.weight"), self.maybe(f"{name}.bias"), self.number(eps))

    def batch_norm(self, name: str, eps: str) -> BatchNorm:
        self.left.pop(f"{name}.num_batches_tracked", None)
        weight, bias = self.maybe(f"{name}.weight"), self.maybe(f"{name}.bias")
        mean, variance = self.take(f"{name}.running_mean", 1), self.take(f"{name}.running_var", 1)
        return BatchNorm(name, weight, bias, mean, variance, self.number(eps))


# The encoder


def _encoder(names: _Names, prefix: str) -> Encoder:
    if f"{prefix}norm.weight" in names.left and f"{prefix}fc_norm.weight" not in names.left:
        raise CheckpointError(
            f"{prefix}norm takes the place of fc_norm: it normalises the tokens before they are averaged, "
            "which is another network"
        )
    embed, positions = names.convolution(f"{prefix}patch_embed.proj"), names.take(f"{prefix}pos_embed")
    image_size = image_size_of(positions, embed, f"{prefix}pos_embed")
    numbers = _numbers(names.left, f"{prefix}blocks.")
    if numbers != list(range(len(numbers))) or not 0 < len(numbers) <= _MOST_BLOCKS:
        raise CheckpointError(
            f"{prefix}blocks has the numbers {shown(tuple(numbers[:4]))}…, expected 0, 1, 2, …"
        )
    return Encoder(
        image_size,
        names.take(f"{prefix}cls_token"),
        positions,
        embed,
        tuple(_block(names, f"{prefix}blocks.{number}", embed.outputs) for number in numbers),
        names.layer_norm(f"{prefix}fc_norm", "final_norm_eps"),
        names.linear(f"{prefix}head"),
    )


def _numbers(tensors: Mapping[str, object], prefix: str) -> list[int]:
    """The numbers after a prefix, in order."""
    parts = {name[len(prefix) :].partition(".")[0] for name in tensors if name.startswith(prefix)}
    return sorted(int(part) for part in parts if part.isascii() and part.isdigit() and len(part) < 6)


def _block(names: _Names, name: str, width: int) -> Block:
    qkv, bias = names.take(f"{name}.attn.qkv.weight", 2), names.maybe(f"{name}.attn.qkv.bias")
    own = [names.maybe(f"{name}.attn.{letter}_bias") for letter in "qv"]
    if any(part is None for part in own) != all(part is None for part in own):
        raise CheckpointError(f"{name}.attn has one of q_bias and v_bias; only both or none is known")
    if own[0] is not None and bias is not None:
        raise CheckpointError(f"{name}.attn has both q_bias and qkv.bias; which is used is not known")
    if bias is not None and bias.shape != (3 * width,):
        raise CheckpointError(f"{name}.attn.qkv.bias has shape {bias.shape}, expected {(3 * width,)}")
    query, key, value = (own[0], None, own[1]) if bias is None else np.split(bias, 3)
    scale: float | None = names.assumed.value("attention_scale")
    project = _scaled(names, f"{name}.ls1.gamma", names.linear(f"{name}.attn.proj"))
    layers = (
        names.linear(f"{name}.mlp.fc1"),
        _scaled(names, f"{name}.ls2.gamma", names.linear(f"{name}.mlp.fc2")),
    )
    return Block(
        name,
        names.layer_norm(f"{name}.norm1", "norm_eps"),
        Attention(f"{name}.attn", qkv, query, key, value, names.assumed.heads(), scale, project),
        names.layer_norm(f"{name}.norm2", "norm_eps"),
        Chain(f"{name}.mlp", layers, names.text("mlp_activation")),
        _parallel(names, f"{name}.PCM", width) if f"{name}.PCM.0.weight" in names.left else None,
    )


def _scaled(names: _Names, name: str, layer: Linear) -> Linear:
    factors = names.maybe(name)
    return layer if factors is None else layer.scaled(factors)


def _parallel(names: _Names, name: str, width: int) -> Parallel:
    expand = names.convolution(f"{name}.0")
    groups, rest = divmod(width, expand.weight.shape[1])
    if rest:
        raise CheckpointError(
            f"{name}.0.weight has shape {expand.weight.shape}: no groups divide a width of {width}"
        )
    expand = Convolution(expand.name, expand.weight, expand.bias, groups)
    norm = names.batch_norm(f"{name}.1", "parallel_norm_eps")
    contract = names.convolution(f"{name}.3", groups)
    return Parallel(name, expand, norm, names.text("parallel_activation"), contract)


# The Inception branch


Units = tuple[Unit, Unit, Unit, Unit, Unit, Unit]


def _vision(names: _Names) -> tuple[Convolution, dict[str, Units], Chain | None]:
    """Stem, blocks by name, and the Linear layers at the branch's end if they are part of it."""
    prefixes = {match[1] for match in map(_UNIT.fullmatch, names.left) if match}
    if len(prefixes) != 1:
        places = f"in {len(prefixes)} places: {listed(sorted(prefixes))}" if prefixes else "nowhere"
        raise CheckpointError(
            f"has InceptionBlocks (N.branch1.conv.weight) {places}; one branch of them is expected"
        )
    (prefix,) = prefixes
    numbers = _numbers(names.left, prefix)
    blocks = [number for number in numbers if f"{prefix}{number}.branch1.conv.weight" in names.left]
    if len(blocks) != 5:
        raise CheckpointError(f"{prefix}… has {len(blocks)} InceptionBlocks, expected 5")
    stem = _stem(names, prefix, [number for number in numbers if number < blocks[0]])
    units = {f"{prefix}{number}": _units(names, f"{prefix}{number}") for number in blocks}
    tail = [number for number in numbers if number > blocks[-1]]
    return stem, units, _chain(names, prefix.rstrip("."), tail) if tail else None


def _stem(names: _Names, prefix: str, before: list[int]) -> Convolution:
    """It is registered twice; safetensors may hold it once."""
    parent = prefix.rstrip(".").rpartition(".")[0]
    registered = f"{parent}.conv2d_init" if parent else "conv2d_init"
    if not before:
        return names.convolution(registered)
    stem = names.convolution(f"{prefix}{before[0]}")
    if f"{registered}.weight" in names.left:
        weight, bias = names.maybe(f"{registered}.weight"), names.maybe(f"{registered}.bias")
        check_stem(stem, registered, weight, bias)
    return stem


def _units(names: _Names, name: str) -> Units:
    one, before_three, three, before_five, five, pooled = (
        Unit(
            names.convolution(f"{name}.{path}.conv"),
            names.batch_norm(f"{name}.{path}.bn", "inception_norm_eps"),
            names.text("inception_activation"),
        )
        for path in ("branch1", "branch2.0", "branch2.1", "branch3.0", "branch3.1", "branch4.1")
    )
    return one, before_three, three, before_five, five, pooled


def _with_paths(
    names: _Names, stem: Convolution, units: dict[str, Units], inputs: list[int], image_size: int
) -> Vision:
    """Whether a block uses its 5×5 path follows from the number of channels that the next layer takes."""
    pool = Pool("inception_pool", names.text("inception_pool"), int(names.number("inception_pool_size")))
    halvings = (Pool("halving", names.text("halving"), 2),) * 3
    after = [[unit[0].convolution.weight.shape[1]] for unit in units.values()][1:]
    pixels = (image_size // 8) ** 2
    after.append([count // pixels for count in inputs if count % pixels == 0])
    blocks: list[Inception] = []
    for (name, part), accepted in zip(units.items(), after, strict=True):
        widths = {
            use: Vision(stem, halvings, (Inception(name, part, pool, use),)).channels for use in (True, False)
        }
        fitting = [use for use, width in widths.items() if width in accepted]
        if len(fitting) != 1:
            raise CheckpointError(
                f"{name} has {widths[True]} channels with its 5×5 path and {widths[False]} without; what "
                f"follows takes {listed(map(str, accepted)) or 'another number'}"
            )
        blocks.append(Inception(name, part, pool, fitting[0]))
    return Vision(stem, halvings, tuple(blocks))


# Stacks of Linear layers


def _stacks(names: _Names) -> tuple[dict[str, Chain], dict[str, Chain]]:
    """Those whose names are known, by what they are; and the others, by name."""
    members: dict[str, list[int]] = {}
    for name, tensor in names.left.items():
        layer, _, part = name.rpartition(".")
        if part == "weight" and isinstance(tensor, Tensor) and len(tensor.shape) == 2:
            parent, _, number = layer.rpartition(".")
            known = number.isascii() and number.isdigit() and len(number) < 6
            members.setdefault(parent if known else layer, []).extend([int(number)] if known else [])
    chains = {name: _chain(names, name, sorted(numbers)) for name, numbers in members.items()}
    published = {name: PUBLISHED.get(name.rpartition(".")[2]) for name in chains}
    roles = [role for role in published.values() if role is not None]
    if len(set(roles)) < len(roles):
        raise CheckpointError(
            f"has two stacks of one name: {listed(n for n, role in published.items() if role)}"
        )
    return (
        {role: chains[name] for name, role in published.items() if role is not None},
        {name: chains[name] for name, role in published.items() if role is None},
    )


def _chain(names: _Names, name: str, numbers: list[int]) -> Chain:
    """numbers: of a Sequential's Linear layers, in its order; none for one layer by itself."""
    layers = [f"{name}.{number}" if name else str(number) for number in numbers] or [name]
    return Chain(name, tuple(names.linear(layer) for layer in layers), "relu")
