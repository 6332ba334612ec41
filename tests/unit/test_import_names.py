"""State dicts: names and parents decide, shapes where names are foreign and leave one reading, order never."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from cosmicai.model.foreign.errors import CheckpointError
from cosmicai.model.foreign.reading import Choices, Reading, read
from tests import foreign
from tests.threads import one_thread  # noqa: F401

pytestmark = pytest.mark.usefixtures("one_thread")

HEADS = {"heads": "3"}
State = dict[str, Tensor]


def _agrees(reading: Reading, model: nn.Module) -> bool:
    inputs = foreign.galaxies()
    with torch.inference_mode():
        theirs = model(inputs).squeeze(1)
        ours = reading.model(*inputs)
    return bool(((ours - theirs).abs() <= 1e-5 * theirs.abs().clamp(min=1)).all())


def _renamed(state: Mapping[str, Tensor], names: Mapping[str, str]) -> State:
    renamed = {}
    for name, tensor in state.items():
        for old, new in names.items():
            name = name.replace(old, new)
        renamed[name] = tensor
    return renamed


def _refused(content: object, folder: Path, message: str, fields: Mapping[str, str] = HEADS) -> None:
    with pytest.raises(CheckpointError, match=message):
        read(foreign.save(content, folder), Choices(fields))


@pytest.mark.parametrize(
    "sizes", [{}, {"groups": 0}, {"groups": 0, "bias": False}, {"bias": False}, {"patch": 4}]
)
def test_the_order_of_tensors_tells_nothing(sizes: dict[str, object], tmp_path: Path) -> None:
    model = foreign.astromae(**sizes)
    names = list(model.state_dict())
    for seed in range(3):
        random.Random(seed).shuffle(names)
        state = {name: model.state_dict()[name] for name in names}
        assert _agrees(read(foreign.save(state, tmp_path), Choices(HEADS)), model)


def test_branches_of_the_published_equal_shapes_are_told_by_their_parents(tmp_path: Path) -> None:
    """In the published network the Linear layers of the encoder's and the Inception branch are of one shape."""
    widths: list[foreign.Widths] = [(2,) * 6] * 4 + [(2, 1, 2, 1, 1, 2)]
    model = foreign.astromae(width=96, heads=3, widths=widths)
    state = model.state_dict()
    shapes = [state[f"{stack}.weight"].shape for stack in ("vit_block.0", "inception_model.vis_inception.10")]
    assert shapes[0] == shapes[1]
    assert _agrees(read(foreign.save(state, tmp_path), Choices(HEADS)), model)


FOREIGN = {
    "stacks": {"vit_block": "encoder_mlp", "concat_block": "fuse", "magnitude_block": "mags"},
    "the Inception model": {"inception_model": "cnn", "vis_inception": "layers"},
    "the encoder inside": {n: f"vit.{n}" for n in ("cls_token", "pos_embed", "patch_embed", "fc_norm", "head")}
    | {"blocks.": "vit.blocks."},
    "everything": {"vit_block": "a", "concat_block": "b", "magnitude_block": "c", "inception_model": "d"},
    "magnitudes beside": {"inception_model.magnitude_block": "magnitudes.0"},
}


@pytest.mark.parametrize("names", FOREIGN.values(), ids=FOREIGN)
def test_foreign_names_are_read_by_shapes_that_leave_one_reading(names: dict[str, str], tmp_path: Path) -> None:
    model = foreign.astromae()
    reading = read(foreign.save(_renamed(model.state_dict(), names), tmp_path), Choices(HEADS))
    assert _agrees(reading, model)
    if "vit_block" in names:
        assert f"{names['vit_block']} is the encoder_branch, by its shapes" in reading.notes


def _taken_out(state: State) -> State:
    """The Inception branch's Linear layers under a name of their own, beside an encoder of the same shapes."""
    return _renamed(
        state, {"inception_model.vis_inception.10": "tail.0", "inception_model.vis_inception.12": "tail.2"}
    )


def test_two_readings_are_refused_and_listed(tmp_path: Path) -> None:
    widths: list[foreign.Widths] = [(2,) * 6] * 4 + [(2, 1, 2, 1, 1, 2)]
    model = foreign.astromae(width=96, heads=3, widths=widths)
    state = _renamed(_taken_out(model.state_dict()), {"vit_block": "head_mlp"})
    message = (
        r"can be read in 2 ways: head_mlp is the encoder_branch, tail is the inception_branch; or "
        r"tail is the encoder_branch, head_mlp is the inception_branch\. Say which with --rename NAME=vit_block"
    )
    _refused(state, tmp_path, message)
    path = foreign.save(state, tmp_path)
    assert _agrees(read(path, Choices(HEADS, renames={"head_mlp": "vit_block"})), model)
    swapped = read(path, Choices(HEADS, renames={"tail": "vit_block"}))
    assert not _agrees(swapped, model), "the user's word is taken"


def test_other_names_inside_are_renamed_by_the_user(tmp_path: Path) -> None:
    model = foreign.astromae()
    state = _renamed(model.state_dict(), {"branch1": "s1", "branch4": "pooled", ".qkv.": ".in_proj."})
    path = foreign.save(state, tmp_path)
    with pytest.raises(
        CheckpointError, match=r"lacks the tensor blocks\.0\.attn\.qkv\.weight; without a place so far: bl"
    ):
        read(path, Choices(HEADS))
    renames = {"s1": "branch1", "pooled": "branch4", "in_proj": "qkv"}
    assert _agrees(read(path, Choices(HEADS, renames=renames)), model)


def test_whole_modules_with_foreign_names(tmp_path: Path) -> None:
    model, plain = foreign.astromae(), foreign.astromae()

    class Renamed(foreign.ViT_Astro):
        def forward(self, x: list[Tensor]) -> Tensor:
            return model(x)

    plain.__class__ = Renamed
    for old, new in (("vit_block", "projector"), ("concat_block", "fuse"), ("inception_model", "cnn")):
        plain._modules[new] = plain._modules.pop(old)
    homes = {**foreign.HOMES, "blocks.model_vit_inception": {"ViT_Astro": Renamed}}
    with foreign.modules(homes):
        torch.save(plain, tmp_path / "renamed.pt")
    reading = read(tmp_path / "renamed.pt", Choices())
    assert _agrees(reading, model)
    assert "projector is the encoder_branch, by its shapes" in reading.notes


def test_a_state_dict_without_heads_is_refused_with_the_remedy(tmp_path: Path) -> None:
    _refused(foreign.astromae().state_dict(), tmp_path, r"give --heads \(6 is published\)", fields={})


@pytest.mark.parametrize(
    ("change", "fields"),
    [
        (lambda m: [setattr(b.attn, "scale", 0.9) for b in m.blocks], {"attention_scale": "0.9"}),
        (
            lambda m: [setattr(n, "eps", 1e-3) for b in m.blocks for n in (b.norm1, b.norm2)],
            {"norm_eps": "0.001"},
        ),
        (lambda m: setattr(m.fc_norm, "eps", 0.1), {"final_norm_eps": "0.1"}),
        (lambda m: [setattr(b.PCM[1], "eps", 0.1) for b in m.blocks], {"parallel_norm_eps": "0.1"}),
        (lambda m: [setattr(b.mlp, "act", nn.Tanh()) for b in m.blocks], {"mlp_activation": "tanh"}),
        (lambda m: [b.PCM.__setitem__(2, nn.ReLU()) for b in m.blocks], {"parallel_activation": "relu"}),
        (
            lambda m: m.vit_block.__setitem__(1, nn.LeakyReLU(0.2)),
            {"encoder_branch.activation": "leaky_relu(0.2)"},
        ),
        (lambda m: m.concat_block.__setitem__(1, nn.GELU()), {"fusion.activation": "gelu"}),
        (lambda m: [n.__setattr__("eps", 1e-3) for n in _batch_norms(m)], {"inception_norm_eps": "0.001"}),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_a_state_dict_cannot_tell_is_the_users_word_or_assumed_aloud(
    change: Callable[[nn.Module], object], fields: dict[str, str], tmp_path: Path
) -> None:
    model = foreign.astromae()
    change(model)
    path, (name,) = foreign.save(model.state_dict(), tmp_path), fields
    assumed = read(path, Choices(HEADS))
    assert not _agrees(assumed, model)
    assert name in assumed.assumed
    imported = read(path, Choices(HEADS | fields))
    assert _agrees(imported, model)
    assert name not in imported.assumed
    assert name in imported.stated


def _batch_norms(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.inception_model.modules() if isinstance(module, nn.BatchNorm2d)]


@pytest.mark.parametrize(
    "fields", [{"heads": "4"}, {"norm_eps": "0.1"}, {"halving": "max"}, {"fusion.activation": "gelu"}]
)
def test_what_a_module_says_is_not_overruled(fields: dict[str, str], tmp_path: Path) -> None:
    path = foreign.save(foreign.astromae(), tmp_path)
    with pytest.raises(CheckpointError, match=r"was given as .*; the checkpoint has"):
        read(path, Choices(fields))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"depth": "3"}, r"--assume depth: there is no such field; there are heads, attention_scale"),
        ({"norm_eps": "small"}, r"--assume norm_eps=small: a number is needed"),
        ({"norm_eps": "nan"}, r"--assume norm_eps=nan: a finite number is needed"),
        ({"mlp_activation": "mish"}, r"mlp_activation 'mish' must be one of relu"),
        ({"inception_pool": "median"}, r"inception_pool must be max or average"),
        ({"heads": "5"}, r"width must be a multiple of heads"),
    ],
)
def test_what_the_user_says_is_checked(fields: dict[str, str], message: str, tmp_path: Path) -> None:
    _refused(foreign.astromae().state_dict(), tmp_path, message, fields=HEADS | fields)


def _without(*names: str) -> Callable[[State], State]:
    return lambda state: {name: t for name, t in state.items() if not any(part in name for part in names)}


def _with(**tensors: Tensor) -> Callable[[State], State]:
    return lambda state: {**state, **{name.replace("__", "."): t for name, t in tensors.items()}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without("cls_token"), r"lacks the tensor cls_token"),
        (_without("blocks.1.mlp.fc2.weight"), r"lacks the tensor blocks\.1\.mlp\.fc2\.weight"),
        (_without("blocks.0."), r"blocks has the numbers \(1,\)…, expected 0, 1, 2"),
        (_without("vis_inception.6."), r"has 4 InceptionBlocks, expected 5"),
        (_without("branch3"), r"lacks the tensor inception_model\.vis_inception\.2\.branch3\.0\.conv\.weight"),
        (_without("running_mean"), r"lacks the tensor .*running_mean"),
        (_without("concat_block"), r"lacks fusion; of the stacks of Linear layers left, none fits: none"),
        (_without("concat_block.2"), r"fusion must be a stack whose last width is 1"),
        (_without("inception_model", "concat_block"), r"has InceptionBlocks .* nowhere"),
        (_without("patch_embed.proj.weight"), r"Input_Mix_Model"),
        (_with(temperature=torch.ones(1)), r"tensors without a place in AstroMAE: temperature"),
        (_with(gate__weight=torch.ones(4, 4)), r"without a place in AstroMAE: gate \(4→4\)"),
        (_with(blocks__0__attn__q_norm__weight=torch.ones(8)), r"a place in .*: blocks\.0\.attn\.q_norm"),
        (_with(blocks__0__attn__qkv__bias=torch.ones(72)), r"blocks\.0\.attn has both q_bias and qkv\.bias"),
        (_without("blocks.0.attn.q_bias"), r"blocks\.0\.attn has one of q_bias and v_bias"),
        (_with(mask_token=torch.ones(1, 1, 24)), r"masked autoencoder before its fine-tuning"),
        (_with(head__weight=torch.ones(24, 23)), r"head\.weight has shape \(24, 23\), expected \(24, 24\)"),
        (_with(pos_embed=torch.ones(1, 16, 24)), r"pos_embed has shape \(1, 16, 24\), not"),
        (_with(inception_model__conv2d_init__bias=torch.ones(8)), r"conv2d_init and .*0 are one layer"),
        (lambda state: _renamed(state, {"fc_norm": "norm"}), r"norm takes the place of fc_norm: it normalises"),
        (lambda state: {k.replace("head.", "head.parametrizations."): v for k, v in state.items()},
         r"head is parametrised or normalised"),
        (lambda state: {k.replace("head.weight", "head.weight_orig"): v for k, v in state.items()},
         r"head is parametrised or normalised"),
        (lambda state: {f"x.{k}": v for k, v in state.items()} | {f"y.module.{k}": v for k, v in state.items()},
         r"holds 2 networks"),
        (lambda state: state | {"module.head.bias": torch.ones(24)}, r"two tensors are named head\.bias"),
    ],
)  # fmt: skip
def test_state_dicts_that_are_refused(change: Callable[[State], State], message: str, tmp_path: Path) -> None:
    _refused(change(foreign.astromae().state_dict()), tmp_path, message)


def test_the_model_without_an_encoder_is_named(tmp_path: Path) -> None:
    alone = foreign.astromae().inception_model
    for content in (alone, nn.DataParallel(alone), alone.state_dict()):
        _refused(
            content, tmp_path, r"is the model of Inception and magnitudes alone \(Input_Mix_Model\), without"
        )


def test_layer_scale_of_a_state_dict_is_applied(tmp_path: Path) -> None:
    model = foreign.astromae(groups=0)
    factors = torch.rand(24)
    state = {**model.state_dict(), "blocks.1.ls2.gamma": factors}
    with torch.no_grad():
        model.blocks[1].mlp.fc2.weight.mul_(factors[:, None])
        model.blocks[1].mlp.fc2.bias.mul_(factors)
    state["blocks.1.mlp.fc2.weight"] = foreign.astromae(groups=0).state_dict()["blocks.1.mlp.fc2.weight"]
    state["blocks.1.mlp.fc2.bias"] = foreign.astromae(groups=0).state_dict()["blocks.1.mlp.fc2.bias"]
    assert _agrees(read(foreign.save(state, tmp_path), Choices(HEADS)), model)
