"""Whole modules of every kind that the public classes can be made into: imported with the same outputs, or
refused by the name of what is not computed here. None is imported with other outputs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from cosmicai.model.foreign.errors import CheckpointError
from cosmicai.model.foreign.reading import Choices, read
from tests import foreign

Change = Callable[[foreign.ViT_Astro], object]


def _agrees(model: nn.Module, path: Path) -> bool:
    inputs = foreign.galaxies(image=model.patch_embed.img_size[0])
    with torch.inference_mode():
        theirs = model(inputs).squeeze(1)
        ours = read(path, Choices()).model(*inputs)
    assert theirs.std() > 0.01
    return bool(((ours - theirs).abs() <= 1e-5 * theirs.abs().clamp(min=1)).all())


@pytest.mark.parametrize(
    "sizes",
    [
        {"depth": 1},
        {"depth": 5, "heads": 6},
        {"heads": 1},
        {"hidden": 40, "groups": 4},
        {"hidden": 24},
        {"width": 16, "heads": 4, "groups": 4, "patch": 4},
        {"width": 16, "heads": 4, "groups": 2, "patch": 16},
        {"kernel": 3, "groups": 3},
        {"kernel": 3, "groups": 1},
        {"groups": 24},
        {"groups": 0},
        {"groups": 0, "bias": False},
        {"bias": False},
        {"eps": 1e-5},
        {"eps": 1e-3, "groups": 0},
        {"image": 64},
        {"image": 24, "patch": 4},
        {"branch": 7, "magnitude": 9, "fusion": 3},
        {"stem": 3, "widths": [(2, 3, 4, 5, 6, 7)] * 5},
    ],
    ids=str,
)
def test_sizes(sizes: dict[str, object], tmp_path: Path) -> None:
    model = foreign.astromae(**sizes)
    assert _agrees(model, foreign.save(model, tmp_path))


def _set(path: str, **attributes: object) -> Change:
    """Attributes of one layer."""

    def change(model: foreign.ViT_Astro) -> None:
        for name, value in attributes.items():
            setattr(model.get_submodule(path), name, value)

    return change


def _put(path: str, made: Callable[[], nn.Module]) -> Change:
    return lambda model: model.set_submodule(path, made())


def _each(kind: type[nn.Module], change: Callable[[nn.Module], object]) -> Change:
    """Every layer of one class."""
    return lambda model: [change(module) for module in list(model.modules()) if isinstance(module, kind)]


def _mlp(made: Callable[[], nn.Module]) -> Change:
    return _each(foreign.Mlp, lambda mlp: setattr(mlp, "act", made()))


def _pools(made: Callable[[], nn.Module]) -> Change:
    return _each(foreign.InceptionBlock, lambda block: block.branch4.__setitem__(0, made()))


def _halvings(made: Callable[[], nn.Module]) -> Change:
    def change(model: foreign.ViT_Astro) -> None:
        for place in (1, 4, 7):
            model.inception_model.vis_inception[place] = made()

    return change


def _without_bias(module: nn.Module) -> None:
    module.bias = None


def _without_affine(module: nn.Module) -> None:
    module.weight = module.bias = None


def _stack_of(act: Callable[[], nn.Module]) -> Change:
    def change(model: foreign.ViT_Astro) -> None:
        for index in (1, 3, 5, 7):
            model.inception_model.magnitude_block[index] = act()

    return change


class _LayerScale(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.inplace, self.gamma = False, nn.Parameter(torch.rand(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gamma


SAME: dict[str, Change] = {
    "as it is": lambda model: None,
    "in training": lambda model: model.train(),
    "activation: ReLU": _mlp(nn.ReLU),
    "activation: SiLU": _mlp(nn.SiLU),
    "activation: Tanh": _mlp(nn.Tanh),
    "activation: Sigmoid": _mlp(nn.Sigmoid),
    "activation: GELU by tanh": _mlp(partial(nn.GELU, "tanh")),
    "activation: LeakyReLU": _mlp(partial(nn.LeakyReLU, 0.3)),
    "activation: ELU": _mlp(partial(nn.ELU, 0.7)),
    "parallel activation": _each(foreign.NormalCell, lambda cell: cell.PCM.__setitem__(2, nn.GELU())),
    "stack's activation": _stack_of(partial(nn.ELU, 0.5)),
    "stack without activations": _stack_of(nn.Identity),
    "stack with dropout": lambda m: m.vit_block.insert(2, nn.Dropout(0.5)),
    "stack in a stack": lambda m: setattr(
        m, "vit_block", nn.Sequential(nn.Sequential(*m.vit_block[:2]), m.vit_block[2])
    ),
    "longer stack": lambda m: setattr(m, "vit_block", foreign.stack(24, [9, 8, 20])),
    "scale": _each(foreign.Attention, lambda attention: setattr(attention, "scale", 0.8)),
    "negative scale": _each(foreign.Attention, lambda attention: setattr(attention, "scale", -0.3)),
    "whole scale": _each(foreign.Attention, lambda attention: setattr(attention, "scale", 1)),
    "more heads": _each(foreign.Attention, lambda attention: setattr(attention, "num_heads", 6)),
    "dropout": _each(nn.Dropout, lambda dropout: setattr(dropout, "p", 0.5)),
    "drop path": _each(foreign.NormalCell, lambda cell: setattr(cell, "drop_path", foreign.DropPath(0.1))),
    "eps of one batch norm": _set("inception_model.vis_inception.3.branch2.1.bn", eps=0.3),
    "eps of all batch norms": _each(nn.BatchNorm2d, lambda norm: setattr(norm, "eps", 1e-3)),
    "eps zero": _set("blocks.1.PCM.1", eps=0),
    "eps of fc_norm": _set("fc_norm", eps=1e-2),
    "convolutions without biases": _each(nn.Conv2d, _without_bias),
    "linear layers without biases": _each(nn.Linear, _without_bias),
    "one layer without bias": lambda m: _without_bias(m.concat_block[2]),
    "one attention without biases": _set("blocks.0.attn", q_bias=None, v_bias=None),
    "batch norms without affine": _each(nn.BatchNorm2d, _without_affine),
    "layer norms without affine": _each(nn.LayerNorm, _without_affine),
    "layer norm without bias": lambda m: _without_bias(m.blocks[0].norm1),
    "statistics said not to be tracked": _each(
        nn.BatchNorm2d, lambda n: setattr(n, "track_running_stats", False)
    ),
    "average pooling": _pools(partial(nn.AvgPool2d, 3, stride=1, padding=1)),
    "larger pooling": _pools(partial(nn.MaxPool2d, 5, stride=1, padding=2)),
    "halved by maxima": _halvings(partial(nn.MaxPool2d, 2)),
    "padding in words": _each(
        nn.Conv2d, lambda c: setattr(c, "padding", "same") if c.stride == (1, 1) else None
    ),
    "Sequential of blocks": lambda m: setattr(m, "blocks", nn.Sequential(*m.blocks)),
    "stem by itself": lambda m: setattr(
        m.inception_model, "conv2d_init", _copied(m.inception_model.conv2d_init)
    ),
    "stray attributes of parameters": lambda m: setattr(m.cls_token, "note", "frozen"),
    "tokens as buffers": lambda m: _as_buffer(m, "cls_token", "pos_embed"),
}


def _copied(module: nn.Conv2d) -> nn.Conv2d:
    copy = nn.Conv2d(5, len(module.weight), 1)
    copy.load_state_dict(module.state_dict())
    return copy


def _as_buffer(model: nn.Module, *names: str) -> None:
    for name in names:
        value = getattr(model, name).data
        delattr(model, name)
        model.register_buffer(name, value)


@pytest.mark.parametrize("name", SAME)
def test_what_is_imported_gives_the_same_outputs(name: str, tmp_path: Path) -> None:
    model = foreign.astromae()
    SAME[name](model)
    path = foreign.save(model, tmp_path)
    assert _agrees(model.eval(), path)


def test_gelu_of_torch_before_1_12_has_no_approximate(tmp_path: Path) -> None:
    model = foreign.astromae()
    for module in model.modules():
        if isinstance(module, nn.GELU):
            del module.approximate
    path = foreign.save(model, tmp_path)
    assert _agrees(foreign.astromae(), path)


def test_plain_blocks_with_layer_scale(tmp_path: Path) -> None:
    """As timm has them since 0.6."""

    class Scaled(foreign.Block):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x + self.drop_path1(self.ls1(self.attn(self.norm1(x))))
            return x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))

    model = foreign.astromae(groups=0)
    for block in model.blocks:
        block.__class__ = Scaled
        block.ls1, block.ls2, block.drop_path1 = _LayerScale(24), _LayerScale(24), block.drop_path
        block.drop_path2 = block.drop_path
    homes = {"timm.models.vision_transformer": {"Block": Scaled, "LayerScale": _LayerScale}}
    with foreign.modules({**foreign.HOMES, **{k: foreign.HOMES[k] | v for k, v in homes.items()}}):
        torch.save(model, tmp_path / "checkpoint.pt")
    assert _agrees(model, tmp_path / "checkpoint.pt")


class _Gate(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


class _CustomAct(nn.SiLU):
    pass


def _old_weight_norm(model: foreign.ViT_Astro) -> None:
    with pytest.warns(FutureWarning, match="weight_norm"):
        nn.utils.weight_norm(model.head)


def _hook(*_: object) -> None:
    return None


def _first_cell(change: Callable[[foreign.NormalCell], object]) -> Change:
    return lambda model: change(model.blocks[0])


REFUSED: dict[str, tuple[Change, str]] = {
    "PReLU": (
        _mlp(nn.PReLU),
        r"blocks\.0\.mlp\.act is a torch\.nn\.modules\.activation\.PReLU, .* not an activation",
    ),
    "Mish": (
        _put("blocks.1.mlp.act", nn.Mish),
        r"blocks\.1\.mlp\.act is a .*\.Mish, .* not an activation that we have",
    ),
    "Hardswish in a stack": (_put("vit_block.1", nn.Hardswish), r"vit_block\.1 is a .*\.Hardswish"),
    "softmax in a stack": (_put("vit_block.1", lambda: nn.Softmax(1)), r"vit_block\.1 is a .*\.Softmax"),
    "a class of the user's": (
        _put("blocks.0.mlp.act", _CustomAct),
        r"blocks\.0\.mlp\.act is a tests\..*_CustomAct",
    ),
    "another class in a block": (
        _put("blocks.0.mlp", _Gate),
        r"blocks\.0\.mlp is a tests\..*\._Gate, which is not",
    ),
    "an extra child": (lambda m: setattr(m, "gate", _Gate()), r"the module \(.*ViT_Astro\).*gate|gate is a"),
    "an extra child of a block": (
        _first_cell(lambda c: setattr(c, "gate", nn.Identity())),
        r"blocks\.0 .*child gate",
    ),
    "an activation in a unit": (
        lambda m: setattr(m.inception_model.vis_inception[2].branch1, "act", nn.SiLU()),
        r"vis_inception\.2\.branch1 \(blocks\.photoz\.ConvBlock\) has the unknown child act",
    ),
    "activations that differ": (
        _put("blocks.1.mlp.act", nn.ReLU),
        r"activation: gelu in blocks\.0\.mlp, relu in blocks\.1",
    ),
    "activations that differ in a stack": (
        _put("inception_model.magnitude_block.3", nn.GELU),
        r"magnitude_block has different activations \(relu, gelu",
    ),
    "heads that differ": (
        _set("blocks.1.attn", num_heads=6),
        r"number of heads: 3 in blocks\.0\.attn, 6 in blocks\.1",
    ),
    "scales that differ": (
        _set("blocks.1.attn", scale=0.2),
        r"attention scale: None in blocks\.0\.attn, 0\.2 in blocks\.1",
    ),
    "eps that differ": (
        _set("blocks.1.norm2", eps=1e-3),
        r"eps: 1e-06 in blocks\.0\.norm1, 0\.001 in blocks\.1\.norm2",
    ),
    "pools that differ": (
        _put("inception_model.vis_inception.3.branch4.0", lambda: nn.MaxPool2d(5, 1, 2)),
        r"size: 3 in .*vis_inception\.2\.branch4\.0, 5 in .*vis_inception\.3",
    ),
    "halvings that differ": (
        _put("inception_model.vis_inception.4", lambda: nn.MaxPool2d(2)),
        r"kind of pooling: average",
    ),
    "pooling by another power": (
        _put("inception_model.vis_inception.3.branch4.0", lambda: nn.LPPool2d(2, 3, 1)),
        r"vis_inception\.3\.branch4\.0 is a .*LPPool2d",
    ),
    "padding not counted": (
        _pools(lambda: nn.AvgPool2d(3, 1, 1, count_include_pad=False)),
        r"branch4\.0 .*count_include_pad = False; only True",
    ),
    "pool with ceil": (_pools(lambda: nn.MaxPool2d(3, 1, 1, ceil_mode=True)), r"ceil_mode = True; only False"),
    "pool with another divisor": (
        _pools(lambda: nn.AvgPool2d(3, 1, 1, divisor_override=4)),
        r"divisor_override = 4",
    ),
    "dilated pool": (_pools(lambda: nn.MaxPool2d(3, 1, 2, dilation=2)), r"branch4\.0 .* padding = 2"),
    "halving by strides of 3": (
        _halvings(lambda: nn.AvgPool2d(2, 3)),
        r"stride = 3, padding = 0; only a pool that halves",
    ),
    "pool of pairs": (_pools(lambda: nn.MaxPool2d((3, 5), 1, (1, 2))), r"kernel_size = \(3, 5\)"),
    "reflected padding": (
        _set("inception_model.vis_inception.2.branch2.1.conv", padding_mode="reflect"),
        r"branch2\.1\.conv .* padding_mode = 'reflect'; only zeros",
    ),
    "strided convolution": (
        _set("inception_model.vis_inception.2.branch1.conv", stride=(2, 2)),
        r"stride = \(2, 2\)",
    ),
    "dilated convolution": (
        _set("inception_model.vis_inception.2.branch2.1.conv", dilation=(2, 2), padding=(2, 2)),
        r"padding = \(2, 2\); only 1",
    ),
    "overlapping patches": (
        _set("patch_embed.proj", stride=(4, 4)),
        r"patch_embed\.proj .*stride = \(4, 4\); only 8",
    ),
    "unflattened patches": (_set("patch_embed", flatten=False), r"patch_embed .* flatten = False"),
    "normalised patches": (
        _put("patch_embed.norm", lambda: nn.LayerNorm(24)),
        r"patch_embed\.norm .* computes something",
    ),
    "normalised queries": (
        _first_cell(lambda cell: setattr(cell.attn, "q_norm", nn.LayerNorm(8))),
        r"blocks\.0\.attn\.q_norm .* computes something",
    ),
    "flattened from another axis": (
        _set("inception_model.vis_inception.9", start_dim=0),
        r"start_dim = 0; only 1",
    ),
    "batch norm and activation swapped": (
        _first_cell(lambda c: setattr(c, "PCM", nn.Sequential(c.PCM[0], c.PCM[2], c.PCM[1], c.PCM[3]))),
        r"blocks\.0\.PCM .*is convolution, silu, batch norm, convolution; only",
    ),
    "another layer in PCM": (
        _first_cell(lambda c: c.PCM.append(nn.BatchNorm2d(24))),
        r"blocks\.0\.PCM .*only convolution",
    ),
    "an activation after the last layer": (
        lambda m: m.vit_block.append(nn.ReLU()),
        r"vit_block\.3 .*Linear layer is expected",
    ),
    "a norm in a stack": (
        lambda m: m.vit_block.append(nn.LayerNorm(20)),
        r"vit_block\.3 .*Linear layer is expected",
    ),
    "two activations": (lambda m: m.vit_block.insert(1, nn.Tanh()), r"vit_block\.2 .*Linear layer is expected"),
    "another order in the Inception branch": (
        lambda m: m.inception_model.vis_inception.insert(1, nn.ReLU()),
        r"vis_inception .*is convolution, relu, pool",
    ),
    "a missing block": (
        lambda m: m.inception_model.vis_inception.pop(5),
        r"vis_inception .*only convolution, pool, block",
    ),
    "no running statistics": (
        _each(nn.BatchNorm2d, lambda n: setattr(n, "running_mean", None) or setattr(n, "running_var", None)),
        r"no running statistics: its result would depend on the other galaxies",
    ),
    "without a class token": (
        _set("blocks.0", class_token=False),
        r"blocks\.0 .*class_token = False; only True",
    ),
    "Inception only": (_set("inception_model", Inception_only=True), r"Inception_only = True; only False"),
    "without magnitudes": (
        _set("inception_model", magnitude=False),
        r"inception_model .*magnitude = False; only True",
    ),
    "the UK paper's": (_set("inception_model", uk_paper=True), r"uk_paper = True; only False"),
    "a forward hook": (
        lambda m: m.head.register_forward_hook(_hook),
        r"head .*has _forward_hooks: hooks can change",
    ),
    "a forward pre-hook": (lambda m: m.head.register_forward_pre_hook(_hook), r"head .*has _forward_pre_hooks"),
    "old weight norm": (_old_weight_norm, r"head .*has _forward_pre_hooks"),
    "a patched forward": (lambda m: setattr(m.head, "forward", _hook), r"head .*unknown attribute forward"),
    "an unknown attribute": (lambda m: setattr(m, "temperature", 2.0), r"unknown attribute temperature = 2\.0"),
    "an unknown parameter": (
        lambda m: m.register_parameter("temperature", nn.Parameter(torch.ones(1))),
        r"unknown tensor temperature",
    ),
    "an attribute in front of a parameter": (
        lambda m: m.head.__dict__.__setitem__("weight", torch.zeros(24, 24)),
        r"head .*two tensors weight",
    ),
    "quantised weights": (
        lambda m: setattr(m.head.weight, "data", m.head.weight.data.to(torch.float8_e4m3fn)),
        r"head\.weight",
    ),
    "whole numbers as weights": (
        lambda m: setattr(
            m, "pos_embed", nn.Parameter(torch.ones(1, 17, 24, dtype=torch.int32), requires_grad=False)
        ),
        r"pos_embed holds numbers of type int32",
    ),
    "two stems": (
        lambda m: setattr(m.inception_model, "conv2d_init", nn.Conv2d(5, 8, 1)),
        r"conv2d_init and inception_model\.vis_inception\.0 are one layer in AstroMAE, but have",
    ),
    "a width that differs": (
        _put("blocks.1.norm1", lambda: nn.LayerNorm(25)),
        r"blocks\.1\.norm1 .*normalized_shape = \(25,\)",
    ),
    "a hidden width that differs": (
        _put("blocks.1.mlp", lambda: foreign.CellMlp(24, 40)),
        r"width: 48 in blocks\.0\.mlp, 40",
    ),
    "groups that differ": (
        _first_cell(lambda c: c.PCM.__setitem__(0, nn.Conv2d(24, 48, 1, groups=3))),
        r"number of groups: 3 in blocks\.0\.PCM\.0, 6 in blocks\.0\.PCM\.3",
    ),
    "blocks of two kinds": (
        lambda m: m.blocks.__setitem__(1, foreign.Block(24, 3, 48, partial(nn.LayerNorm, eps=1e-6))),
        r"blocks\.1 has no parallel convolutions",
    ),
    "a stem of 3×3": (
        lambda m: m.inception_model.vis_inception.__setitem__(0, nn.Conv2d(5, 8, 3, padding=1)),
        r"vis_inception\.0 .*1×1 convolution",
    ),
    "another image size": (
        _set("patch_embed", img_size=(40, 40)),
        r"img_size = \(40, 40\); its positions cover 32",
    ),
    "too many Inception channels": (
        _set("inception_model.vis_inception.8", is_custom=False),
        r"none fits|has shape",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_computed_here_is_refused_by_name(name: str, tmp_path: Path) -> None:
    model = foreign.astromae()
    change, message = REFUSED[name]
    change(model)
    with pytest.raises(CheckpointError, match=message):
        read(foreign.save(model, tmp_path), Choices())
