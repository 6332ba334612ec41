"""A stored whole module as a Network.

The classes say what is computed with what: which layers there are, in which order, and everything in their
attributes that changes a result (see classes.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from cosmicai.model.foreign.assumed import Assumed
from cosmicai.model.foreign.classes import kind_of
from cosmicai.model.foreign.errors import CheckpointError, shown
from cosmicai.model.foreign.layers import batch_norm, chain, chain_of, convolution, layer_norm, linear, pool
from cosmicai.model.foreign.network import (
    ALONE,
    Attention,
    Block,
    Chain,
    Convolution,
    Encoder,
    Inception,
    Linear,
    Network,
    Parallel,
    Unit,
    Vision,
    check_stem,
    flat_features,
    image_size_of,
)
from cosmicai.model.foreign.nodes import Node, Tree, activation
from cosmicai.model.foreign.roles import PUBLISHED, assigned
from inference.data.pickled import Record

_CODE = "the classes compute what their published code does: a pickle holds no code"


def read(record: Record, tree: Tree, assumed: Assumed) -> Network:
    """Raises CheckpointError that names whatever of it is not known or not computed here."""
    root = tree.node(record, "", open_ended=True)
    if root.role == "inception model":
        raise CheckpointError(ALONE)
    if root.role != "astromae":
        raise root.fault("is not an AstroMAE (ViT_Astro)")
    mixed = root.child(_name_of(root, "inception_model", _is_inception_model), open_ended=True)
    if mixed.role != "inception model":
        raise mixed.fault("is used where an Input_Mix_Model is expected")
    encoder = _encoder(root)
    vision, branch = _vision(mixed, assumed)
    known, others = _stacks(root, mixed)
    known["inception_branch"] = branch
    flat = flat_features(vision, encoder.image_size)
    inputs = {"encoder_branch": len(encoder.head.weight), "inception_branch": flat}
    stacks = assigned(known, others, inputs)
    by_shape = [f"{stacks[role].name} is the {role}, by its shapes" for role in stacks.keys() - known.keys()]
    return Network(encoder, vision, **stacks, notes=(_CODE, *sorted(by_shape)))


def _name_of(node: Node, published: str, fits: Callable[[object], bool]) -> str:
    """A child's name, or that of the only unknown child which is of its kind."""
    if published in node.children:
        return published
    fitting = [name for name, child in node.strangers.items() if fits(child)]
    if len(fitting) != 1:
        raise node.fault(f"lacks the child {published}")
    return fitting[0]


def _role(record: object) -> str | None:
    kind = kind_of(record.dotted, by_name=True) if isinstance(record, Record) else None
    return None if kind is None else kind.role


def _is_inception_model(child: object) -> bool:
    return _role(child) == "inception model"


def _holds_inception_blocks(child: object) -> bool:
    parts = child.attributes.get("_modules") if isinstance(child, Record) else None
    return any(_role(part) == "inception block" for part in getattr(parts, "named", {}).values())


def _stacks(root: Node, mixed: Node) -> tuple[dict[str, Chain], dict[str, Chain]]:
    """The stacks of Linear layers whose names are known, by what they are; and the others, by name."""
    known: dict[str, Chain] = {}
    others: dict[str, Chain] = {}
    for node in (root, mixed):
        for name in PUBLISHED.keys() & node.kind.children & node.children.keys():
            known[PUBLISHED[name]] = chain(node.child(name))
        for name, child in node.strangers.items():
            if not _is_inception_model(child) and not _holds_inception_blocks(child):
                others[name] = chain(node.child(name))
    return known, others


# The encoder


def _encoder(root: Node) -> Encoder:
    patches, positions = root.of_role("patch_embed", "patches"), root.needed_floats("pos_embed")
    embed = convolution(patches.of_role("proj", "convolution"), patches=True)
    image_size = image_size_of(positions, embed, "pos_embed")
    img_size = patches.attribute("img_size")
    if img_size is not None and img_size != (image_size, image_size):
        raise patches.fault(f"has img_size = {shown(img_size)}; its positions cover {image_size}")
    if embed.groups != 1:
        raise patches.fault(f"has {embed.groups} groups in proj; only 1 is computed here")
    return Encoder(
        image_size,
        root.needed_floats("cls_token"),
        positions,
        embed,
        tuple(_block(node, embed.outputs) for node in root.child("blocks").sequence()),
        layer_norm(root.of_role("fc_norm", "layer norm"), embed.outputs),
        linear(root.of_role("head", "linear")),
    )


def _block(node: Node, width: int) -> Block:
    if node.role not in ("block", "cell"):
        raise node.fault("is used where a block of the encoder is expected (timm's Block or NormalCell)")
    attention, mlp = _attention(node.of_role("attn", "attention"), width), _mlp(node.of_role("mlp", "mlp"))
    return Block(
        node.path,
        layer_norm(node.of_role("norm1", "layer norm"), width),
        replace(attention, project=_scaled(node, "ls1", attention.project)),
        layer_norm(node.of_role("norm2", "layer norm"), width),
        replace(mlp, layers=(mlp.layers[0], _scaled(node, "ls2", mlp.layers[1]))),
        _parallel(node.child("PCM")) if node.role == "cell" else None,
    )


def _scaled(node: Node, name: str, layer: Linear) -> Linear:
    """timm's LayerScale: factors of a branch's outputs."""
    if name not in node.children:
        return layer
    scale = node.of_role(name, "scale", "idle")
    return layer.scaled(scale.needed_floats("gamma")) if scale.role == "scale" else layer


def _mlp(node: Node) -> Chain:
    layers = [linear(node.of_role(name, "linear")) for name in ("fc1", "fc2")]
    return Chain(node.path, tuple(layers), activation(node.child("act")))


def _attention(node: Node, width: int) -> Attention:
    qkv, heads = linear(node.of_role("qkv", "linear")), node.attribute("num_heads")
    if type(heads) is not int or heads < 1 or width % heads:
        raise node.fault(f"has num_heads = {shown(heads)} for a width of {width}")
    if node.attribute("head_dim") not in (None, width // heads):
        raise node.fault(
            f"has head_dim = {shown(node.attribute('head_dim'))}; only {width // heads} is computed here"
        )
    own = [node.floats(name) for name in ("q_bias", "v_bias")]
    if any(bias is None for bias in own) != all(bias is None for bias in own):
        raise node.fault("has one of q_bias and v_bias; only both or none is known")
    if node.has("q_bias") and qkv.bias is not None:
        raise node.fault("has both q_bias and a bias of qkv; which is used is not known")
    if qkv.bias is not None and qkv.bias.shape != (3 * width,):
        raise node.fault(f"has a bias of shape {qkv.bias.shape} in qkv; only {(3 * width,)} is computed here")
    query, key, value = (own[0], None, own[1]) if qkv.bias is None else np.split(qkv.bias, 3)
    project = linear(node.of_role("proj", "linear"))
    return Attention(node.path, qkv.weight, query, key, value, heads, _scale(node, width // heads), project)


def _scale(node: Node, head_width: int) -> float | None:
    """None: from the heads' width, as always if torch's own attention is called (fused_attn)."""
    fused, usual = node.attribute("fused_attn"), head_width**-0.5
    if fused is not None and type(fused) is not bool:
        raise node.fault(f"has fused_attn = {shown(fused)}; only True and False are known")
    return None if fused or node.number("scale") == usual else float(node.number("scale"))


def _parallel(node: Node) -> Parallel:
    parts = node.sequence()
    roles = [part.role for part in parts]
    if len(parts) != 4 or (roles[0], roles[1], roles[3]) != ("convolution", "batch norm", "convolution"):
        raise node.fault(
            f"is {', '.join(roles) or 'empty'}; only convolution, batch norm, activation, convolution is "
            "computed here"
        )
    expand, contract = convolution(parts[0]), convolution(parts[3])
    return Parallel(node.path, expand, batch_norm(parts[1]), activation(parts[2]), contract)


# The Inception branch


_STEPS = ("convolution", "pool", "block", "block", "pool", "block", "block", "pool", "block", "flatten")


def _vision(mixed: Node, assumed: Assumed) -> tuple[Vision, Chain]:
    """The branch, and the Linear layers at its end."""
    node = mixed.child(_name_of(mixed, "vis_inception", _holds_inception_blocks))
    steps = node.sequence()
    kinds = {"average pool": "pool", "max pool": "pool", "inception block": "block"}
    roles = [kinds.get(step.role, step.role) for step in steps]
    if tuple(roles[: len(_STEPS)]) != _STEPS:
        raise node.fault(f"is {', '.join(roles)}; only {', '.join(_STEPS)} and Linear layers are computed here")
    parts = {
        role: [step for step, own in zip(steps, roles, strict=True) if own == role] for role in set(_STEPS)
    }
    stem = convolution(steps[0])
    if (stem.kernel, stem.groups) != (1, 1):
        raise steps[0].fault(
            "begins the Inception branch; only a 1×1 convolution without groups is computed here"
        )
    _check_registered(mixed, stem)
    relu = assumed.value("inception_activation")
    blocks = tuple(_inception(block, str(relu)) for block in parts["block"])
    vision = Vision(stem, tuple(pool(step) for step in parts["pool"]), blocks)
    return vision, chain_of(node.path, steps[len(_STEPS) :])


def _check_registered(mixed: Node, stem: Convolution) -> None:
    if "conv2d_init" in mixed.children:
        other = mixed.of_role("conv2d_init", "convolution")
        check_stem(stem, other.path, other.floats("weight"), other.floats("bias"))


def _inception(node: Node, relu: str) -> Inception:
    custom = node.attribute("is_custom")
    if type(custom) is not bool:
        raise node.fault(f"has is_custom = {shown(custom)}; only True and False are known")
    if node.role != "inception block":
        raise node.fault("is used where an InceptionBlock is expected")
    three, five = node.child("branch2").sequence(), node.child("branch3").sequence()
    pooled = node.child("branch4").sequence()
    if not len(three) == len(five) == len(pooled) == 2:
        raise node.fault("has paths of other lengths than two steps")
    units = [node.child("branch1"), *three, *five, pooled[1]]
    one, before_three, last_three, before_five, last_five, after_pool = (_unit(unit, relu) for unit in units)
    return Inception(
        node.path,
        (one, before_three, last_three, before_five, last_five, after_pool),
        pool(pooled[0], stride=1),
        uses_five=not custom,
    )


def _unit(node: Node, relu: str) -> Unit:
    """Its activation is in the code of its class, and so is not in the file."""
    if node.role != "unit":
        raise node.fault("is used where a ConvBlock is expected")
    layer = convolution(node.of_role("conv", "convolution"))
    if layer.groups != 1:
        raise node.fault(f"has {layer.groups} groups; only 1 is computed here")
    return Unit(layer, batch_norm(node.of_role("bn", "batch norm")), relu)
