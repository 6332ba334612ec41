"""Partitions and checkpoints to begin with: as torch writes them, small, and of every form that is read."""

from __future__ import annotations

import io
import warnings
from collections import OrderedDict
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from cosmicai.packaging.places import FUNCTIONS
from inference.data.partition import Layout
from tests import foreign
from tests.fuzz.torchfiles import TorchFile

LAYOUT = Layout((2, 4, 4), 2)
SIZES: dict[str, Any] = {
    "width": 12, "depth": 1, "heads": 3, "hidden": 6, "groups": 6, "widths": [(1,) * 6] * 5, "stem": 4,
    "branch": 2, "magnitude": 2, "fusion": 2,
}  # fmt: skip
"""Of an AstroMAE that is as small as one can be."""

WHOLE, SAFETENSORS = b"w", b"s"
"""The first byte of an input that is none of TorchFile's: the rest is a file as it is."""

_REFERENCE = Path(__file__).parents[1] / "reference"


def partitions() -> list[bytes]:
    """Of two or three galaxies, in every form of a tensor; and the files of the oldest torch."""
    images, magnitudes, redshift = torch.ones(2, 2, 4, 4), torch.ones(2, 2), torch.ones(2)
    marked = torch.ones(2, 2)
    marked.survey = "x"  # type: ignore[attr-defined]
    whole = torch.ones(3, 4, 4, 4)
    datasets = [
        TensorDataset(images, magnitudes, redshift),
        TensorDataset(images, magnitudes),
        TensorDataset(torch._neg_view(images), torch._neg_view(magnitudes), redshift.reshape(2, 1)),
        TensorDataset(whole[:, 1:3].transpose(2, 3), torch.ones(1, 2).expand(3, 2), whole[:, 0, 0, 0]),
        TensorDataset(images.bfloat16(), magnitudes.double(), redshift.half()),
        TensorDataset(images.int(), magnitudes.short(), redshift.bool()),
        TensorDataset(nn.Parameter(images), marked, redshift),
    ]
    old = [path.read_bytes() for path in sorted(_REFERENCE.glob("*.pt"))]
    return [*_both(datasets), *(TorchFile.of(file).written() for file in old), *(WHOLE + file for file in old)]


def checkpoints() -> list[bytes]:
    """Contents of any kind, of a few tensors."""
    weight = torch.ones(3, 2)
    parameter = nn.Parameter(weight)
    parameter.note = 1  # type: ignore[attr-defined]
    circle: list[object] = [weight]
    circle.append(circle)
    contents: list[object] = [
        {"model": OrderedDict(a=weight, b=weight[1:], c=torch._neg_view(weight)), "epoch": 3, "loss": 0.5},
        [(1, None, True, "x", 2**40, -1.5), {"a": {"b": {"c": []}}}, circle],
        {
            "parameter": parameter,
            "bytes": b"x",
            1: torch.zeros(0, 5),
            "size": weight.shape,
            "kind": weight.dtype,
        },
        {"complex": torch.ones(2, dtype=torch.complex64), "half": weight.half(), "bfloat16": weight.bfloat16()},
        {"long": torch.arange(4), "bool": weight.bool(), "byte": weight.byte(), "scalar": torch.tensor(1.0)},
        nn.Sequential(nn.Linear(2, 3), nn.BatchNorm2d(3), nn.Conv2d(1, 1, 1)),
    ]
    return _both(contents)


@cache
def models() -> list[bytes]:
    """AstroMAE as a module and as a state dict, wrapped and not. Layers that may be shared are."""
    module = _shared()
    state = _equal(foreign.astromae(**SIZES).state_dict())
    contents: list[object] = [
        module,
        {"epoch": 3, "nets": [nn.DataParallel(module)]},
        state,
        {"model": OrderedDict((f"module.{name}", tensor) for name, tensor in state.items()), "epoch": 3},
    ]
    return _both(contents)


def safetensors() -> list[bytes]:
    return [
        SAFETENSORS
        + (FUNCTIONS / "inference" / "models" / "dc2-small" / "model.safetensors").read_bytes()[:20_000]
    ]


def _shared() -> nn.Module:
    """A network in which equal layers are one, so that its pickle is a tenth of its length."""
    model = foreign.astromae(**SIZES)
    vision = model.inception_model.vis_inception
    block, custom = vision[2], vision[8]
    unit = block.branch1
    block.branch2[0] = block.branch3[0] = block.branch4[1] = unit
    vision[3] = vision[5] = vision[6] = block
    for name in ("branch1", "branch2", "branch3", "branch4"):
        setattr(custom, name, getattr(block, name))
    magnitudes = model.inception_model.magnitude_block
    for index in range(4, len(magnitudes), 2):
        magnitudes[index] = magnitudes[2]
    return model


def _equal(state: dict[str, Tensor]) -> OrderedDict[str, Tensor]:
    """With the same two tensors wherever a shape occurs, one for each parity of its place."""
    kept: dict[object, Tensor] = {}
    return OrderedDict(
        (name, kept.setdefault((tensor.shape, tensor.dtype, place % 2), tensor))
        for place, (name, tensor) in enumerate(state.items())
    )


def _both(contents: list[Any]) -> list[bytes]:
    """As a zip and in the form that torch wrote before version 1.6."""
    seeds = []
    with foreign.modules(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for content in contents:
            for zipped in (True, False):
                body = io.BytesIO()
                torch.save(content, body, _use_new_zipfile_serialization=zipped)
                seeds.append(TorchFile.of(body.getvalue()).written())
    return seeds
