"""A user's network as our model: its config and its weights by our names, or a refusal by theirs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch

from cosmicai.model.foreign.errors import CheckpointError
from cosmicai.model.foreign.files import Floats
from cosmicai.model.foreign.network import (
    STACKS,
    Attention,
    BatchNorm,
    Chain,
    Convolution,
    Inception,
    LayerNorm,
    Linear,
    Network,
    Unit,
)
from inference.engine.astromae import AstroMAE, Config, ConfigError, Stack

T = TypeVar("T")
V = TypeVar("V")

_PATHS = ("one", "three.0", "three.1", "five.0", "five.1", "pooled")


def model_of(network: Network) -> AstroMAE:
    """Our network with the same weights. Raises CheckpointError that names what it cannot compute."""
    try:
        with torch.device("meta"):  # shapes are compared before anything is allocated
            model = AstroMAE(_config(network))
    except ConfigError as error:
        raise CheckpointError(str(error)) from error
    weights = _Weights()
    _put_encoder(network, weights)
    _put_inception(network, weights)
    for name in STACKS:
        weights.chain(name, getattr(network, name))
    _fill(model, weights)
    return model.eval()


def _config(network: Network) -> Config:
    attentions = [block.attention for block in network.encoder.blocks]
    units = [unit for block in network.vision.blocks for unit in block.units]
    norms = [norm for block in network.encoder.blocks for norm in (block.attention_norm, block.mlp_norm)]
    pools = [block.pool for block in network.vision.blocks]
    width = network.encoder.embed.outputs
    return Config(
        image_size=network.encoder.image_size,
        channels=int(network.encoder.embed.weight.shape[1]),
        magnitudes=network.magnitude_branch.inputs,
        patch_size=network.encoder.embed.kernel,
        width=width,
        depth=len(network.encoder.blocks),
        heads=_one(attentions, lambda part: part.heads, "number of heads"),
        attention_scale=_one(attentions, lambda part: part.scale, "attention scale"),
        query_bias=any(part.query_bias is not None for part in attentions),
        key_bias=any(part.key_bias is not None for part in attentions),
        value_bias=any(part.value_bias is not None for part in attentions),
        mlp_width=_one([b.mlp for b in network.encoder.blocks], lambda mlp: mlp.widths[0], "width"),
        mlp_activation=_one([b.mlp for b in network.encoder.blocks], lambda mlp: mlp.activation, "activation"),
        norm_eps=_one(norms, lambda norm: norm.eps, "eps"),
        final_norm_eps=network.encoder.norm.eps,
        head_width=len(network.encoder.head.weight),
        **_parallel(network),
        stem_width=network.vision.stem.outputs,
        inception=tuple(_widths(block) for block in network.vision.blocks),
        inception_five=tuple(block.uses_five for block in network.vision.blocks),
        inception_activation=_one(units, lambda unit: unit.activation, "activation", _unit_name),
        inception_norm_eps=min(unit.norm.eps for unit in units),
        inception_pool=_one(pools, lambda pool: pool.kind, "kind of pooling"),
        inception_pool_size=_one(pools, lambda pool: pool.size, "size"),
        halving=_one(network.vision.halvings, lambda pool: pool.kind, "kind of pooling"),
        encoder_branch=_stack(network.encoder_branch),
        inception_branch=_stack(network.inception_branch),
        magnitude_branch=_stack(network.magnitude_branch),
        fusion=_stack(network.fusion),
    )


def _unit_name(unit: Unit) -> str:
    return unit.convolution.name


def _widths(block: Inception) -> tuple[int, int, int, int, int, int]:
    one, before_three, three, before_five, five, pooled = (unit.convolution.outputs for unit in block.units)
    return one, before_three, three, before_five, five, pooled


def _stack(chain: Chain) -> Stack:
    return Stack(chain.widths, chain.activation)


def _parallel(network: Network) -> dict[str, Any]:
    cells = [block.parallel for block in network.encoder.blocks if block.parallel is not None]
    if not cells:
        return {"parallel_groups": 0}
    if len(cells) < len(network.encoder.blocks):
        bare = next(block.name for block in network.encoder.blocks if block.parallel is None)
        raise CheckpointError(
            f"{bare} has no parallel convolutions (PCM), {cells[0].name} is one: all or none must have them"
        )
    convolutions = [part for cell in cells for part in (cell.expand, cell.contract)]
    return {
        "parallel_width": _one([cell.expand for cell in cells], lambda part: part.outputs, "width"),
        "parallel_groups": _one(convolutions, lambda part: part.groups, "number of groups"),
        "parallel_kernel": _one(convolutions, lambda part: part.kernel, "kernel"),
        "parallel_activation": _one(cells, lambda cell: cell.activation, "activation"),
        "parallel_norm_eps": min(cell.norm.eps for cell in cells),
    }


def _own_name(part: object) -> str:
    return str(part.name)  # type: ignore[attr-defined]


def _one(parts: Iterable[T], value: Callable[[T], V], what: str, name: Callable[[T], str] = _own_name) -> V:
    """The value that all parts have; raises CheckpointError that names two which differ."""
    first: T | None = None
    for part in parts:
        if first is None:
            first = part
        elif value(part) != value(first):
            raise CheckpointError(
                f"{what}: {value(first)} in {name(first)}, {value(part)} in {name(part)}: only one value "
                "for all is computed here"
            )
    if first is None:
        raise CheckpointError(f"{what}: there is no layer that has it")
    return value(first)


@dataclass
class _Weights:
    """Values by our name, with the name that they have in the checkpoint."""

    values: dict[str, tuple[Floats, str]] = field(default_factory=dict)

    def put(self, target: str, values: Floats, source: str) -> None:
        self.values[target] = values, source

    def layer(self, target: str, layer: Linear | Convolution) -> None:
        self.put(f"{target}.weight", layer.weight, f"{layer.name}.weight")
        self.vector(f"{target}.bias", layer.bias, len(layer.weight), 0, f"{layer.name}.bias")

    def vector(self, target: str, values: Floats | None, length: int, default: float, source: str) -> None:
        """default: what a missing vector is the same as."""
        self.put(target, np.full(length, default, np.float32) if values is None else values, source)

    def layer_norm(self, target: str, norm: LayerNorm, width: int) -> None:
        self.vector(f"{target}.weight", norm.weight, width, 1, f"{norm.name}.weight")
        self.vector(f"{target}.bias", norm.bias, width, 0, f"{norm.name}.bias")

    def batch_norm(self, target: str, norm: BatchNorm, eps: float) -> None:
        """eps: what our layers have, no more than this one's; the rest goes into the variance."""
        width = len(norm.mean)
        self.vector(f"{target}.weight", norm.weight, width, 1, f"{norm.name}.weight")
        self.vector(f"{target}.bias", norm.bias, width, 0, f"{norm.name}.bias")
        self.put(f"{target}.running_mean", norm.mean, f"{norm.name}.running_mean")
        variance = (norm.variance.astype(np.float64) + (norm.eps - eps)).astype(np.float32)
        self.put(f"{target}.running_var", variance, f"{norm.name}.running_var")

    def chain(self, target: str, chain: Chain) -> None:
        for index, layer in enumerate(chain.layers):
            self.layer(f"{target}.{2 * index}", layer)


def _put_encoder(network: Network, weights: _Weights) -> None:
    width = network.encoder.embed.outputs
    weights.put("encoder.class_token", network.encoder.class_token, "cls_token")
    weights.put("encoder.positions", network.encoder.positions, "pos_embed")
    weights.layer("encoder.embed", network.encoder.embed)
    eps = min((block.parallel.norm.eps for block in network.encoder.blocks if block.parallel), default=0.0)
    for index, block in enumerate(network.encoder.blocks):
        target = f"encoder.blocks.{index}"
        weights.layer_norm(f"{target}.attention_norm", block.attention_norm, width)
        weights.layer_norm(f"{target}.mlp_norm", block.mlp_norm, width)
        _put_attention(f"{target}.attention", block.attention, weights, network)
        weights.chain(f"{target}.mlp", block.mlp)
        if block.parallel is not None:
            weights.layer(f"{target}.parallel.expand", block.parallel.expand)
            weights.batch_norm(f"{target}.parallel.norm", block.parallel.norm, eps)
            weights.layer(f"{target}.parallel.contract", block.parallel.contract)
    weights.layer_norm("encoder.norm", network.encoder.norm, width)
    weights.layer("encoder.head", network.encoder.head)


def _put_attention(target: str, attention: Attention, weights: _Weights, network: Network) -> None:
    weights.put(f"{target}.qkv.weight", attention.weight, f"{attention.name}.qkv.weight")
    weights.layer(f"{target}.project", attention.project)
    for name in ("query_bias", "key_bias", "value_bias"):
        if any(getattr(block.attention, name) is not None for block in network.encoder.blocks):
            bias = getattr(attention, name)
            weights.vector(
                f"{target}.{name}", bias, network.encoder.embed.outputs, 0, f"{attention.name} {name}"
            )


def _put_inception(network: Network, weights: _Weights) -> None:
    weights.layer("inception.stem", network.vision.stem)
    eps = min(unit.norm.eps for block in network.vision.blocks for unit in block.units)
    for index, block in enumerate(network.vision.blocks):
        for path, unit in zip(_PATHS, block.units, strict=True):
            target = f"inception.blocks.{index}.{path}"
            weights.layer(f"{target}.0", unit.convolution)
            weights.batch_norm(f"{target}.1", unit.norm, eps)


def _fill(model: AstroMAE, weights: _Weights) -> None:
    state = model.state_dict()
    for name, tensor in state.items():
        if name not in weights.values:
            if name.endswith("num_batches_tracked"):  # counts training steps, changes no result
                state[name] = torch.zeros((), dtype=torch.int64)
                continue
            raise CheckpointError(f"no tensor of the checkpoint is our {name}")
        values, source = weights.values.pop(name)
        if values.shape != tuple(tensor.shape):
            raise CheckpointError(f"{source} has shape {values.shape}, expected {tuple(tensor.shape)}")
        state[name] = torch.from_numpy(values)
    if weights.values:
        raise CheckpointError(f"{next(iter(weights.values.values()))[1]} has no place in AstroMAE")
    model.load_state_dict(state, assign=True)
