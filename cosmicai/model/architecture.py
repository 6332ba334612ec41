"""From the tensors of a foreign AstroMAE to our Config and our state dict.

The encoder is recognised by timm's names (patch_embed, cls_token, blocks.N.attn.qkv, …), everything else by
shapes and by the order in which the network registers its layers, because names differ between versions of
the code. What the shapes cannot tell is assumed as in the published network: the branches are concatenated
in the order encoder, Inception, magnitudes; the paths of an Inception block in the order of their registration.
Every tensor must find its place, and every place its tensor.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cosmicai.model.checkpoint import Checkpoint, CheckpointError
from inference.astromae import AstroMAE, Config, sine_cosine_positions
from inference.torchfile import Array

State = dict[str, Array]

_PATHS = ("one", "three", "five", "pooled")  # the order in which our InceptionBlock concatenates


def build(checkpoint: Checkpoint, heads: int | None = None) -> AstroMAE:
    """The network with the checkpoint's weights; `heads` where the checkpoint does not say it.

    Raises CheckpointError that names what is missing, left over or of the wrong shape.
    """
    known = checkpoint.heads or heads
    if known is None:
        raise CheckpointError(
            f"a {checkpoint.kind} does not tell the number of attention heads: give --heads (6 is published)"
        )
    if heads is not None and checkpoint.heads not in (None, heads):
        raise CheckpointError(f"--heads {heads}: the checkpoint has {checkpoint.heads}")
    tensors = dict(checkpoint.tensors)
    encoder = _Encoder.take(tensors)
    inception = _Inception.take(tensors, encoder.channels)
    chains = _Chains.take(tensors, encoder.state["head.weight"].shape[0], inception.flat)
    if tensors:
        raise CheckpointError(f"tensors without a place in AstroMAE: {_named(tensors)}")
    config = Config(
        image_size=encoder.patch_size * encoder.grid,
        channels=encoder.channels,
        patch_size=encoder.patch_size,
        heads=known,
        depth=encoder.depth,
        **encoder.widths,
        stem_width=inception.stem_width,
        inception=inception.widths,
        **chains.widths,
    )
    state = {f"encoder.{name}": array for name, array in encoder.state.items()}
    state |= {f"inception.{name}": array for name, array in inception.state.items()}
    state |= chains.state(inception.flat_order(config.image_size // 8))
    return _filled(config, state)


def _filled(config: Config, state: State) -> AstroMAE:
    model = AstroMAE(config)
    state.setdefault("encoder.positions", sine_cosine_positions(config).numpy())
    wanted = model.state_dict()
    for name, tensor in wanted.items():
        if name in state and tuple(tensor.shape) != state[name].shape:
            raise CheckpointError(f"{name} has shape {state[name].shape}, expected {tuple(tensor.shape)}")
    missing, unknown = sorted(set(wanted) - set(state)), sorted(set(state) - set(wanted))
    if missing or unknown:
        raise CheckpointError(f"missing: {_named(missing)}; without a place: {_named(unknown)}")
    model.load_state_dict({name: _tensor(array, wanted[name]) for name, array in state.items()})
    return model.eval()


def _tensor(array: Array, like: Tensor) -> Tensor:
    return torch.from_numpy(np.array(array)).to(like.dtype)


def _named(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:8]) + (f" and {len(listed) - 8} more" if len(listed) > 8 else "") or "nothing"


def _pop(tensors: State, name: str, dimensions: int) -> Array:
    if name not in tensors:
        raise CheckpointError(f"no tensor {name}, which AstroMAE has")
    array = tensors.pop(name)
    if array.ndim != dimensions:
        raise CheckpointError(f"{name} has shape {array.shape}, expected {dimensions} dimensions")
    return array


def _pop_layer(tensors: State, source: str, target: str, dimensions: int) -> State:
    """Weight and bias of one layer under its new name."""
    weight = _pop(tensors, f"{source}.weight", dimensions)
    return {f"{target}.weight": weight, f"{target}.bias": _pop(tensors, f"{source}.bias", 1)}


@dataclass(frozen=True)
class _Encoder:
    state: State
    channels: int
    patch_size: int
    grid: int
    depth: int
    widths: dict[str, Any]

    @classmethod
    def take(cls, tensors: State) -> _Encoder:
        """Removes the encoder's tensors from `tensors`."""
        prefixes = [name.removesuffix("patch_embed.proj.weight") for name in tensors]
        prefixes = [prefix for prefix, name in zip(prefixes, tensors, strict=True) if prefix != name]
        if len(prefixes) != 1:
            raise CheckpointError(
                f"{len(prefixes)} tensors are named patch_embed.proj.weight; an AstroMAE has one"
            )
        prefix = prefixes[0]
        own = {n.removeprefix(prefix): tensors.pop(n) for n in list(tensors) if _of_encoder(n, prefix)}
        state = _pop_layer(own, "patch_embed.proj", "embed", 4)
        width, channels, patch, _ = state["embed.weight"].shape
        state["class_token"] = _pop(own, "cls_token", 3)
        tokens = 17
        if "pos_embed" in own:
            state["positions"] = _pop(own, "pos_embed", 3)
            tokens = state["positions"].shape[1]
        grid = round((tokens - 1) ** 0.5)
        depth = 1 + max((int(name.split(".")[1]) for name in own if name.startswith("blocks.")), default=-1)
        widths: dict[str, Any] = {"width": width, "parallel_groups": 0}
        for index in range(depth):
            found = _take_block(own, f"blocks.{index}", f"blocks.{index}", state)
            if index and found != widths:
                raise CheckpointError(f"blocks.{index} differs in form from blocks.0: {found}")
            widths = found
        norm = "fc_norm" if "fc_norm.weight" in own else "norm"
        state |= _pop_layer(own, norm, "norm", 1) | _pop_layer(own, "head", "head", 2)
        if own:
            raise CheckpointError(f"tensors of the encoder without a place in AstroMAE: {_named(own)}")
        return cls(state, channels, patch, grid, depth, widths | {"head_width": len(state["head.weight"])})


def _of_encoder(name: str, prefix: str) -> bool:
    roots = ("patch_embed.", "cls_token", "pos_embed", "blocks.", "norm.", "fc_norm.", "head.")
    return name.startswith(prefix) and name.removeprefix(prefix).startswith(roots)


def _take_block(own: State, source: str, target: str, state: State) -> dict[str, Any]:
    """Moves one block's tensors from `own` to `state`; returns the widths that it shows."""
    state |= _pop_layer(own, f"{source}.norm1", f"{target}.attention_norm", 1)
    state |= _pop_layer(own, f"{source}.norm2", f"{target}.mlp_norm", 1)
    state[f"{target}.attention.qkv.weight"] = qkv = _pop(own, f"{source}.attn.qkv.weight", 2)
    state |= _pop_layer(own, f"{source}.attn.proj", f"{target}.attention.project", 2)
    state |= _pop_layer(own, f"{source}.mlp.fc1", f"{target}.mlp.0", 2)
    state |= _pop_layer(own, f"{source}.mlp.fc2", f"{target}.mlp.2", 2)
    width = qkv.shape[1]
    key_bias = f"{source}.attn.qkv.bias" in own
    if key_bias:
        query, key, value = np.split(_pop(own, f"{source}.attn.qkv.bias", 1), 3)
        state[f"{target}.attention.key_bias"] = key
    else:
        query, value = (_pop(own, f"{source}.attn.{letter}_bias", 1) for letter in "qv")
    state |= {f"{target}.attention.query_bias": query, f"{target}.attention.value_bias": value}
    widths: dict[str, Any] = {
        "width": width,
        "key_bias": key_bias,
        "mlp_ratio": len(state[f"{target}.mlp.0.weight"]) / width,
    }
    return widths | _take_parallel(own, source, f"{target}.parallel", state)


def _take_parallel(own: State, source: str, target: str, state: State) -> dict[str, Any]:
    """The parallel convolution module: whatever else a block holds must be it."""
    rest = [name for name in own if name.startswith(f"{source}.")]
    if not rest:
        return {"parallel_groups": 0}
    layers = list(dict.fromkeys(name.rpartition(".")[0] for name in rest))
    convolutions = [layer for layer in layers if own[f"{layer}.weight"].ndim == 4]
    norms = [layer for layer in layers if f"{layer}.running_mean" in own]
    if len(convolutions) != 2 or len(norms) != 1 or len(layers) != 3:
        raise CheckpointError(f"{source}: cannot place {_named(rest)}")
    expand, contract = convolutions
    state |= _pop_layer(own, expand, f"{target}.expand", 4) | _pop_layer(own, contract, f"{target}.contract", 4)
    for part in ("weight", "bias", "running_mean", "running_var"):
        state[f"{target}.norm.{part}"] = _pop(own, f"{norms[0]}.{part}", 1)
    state[f"{target}.norm.num_batches_tracked"] = own.pop(
        f"{norms[0]}.num_batches_tracked", np.array(0, np.int64)
    )
    width, kernel = len(state[f"{target}.contract.weight"]), state[f"{target}.expand.weight"].shape[2]
    groups, rest_of_width = divmod(width, state[f"{target}.expand.weight"].shape[1])
    if rest_of_width:
        raise CheckpointError(f"{expand}: {width} channels cannot be cut into its groups")
    return {"parallel_groups": groups, "parallel_kernel": kernel}


@dataclass(frozen=True)
class _Inception:
    state: State
    stem_width: int
    widths: tuple[tuple[int, int], ...]
    last_order: list[int]

    @property
    def flat(self) -> int:
        """Channels of the last block."""
        return len(self.last_order)

    def flat_order(self, side: int) -> list[int]:
        """For each of our flattened features, its place in the foreign one (channel-major, side² each)."""
        return [channel * side * side + pixel for channel in self.last_order for pixel in range(side * side)]

    @classmethod
    def take(cls, tensors: State, channels: int) -> _Inception:
        """Removes all convolutions that are left, in their order: a stem and five blocks."""
        layers = [name.removesuffix(".weight") for name, array in tensors.items() if array.ndim == 4]
        if not layers or tensors[f"{layers[0]}.weight"].shape[1:] != (channels, 1, 1):
            raise CheckpointError(f"no 1×1 convolution over {channels} channels begins the Inception branch")
        state = _pop_layer(tensors, layers[0], "stem", 4)
        order = list(range(len(state["stem.weight"])))
        stem_width, widths = len(order), []
        for index, block in enumerate(_blocks(tensors, layers[1:], len(order))):
            order, pair = _take_inception_block(tensors, block, f"blocks.{index}", order, state)
            widths.append(pair)
        if len(widths) != 5:
            raise CheckpointError(f"the Inception branch has {len(widths)} blocks, expected 5")
        return cls(state, stem_width, tuple(widths), order)


def _blocks(tensors: State, layers: list[str], inputs: int) -> list[list[str]]:
    """Consecutive layers cut into blocks of 6 (with a 5×5 path) or 4 convolutions."""
    blocks = []
    while layers:
        has_five = any(tensors[f"{layer}.weight"].shape[2] == 5 for layer in layers[:6])
        size = 6 if has_five else 4
        if len(layers) < size:
            raise CheckpointError(f"an Inception block of {len(layers)} convolutions: {_named(layers)}")
        blocks.append(layers[:size])
        layers = layers[size:]
    return blocks


def _take_inception_block(
    tensors: State, layers: list[str], target: str, order: list[int], state: State
) -> tuple[list[int], tuple[int, int]]:
    """One block; `order` maps our input channels to foreign ones. Returns it for the outputs, and widths."""
    weights = {layer: tensors[f"{layer}.weight"] for layer in layers}
    places: dict[str, str] = {}
    outputs: dict[str, int] = {}  # by path, in the order of registration
    before = ""
    singles: list[str] = []
    for layer, weight in weights.items():
        kernel = weight.shape[2]
        if kernel == 1:
            singles.append(layer)
        else:
            path = {3: "three", 5: "five"}.get(kernel, "")
            if not path or before not in singles:
                raise CheckpointError(f"{layer}: a {kernel}×{kernel} convolution without a 1×1 one before it")
            singles.remove(before)
            places |= {before: f"{path}.0.0", layer: f"{path}.1.0"}
            outputs[path] = len(weight)
        before = layer
    reduce, path_width = weights[_at(places, "three.0.0")].shape[0], outputs["three"]
    for layer, role in zip(singles, _single_roles(weights, singles, reduce, path_width), strict=True):
        places[layer] = f"{role}.0"
        outputs[role] = len(weights[layer])
    for layer in layers:
        moved = _pop_layer(tensors, layer, f"{target}.{places[layer]}", 4)
        name = f"{target}.{places[layer]}.weight"
        if not places[layer].endswith(".1.0"):
            if moved[name].shape[1] != len(order):
                raise CheckpointError(f"{layer} has {moved[name].shape[1]} inputs, expected {len(order)}")
            moved[name] = moved[name][:, order]
        state |= moved
    registered = sorted(outputs, key=lambda path: layers.index(_last_layer(places, path)))
    starts = dict(
        zip(registered, np.cumsum([0, *(outputs[path] for path in registered)]).tolist(), strict=False)
    )
    ours = [path for path in _PATHS if path in outputs]
    return [starts[path] + n for path in ours for n in range(outputs[path])], (reduce, path_width)


def _single_roles(weights: State, singles: list[str], reduce: int, path: int) -> list[str]:
    """The two 1×1 convolutions without another behind them: the 1×1 path and the pooled one."""
    widths = [len(weights[layer]) for layer in singles]
    if widths == [path, reduce]:
        return ["one", "pooled"]
    if widths == [reduce, path]:
        return ["pooled", "one"]
    raise CheckpointError(f"1×1 convolutions {_named(singles)} have widths {widths}, not {path} and {reduce}")


def _at(places: dict[str, str], place: str) -> str:
    for layer, where in places.items():
        if where == place:
            return layer
    raise CheckpointError("an Inception block without a 3×3 convolution")


def _last_layer(places: dict[str, str], path: str) -> str:
    return [layer for layer, place in places.items() if place.startswith(f"{path}.")][-1]


@dataclass(frozen=True)
class _Chains:
    """The four stacks of Linear layers: encoder branch, Inception branch, magnitudes, fusion."""

    layers: dict[str, list[tuple[Array, Array]]]

    @property
    def widths(self) -> dict[str, Any]:
        magnitude, fusion = self.layers["magnitude_branch"], self.layers["fusion"]
        return {
            "branch_width": len(self.layers["encoder_branch"][0][1]),
            "magnitudes": magnitude[0][0].shape[1],
            "magnitude_width": len(magnitude[0][1]),
            "magnitude_depth": len(magnitude),
            "fusion_width": len(fusion[0][1]),
        }

    def state(self, flat_order: list[int]) -> State:
        first, bias = self.layers["inception_branch"][0]
        self.layers["inception_branch"][0] = (first[:, flat_order], bias)
        return {
            f"{name}.{2 * index}.{part}": array
            for name, stack in self.layers.items()
            for index, layer in enumerate(stack)
            for part, array in zip(("weight", "bias"), layer, strict=True)
        }

    @classmethod
    def take(cls, tensors: State, head_width: int, channels: int) -> _Chains:
        """Removes all Linear layers that are left; `channels` are those of the last Inception block."""
        names = [name.removesuffix(".weight") for name, array in tensors.items() if array.ndim == 2]
        layers = [(_pop(tensors, f"{n}.weight", 2), _pop(tensors, f"{n}.bias", 1)) for n in names]
        stacks: list[list[tuple[Array, Array]]] = [layers[:1]]
        for (before, _), layer in pairwise(layers):
            if len(before) != layer[0].shape[1]:
                stacks.append([layer])
            else:
                stacks[-1].append(layer)
        return cls(_assigned(stacks, head_width, channels))


def _assigned(
    stacks: list[list[tuple[Array, Array]]], head_width: int, channels: int
) -> dict[str, list[tuple[Array, Array]]]:
    shapes = [[layer[0].shape[::-1] for layer in stack] for stack in stacks]
    if len(stacks) != 4:
        raise CheckpointError(f"expected four stacks of Linear layers, found {len(stacks)}: {shapes}")
    fusion = [stack for stack in stacks if len(stack[-1][0]) == 1]
    rest = [stack for stack in stacks if len(stack[-1][0]) != 1]
    magnitude = min(rest, key=lambda stack: stack[0][0].shape[1])
    pair = [stack for stack in rest if stack is not magnitude]
    if len(fusion) != 1 or len(pair) != 2 or [len(stack) for stack in pair] != [2, 2]:
        raise CheckpointError(f"Linear layers that are not AstroMAE's: {shapes}")
    inputs = [stack[0][0].shape[1] for stack in pair]
    if inputs[0] != head_width or (inputs[1] == head_width and inputs[1] % channels):
        pair, inputs = pair[::-1], inputs[::-1]
    if inputs[0] != head_width or inputs[1] % channels:
        raise CheckpointError(
            f"branches of {inputs} inputs fit neither a head of {head_width} nor {channels} channels"
        )
    return {
        "encoder_branch": pair[0],
        "inception_branch": pair[1],
        "magnitude_branch": magnitude,
        "fusion": fusion[0],
    }
