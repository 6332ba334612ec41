"""One network in every form that torch 1.13 to 2.x and training scripts write it in."""

from __future__ import annotations

import argparse
import datetime
import json
import os
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import Tensor, nn

from cosmicai.model.foreign.errors import CheckpointError
from cosmicai.model.foreign.reading import Choices, Reading, read
from tests import foreign
from tests.threads import one_thread  # noqa: F401

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    # torch before 1.6 stored the source of classes where it could find it
    pytest.mark.filterwarnings("ignore:Couldn't retrieve source code"),
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),  # of torch.compile itself
]

HEADS = {"heads": "3"}


def _agrees(reading: Reading, model: nn.Module, tolerance: float = 1e-5) -> bool:
    inputs = foreign.galaxies()
    with torch.inference_mode():
        theirs = model(inputs).squeeze(1)
        ours = reading.model(*inputs)
    assert theirs.std() > 0.01
    return bool(((ours - theirs).abs() <= tolerance * theirs.abs().clamp(min=1)).all())


@pytest.fixture(scope="module")
def model() -> foreign.ViT_Astro:
    return foreign.astromae()


@pytest.mark.parametrize(
    "options",
    [{"pickle_protocol": protocol} for protocol in (2, 3, 4, 5)]
    + [{"_use_new_zipfile_serialization": False, "pickle_protocol": protocol} for protocol in (2, 4)],
    ids=str,
)
@pytest.mark.parametrize("whole", [True, False], ids=["module", "state dict"])
def test_what_torch_save_writes(
    whole: bool, options: dict[str, object], model: foreign.ViT_Astro, tmp_path: Path
) -> None:
    path = foreign.save(nn.DataParallel(model) if whole else model.state_dict(), tmp_path, **options)
    assert _agrees(read(path, Choices({} if whole else HEADS)), model)


def _averaged(model: nn.Module) -> nn.Module:
    averaged = torch.optim.swa_utils.AveragedModel(model)
    averaged.update_parameters(model)
    return averaged


def _distributed(model: nn.Module) -> nn.Module:
    return nn.parallel.DistributedDataParallel(model)


WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "DataParallel": nn.DataParallel,
    "DataParallel twice": lambda model: nn.DataParallel(nn.DataParallel(model)),
    "DistributedDataParallel": _distributed,
    "AveragedModel": _averaged,
    "torch.compile": torch.compile,
    "torch.compile in DataParallel": lambda model: nn.DataParallel(torch.compile(model)),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_wrapped_modules(name: str, model: foreign.ViT_Astro, tmp_path: Path) -> None:
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        wrapped = WRAPPERS[name](model)
        whole = foreign.save(wrapped, tmp_path)
        assert _agrees(read(whole, Choices()), model)
        if name != "AveragedModel":  # its state dict has a count beside the network
            assert _agrees(read(foreign.save(wrapped.state_dict(), tmp_path), Choices(HEADS)), model)
    finally:
        torch.distributed.destroy_process_group()


PREFIXES = (
    "module.",
    "_orig_mod.",
    "model.",
    "net.",
    "module._orig_mod.",
    "_orig_mod.module.",
    "model.net.module.",
)


@pytest.mark.parametrize("prefix", [*PREFIXES, "model.module._orig_mod.", "ema_model.module.", "a.b.c."])
def test_prefixes(prefix: str, model: foreign.ViT_Astro, tmp_path: Path) -> None:
    state = {prefix + name: tensor for name, tensor in model.state_dict().items()}
    assert _agrees(read(foreign.save(state, tmp_path), Choices(HEADS)), model)


def test_what_was_compiled_is_saved_by_itself(tmp_path: Path) -> None:
    """torch.compile leaves a mark on it."""
    model = foreign.astromae()
    torch.compile(model)
    model.head.compile()
    assert _agrees(read(foreign.save(model, tmp_path), Choices()), foreign.astromae())


def test_wrappers_of_inner_modules(model: foreign.ViT_Astro, tmp_path: Path) -> None:
    """torch.compile, DataParallel or activation checkpointing of a part."""
    changed = {
        name.replace("blocks.0.", "blocks.0._orig_mod.")
        .replace("blocks.1.attn.", "blocks.1._checkpoint_wrapped_module.attn.")
        .replace("inception_model.", "inception_model.module."): tensor
        for name, tensor in model.state_dict().items()
    }
    assert _agrees(read(foreign.save(changed, tmp_path), Choices(HEADS)), model)


class AttributeDict(dict[str, object]):
    """Lightning's."""


class _Unknown:
    """A class of somebody's training script."""

    def __init__(self, **state: object) -> None:
        self.__dict__.update(state)


def _beside(model: nn.Module) -> dict[str, object]:
    """What training scripts put into a checkpoint beside the network."""
    optimizer = torch.optim.AdamW(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for parameter in model.parameters():
        parameter.grad = None
    circle: list[object] = [1]
    circle.append(circle)
    return {
        "optimizer": optimizer.state_dict(),
        "scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 3).state_dict(),
        "scaler": {"scale": 65536.0, "growth_factor": 2.0, "_growth_tracker": 12},
        "args": argparse.Namespace(model="vit", blr=1e-3, output_dir=Path("runs"), seed=None),
        "epoch": 7,
        "best": np.float64(0.01),
        "history": np.arange(5),
        "losses": defaultdict(list, {"val": [0.1, float("nan")]}),
        "when": datetime.datetime(2024, 5, 1),
        "made by": partial(torch.nn.LayerNorm, eps=1e-6),
        "random": [torch.get_rng_state(), np.random.default_rng(0).bit_generator.state],
        "sets": {frozenset({1}), "x"},
        "huge": 1 << 200,
        "bytes": b"\0\1",
        "dtype": torch.float32,
        "device": torch.device("cpu"),
        "size": torch.Size([1, 2]),
        "complex": torch.zeros(2, dtype=torch.complex64),
        "sparse": torch.eye(3).to_sparse(),
        "float8": torch.zeros(2).to(torch.float8_e4m3fn),
        "meta": torch.empty(3, device="meta"),
        "unknown": _Unknown(name="x", inner=_Unknown()),
        "circle": circle,
        "function": os.path.join,
        "numbers as keys": {0: {"step": torch.tensor(3.0)}, 1.5: 2, (1, 2): 3},
    }


@pytest.mark.parametrize("key", ["model", "model_state_dict", "state_dict", "net", "generator"])
@pytest.mark.parametrize("legacy", [False, True])
def test_training_checkpoints(key: str, legacy: bool, model: foreign.ViT_Astro, tmp_path: Path) -> None:
    content = {**_beside(model), key: model.state_dict()}
    path = foreign.save(content, tmp_path, _use_new_zipfile_serialization=not legacy)
    reading = read(path, Choices(HEADS))
    assert reading.kind == f"state dict under {key} (torch.save)"
    assert _agrees(reading, model)


def test_a_whole_module_in_a_dict(model: foreign.ViT_Astro, tmp_path: Path) -> None:
    path = foreign.save({"epoch": 3, "nets": [{"best": nn.DataParallel(model)}], **_beside(model)}, tmp_path)
    reading = read(path, Choices())
    assert reading.kind == "pickled module DataParallel of ViT_Astro under nets.0.best"
    assert _agrees(reading, model)


def _lightning(model: nn.Module, prefix: str = "model.") -> dict[str, object]:
    """As Lightning writes it, by its format (core.saving, trainer.connectors.checkpoint_connector)."""
    return {
        "epoch": 11,
        "global_step": 2304,
        "pytorch-lightning_version": "2.4.0",
        "state_dict": OrderedDict((prefix + name, tensor) for name, tensor in model.state_dict().items()),
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 12}}}},
        "callbacks": {
            "ModelCheckpoint{'monitor': 'val_loss'}": {"best_model_score": torch.tensor(0.1), "dirpath": "/x"},
        },
        "optimizer_states": [_beside(model)["optimizer"]],
        "lr_schedulers": [{"last_epoch": 12}],
        "hparams_name": "kwargs",
        "hyper_parameters": AttributeDict(lr=1e-3, heads=3),
    }


def _save_lightning(content: object, folder: Path) -> Path:
    homes = {**foreign.HOMES, "lightning_fabric.utilities.data": {"AttributeDict": AttributeDict}}
    with foreign.modules(homes):  # type: ignore[arg-type]
        torch.save(content, folder / "last.ckpt")
    return folder / "last.ckpt"


def test_lightning(model: foreign.ViT_Astro, tmp_path: Path) -> None:
    assert _agrees(read(_save_lightning(_lightning(model), tmp_path), Choices(HEADS)), model)


def test_what_lightning_keeps_beside_the_network_is_not_ignored(
    model: foreign.ViT_Astro, tmp_path: Path
) -> None:
    content = _lightning(model)
    content["state_dict"] = {**content["state_dict"], "temperature": torch.ones(1)}  # type: ignore[dict-item]
    path = _save_lightning(content, tmp_path)
    with pytest.raises(CheckpointError, match=r"without a place in AstroMAE: temperature"):
        read(path, Choices(HEADS))
    assert _agrees(read(path, Choices(HEADS, select="state_dict.model")), model)


def test_two_networks_are_listed_and_one_is_selected(model: foreign.ViT_Astro, tmp_path: Path) -> None:
    other = foreign.astromae(seed=1)
    path = foreign.save({"model": model.state_dict(), "model_ema": other.state_dict()}, tmp_path)
    with pytest.raises(CheckpointError, match=r"holds 2 networks; .*--select 'model', --select 'model_ema'"):
        read(path, Choices(HEADS))
    for key, network in (("model", model), ("model_ema", other)):
        assert _agrees(read(path, Choices(HEADS, select=key)), network)
    with pytest.raises(
        CheckpointError, match=r"--select ema: the file has no network of this name; it holds: model, model_ema"
    ):
        read(path, Choices(HEADS, select="ema"))


def test_two_networks_in_one_state_dict(model: foreign.ViT_Astro, tmp_path: Path) -> None:
    other = foreign.astromae(seed=1)
    state = {f"net.{n}": t for n, t in model.state_dict().items()}
    state |= {f"ema.module.{n}": t for n, t in other.state_dict().items()}
    path = foreign.save({"state_dict": state}, tmp_path)
    with pytest.raises(CheckpointError, match=r"--select 'state_dict.ema.module', --select 'state_dict.net'"):
        read(path, Choices(HEADS))
    assert _agrees(read(path, Choices(HEADS, select="state_dict.ema.module")), other)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("form", ["module", "state dict", "legacy", "safetensors"])
def test_other_floating_point_numbers(form: str, dtype: torch.dtype, tmp_path: Path) -> None:
    """The same values as torch's own conversion to float32; computed in float32."""
    model = foreign.astromae().to(dtype)
    if form == "safetensors":
        path = tmp_path / "weights.safetensors"
        save_file({n: t.clone() for n, t in model.state_dict().items()}, path)
    else:
        path = foreign.save(model if form == "module" else model.state_dict(), tmp_path,
                            _use_new_zipfile_serialization=form != "legacy")  # fmt: skip
    reading = read(path, Choices({} if form == "module" else HEADS))
    assert reading.numbers == (str(dtype).removeprefix("torch."),)
    assert _agrees(reading, model.float())


@pytest.mark.parametrize("prefix", ["", "module.", "model._orig_mod."])
def test_safetensors(prefix: str, model: foreign.ViT_Astro, tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"  # told by its content, not by its name
    save_file(
        {prefix + name: tensor.clone() for name, tensor in model.state_dict().items()}, path, {"format": "pt"}
    )
    assert _agrees(read(path, Choices(HEADS)), model)


def test_safetensors_that_hold_the_stem_once(model: foreign.ViT_Astro, tmp_path: Path) -> None:
    save_model(model, str(tmp_path / "weights.safetensors"))
    header = (tmp_path / "weights.safetensors").read_bytes()
    names = json.loads(header[8 : 8 + int.from_bytes(header[:8], "little")])
    assert ("inception_model.vis_inception.0.weight" in names) != (
        "inception_model.conv2d_init.weight" in names
    )
    assert _agrees(read(tmp_path / "weights.safetensors", Choices(HEADS)), model)


def test_devices(model: foreign.ViT_Astro, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
    path = foreign.save(nn.DataParallel(model), tmp_path)
    assert b"cuda:0" in path.read_bytes()
    assert _agrees(read(path, Choices()), model)


def _flattened(model: nn.Module) -> None:
    """All parameters are views of one storage, as fused optimisers leave them."""
    flat = torch.cat([parameter.data.reshape(-1) for parameter in model.parameters()])
    place = 0
    for parameter in model.parameters():
        count = parameter.numel()
        parameter.data, place = flat[place : place + count].view(parameter.shape), place + count


def _transposed(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.data = parameter.data.mT.contiguous().mT if parameter.ndim > 1 else parameter.data


def _strided(model: nn.Module) -> None:
    for parameter in model.parameters():
        wide = torch.randn(*parameter.shape, 3)
        wide[..., 1] = parameter.data
        parameter.data = wide[..., 1]


def _channels_last(model: nn.Module) -> None:
    model.to(memory_format=torch.channels_last)


def _expanded(model: nn.Module) -> None:
    """Steps of zero: one value stands for all."""
    model.head.bias.data = torch.full((1,), 0.3).expand(24)


def _negated(model: nn.Module) -> None:
    """torch's lazy negation."""
    model.head.weight.data = torch._neg_view(-model.head.weight.data)
    assert model.head.weight.is_neg()


def _of_a_batch(model: nn.Module) -> None:
    model.cls_token = nn.Parameter(torch.randn(4, 1, 24)[2:3])


def _plain_tensors(model: nn.Module) -> None:
    """Not registered, and with attributes: torch writes them by _rebuild_from_type_v2."""
    for name in ("cls_token", "pos_embed"):
        tensor = getattr(model, name).data
        delattr(model, name)
        tensor.origin = "pretrained"
        setattr(model, name, tensor)


LAYOUTS = (_flattened, _transposed, _strided, _channels_last, _expanded, _negated, _of_a_batch, _plain_tensors)


@pytest.mark.parametrize("change", LAYOUTS)
@pytest.mark.parametrize("legacy", [False, True])
def test_layouts_of_tensors(change: Callable[[nn.Module], None], legacy: bool, tmp_path: Path) -> None:
    model = foreign.astromae()
    change(model)
    path = foreign.save(model, tmp_path, _use_new_zipfile_serialization=not legacy)
    assert _agrees(read(path, Choices()), model)


class _Marked(Tensor):
    """A tensor class of somebody's."""


def test_tensors_of_classes_of_their_own_are_refused(tmp_path: Path) -> None:
    model = foreign.astromae()
    model.head.weight = nn.Parameter(torch.zeros(24, 24).as_subclass(_Marked))
    with pytest.raises(CheckpointError, match=r"head\.weight holds .*_Marked, not floating-point numbers"):
        read(foreign.save(model, tmp_path), Choices())


@pytest.mark.parametrize("number", [torch.complex64, torch.int8, torch.float8_e5m2])
def test_numbers_that_are_no_weights_are_refused(
    number: torch.dtype, model: foreign.ViT_Astro, tmp_path: Path
) -> None:
    state = {**model.state_dict(), "head.weight": torch.zeros(24, 24).to(number)}
    with pytest.raises(CheckpointError, match=r"head\.weight holds .*, not floating-point numbers"):
        read(foreign.save(state, tmp_path), Choices(HEADS))


@pytest.mark.parametrize("place", ["__main__", "ours.cells"])
def test_classes_that_have_moved(place: str, model: foreign.ViT_Astro, tmp_path: Path) -> None:
    """A notebook's classes are in `__main__`; that those of other modules are the same is the user's word."""
    path, moved = tmp_path / "moved.pt", place != "__main__"
    with foreign.modules({**foreign.HOMES, place: foreign.HOMES["NormalCell"]}):
        torch.save(model, path)
    if moved:
        with pytest.raises(
            CheckpointError, match=r"blocks\.0 is a ours\.cells\.NormalCell; .*--classes-by-name"
        ):
            read(path, Choices())
    assert _agrees(read(path, Choices(classes_by_name=moved)), model)
