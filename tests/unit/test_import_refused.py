"""Whole modules that compute something that is not computed here: each is refused by its name.

None is imported with other outputs."""

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
from tests.unit.import_changes import Change, each, halvings, mlp_act, pools, put, set_attributes


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
        mlp_act(nn.PReLU),
        r"blocks\.0\.mlp\.act is a torch\.nn\.modules\.activation\.PReLU, .* not an activation",
    ),
    "Mish": (
        put("blocks.1.mlp.act", nn.Mish),
        r"blocks\.1\.mlp\.act is a .*\.Mish, .* not an activation that we have",
    ),
    "Hardswish in a stack": (put("vit_block.1", nn.Hardswish), r"vit_block\.1 is a .*\.Hardswish"),
    "softmax in a stack": (put("vit_block.1", lambda: nn.Softmax(1)), r"vit_block\.1 is a .*\.Softmax"),
    "a class of the user's": (
        put("blocks.0.mlp.act", _CustomAct),
        r"blocks\.0\.mlp\.act is a tests\..*_CustomAct",
    ),
    "another class in a block": (
        put("blocks.0.mlp", _Gate),
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
        put("blocks.1.mlp.act", nn.ReLU),
        r"activation: gelu in blocks\.0\.mlp, relu in blocks\.1",
    ),
    "activations that differ in a stack": (
        put("inception_model.magnitude_block.3", nn.GELU),
        r"magnitude_block has different activations \(relu, gelu",
    ),
    "heads that differ": (
        set_attributes("blocks.1.attn", num_heads=6),
        r"number of heads: 3 in blocks\.0\.attn, 6 in blocks\.1",
    ),
    "scales that differ": (
        set_attributes("blocks.1.attn", scale=0.2),
        r"attention scale: None in blocks\.0\.attn, 0\.2 in blocks\.1",
    ),
    "eps that differ": (
        set_attributes("blocks.1.norm2", eps=1e-3),
        r"eps: 1e-06 in blocks\.0\.norm1, 0\.001 in blocks\.1\.norm2",
    ),
    "pools that differ": (
        put("inception_model.vis_inception.3.branch4.0", lambda: nn.MaxPool2d(5, 1, 2)),
        r"size: 3 in .*vis_inception\.2\.branch4\.0, 5 in .*vis_inception\.3",
    ),
    "halvings that differ": (
        put("inception_model.vis_inception.4", lambda: nn.MaxPool2d(2)),
        r"kind of pooling: average",
    ),
    "pooling by another power": (
        put("inception_model.vis_inception.3.branch4.0", lambda: nn.LPPool2d(2, 3, 1)),
        r"vis_inception\.3\.branch4\.0 is a .*LPPool2d",
    ),
    "padding not counted": (
        pools(lambda: nn.AvgPool2d(3, 1, 1, count_include_pad=False)),
        r"branch4\.0 .*count_include_pad = False; only True",
    ),
    "pool with ceil": (pools(lambda: nn.MaxPool2d(3, 1, 1, ceil_mode=True)), r"ceil_mode = True; only False"),
    "pool with another divisor": (
        pools(lambda: nn.AvgPool2d(3, 1, 1, divisor_override=4)),
        r"divisor_override = 4",
    ),
    "dilated pool": (pools(lambda: nn.MaxPool2d(3, 1, 2, dilation=2)), r"branch4\.0 .* padding = 2"),
    "halving by strides of 3": (
        halvings(lambda: nn.AvgPool2d(2, 3)),
        r"stride = 3, padding = 0; only a pool that halves",
    ),
    "pool of pairs": (pools(lambda: nn.MaxPool2d((3, 5), 1, (1, 2))), r"kernel_size = \(3, 5\)"),
    "reflected padding": (
        set_attributes("inception_model.vis_inception.2.branch2.1.conv", padding_mode="reflect"),
        r"branch2\.1\.conv .* padding_mode = 'reflect'; only zeros",
    ),
    "strided convolution": (
        set_attributes("inception_model.vis_inception.2.branch1.conv", stride=(2, 2)),
        r"stride = \(2, 2\)",
    ),
    "dilated convolution": (
        set_attributes("inception_model.vis_inception.2.branch2.1.conv", dilation=(2, 2), padding=(2, 2)),
        r"padding = \(2, 2\); only 1",
    ),
    "overlapping patches": (
        set_attributes("patch_embed.proj", stride=(4, 4)),
        r"patch_embed\.proj .*stride = \(4, 4\); only 8",
    ),
    "unflattened patches": (set_attributes("patch_embed", flatten=False), r"patch_embed .* flatten = False"),
    "normalised patches": (
        put("patch_embed.norm", lambda: nn.LayerNorm(24)),
        r"patch_embed\.norm .* computes something",
    ),
    "normalised queries": (
        _first_cell(lambda cell: setattr(cell.attn, "q_norm", nn.LayerNorm(8))),
        r"blocks\.0\.attn\.q_norm .* computes something",
    ),
    "flattened from another axis": (
        set_attributes("inception_model.vis_inception.9", start_dim=0),
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
        each(nn.BatchNorm2d, lambda n: setattr(n, "running_mean", None) or setattr(n, "running_var", None)),
        r"no running statistics: its result would depend on the other galaxies",
    ),
    "without a class token": (
        set_attributes("blocks.0", class_token=False),
        r"blocks\.0 .*class_token = False; only True",
    ),
    "Inception only": (
        set_attributes("inception_model", Inception_only=True),
        r"Inception_only = True; only False",
    ),
    "without magnitudes": (
        set_attributes("inception_model", magnitude=False),
        r"inception_model .*magnitude = False; only True",
    ),
    "the UK paper's": (set_attributes("inception_model", uk_paper=True), r"uk_paper = True; only False"),
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
        put("blocks.1.norm1", lambda: nn.LayerNorm(25)),
        r"blocks\.1\.norm1 .*normalized_shape = \(25,\)",
    ),
    "a hidden width that differs": (
        put("blocks.1.mlp", lambda: foreign.CellMlp(24, 40)),
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
        set_attributes("patch_embed", img_size=(40, 40)),
        r"img_size = \(40, 40\); its positions cover 32",
    ),
    "too many Inception channels": (
        set_attributes("inception_model.vis_inception.8", is_custom=False),
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
