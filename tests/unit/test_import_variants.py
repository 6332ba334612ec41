"""Whole modules of every kind that the public classes can be made into, imported with the same outputs."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from cosmicai.model.foreign.reading import Choices, read
from tests import foreign
from tests.unit.import_changes import (
    Change,
    each,
    halvings,
    mlp_act,
    pools,
    set_attributes,
    stack_of,
    without_affine,
    without_bias,
)


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


class _LayerScale(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.inplace, self.gamma = False, nn.Parameter(torch.rand(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gamma


SAME: dict[str, Change] = {
    "as it is": lambda model: None,
    "in training": lambda model: model.train(),
    "activation: ReLU": mlp_act(nn.ReLU),
    "activation: SiLU": mlp_act(nn.SiLU),
    "activation: Tanh": mlp_act(nn.Tanh),
    "activation: Sigmoid": mlp_act(nn.Sigmoid),
    "activation: GELU by tanh": mlp_act(partial(nn.GELU, "tanh")),
    "activation: LeakyReLU": mlp_act(partial(nn.LeakyReLU, 0.3)),
    "activation: ELU": mlp_act(partial(nn.ELU, 0.7)),
    "parallel activation": each(foreign.NormalCell, lambda cell: cell.PCM.__setitem__(2, nn.GELU())),
    "stack's activation": stack_of(partial(nn.ELU, 0.5)),
    "stack without activations": stack_of(nn.Identity),
    "stack with dropout": lambda m: m.vit_block.insert(2, nn.Dropout(0.5)),
    "stack in a stack": lambda m: setattr(
        m, "vit_block", nn.Sequential(nn.Sequential(*m.vit_block[:2]), m.vit_block[2])
    ),
    "longer stack": lambda m: setattr(m, "vit_block", foreign.stack(24, [9, 8, 20])),
    "scale": each(foreign.Attention, lambda attention: setattr(attention, "scale", 0.8)),
    "negative scale": each(foreign.Attention, lambda attention: setattr(attention, "scale", -0.3)),
    "whole scale": each(foreign.Attention, lambda attention: setattr(attention, "scale", 1)),
    "more heads": each(foreign.Attention, lambda attention: setattr(attention, "num_heads", 6)),
    "dropout": each(nn.Dropout, lambda dropout: setattr(dropout, "p", 0.5)),
    "drop path": each(foreign.NormalCell, lambda cell: setattr(cell, "drop_path", foreign.DropPath(0.1))),
    "eps of one batch norm": set_attributes("inception_model.vis_inception.3.branch2.1.bn", eps=0.3),
    "eps of all batch norms": each(nn.BatchNorm2d, lambda norm: setattr(norm, "eps", 1e-3)),
    "eps zero": set_attributes("blocks.1.PCM.1", eps=0),
    "eps of fc_norm": set_attributes("fc_norm", eps=1e-2),
    "convolutions without biases": each(nn.Conv2d, without_bias),
    "linear layers without biases": each(nn.Linear, without_bias),
    "one layer without bias": lambda m: without_bias(m.concat_block[2]),
    "one attention without biases": set_attributes("blocks.0.attn", q_bias=None, v_bias=None),
    "batch norms without affine": each(nn.BatchNorm2d, without_affine),
    "layer norms without affine": each(nn.LayerNorm, without_affine),
    "layer norm without bias": lambda m: without_bias(m.blocks[0].norm1),
    "statistics said not to be tracked": each(
        nn.BatchNorm2d, lambda n: setattr(n, "track_running_stats", False)
    ),
    "average pooling": pools(partial(nn.AvgPool2d, 3, stride=1, padding=1)),
    "larger pooling": pools(partial(nn.MaxPool2d, 5, stride=1, padding=2)),
    "halved by maxima": halvings(partial(nn.MaxPool2d, 2)),
    "padding in words": each(
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
