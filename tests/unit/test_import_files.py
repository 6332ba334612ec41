"""Checkpoints that others wrote, files that are none, and files that mean harm."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import struct
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from cosmicai.model.foreign.errors import CheckpointError
from cosmicai.model.foreign.reading import Choices, read
from inference.engine import astromae
from tests import foreign
from tests.reference import write_checkpoint
from tests.threads import one_thread  # noqa: F401

pytestmark = pytest.mark.usefixtures("one_thread")

REFERENCE = Path(__file__).parents[1] / "reference" / "checkpoints"


def _decompressed(name: str, folder: Path) -> Path:
    path = folder / f"{name}.pt"
    path.write_bytes(lzma.decompress((REFERENCE / f"{name}.pt.xz").read_bytes()))
    return path


def _largest_error(
    model: astromae.AstroMAE, images: np.ndarray, magnitudes: np.ndarray, expected: np.ndarray
) -> float:
    with torch.inference_mode():
        ours = model(torch.from_numpy(images), torch.from_numpy(magnitudes)).numpy()
    return float((np.abs(ours - expected) / np.maximum(1, np.abs(expected))).max())


@pytest.mark.parametrize(
    ("name", "fields", "parameters"),
    [
        ("published", {}, 15_902_889),
        ("published_state_dict", {"heads": "6"}, 15_902_889),
        ("plain_vit_depth4", {}, 12_242_601),
    ],
)
def test_what_the_public_classes_write(
    name: str, fields: dict[str, str], parameters: int, tmp_path: Path
) -> None:
    expected = np.load(REFERENCE / "published-expected.npz")
    reading = read(_decompressed(name, tmp_path), Choices(fields))
    assert astromae.parameter_count(reading.model) == parameters
    error = _largest_error(reading.model, expected["images"], expected["magnitudes"], expected[name])
    assert error < 1e-5


SMALL = sorted(np.load(REFERENCE / "small-expected.npz").files)


@pytest.mark.parametrize("name", SMALL)
def test_what_old_torch_and_every_timm_write(name: str, tmp_path: Path) -> None:
    expected = np.load(REFERENCE / "small-expected.npz")[name]
    reading = read(_decompressed(name, tmp_path), Choices())
    assert reading.kind == "pickled module DataParallel of ViT_Astro"
    assert _largest_error(reading.model, *write_checkpoint.galaxies(), expected) < 1e-5


def _structure(record: object, path: str = "") -> list[tuple[object, ...]]:
    from inference.data.pickled import Record

    assert isinstance(record, Record)
    own = record.attributes
    parts = [tuple(own[part].named) for part in ("_parameters", "_buffers", "_modules")]
    entries: list[tuple[object, ...]] = [(path, record.dotted, tuple(own), *parts)]
    for name, child in own["_modules"].named.items():
        entries += _structure(child, f"{path}.{name}") if child is not None else []
    return entries


PUBLISHED: list[foreign.Widths] = [(16,) * 6, (16,) * 6, (8,) * 6, (8,) * 6, (4,) * 6]


@pytest.mark.parametrize(("name", "groups", "depth"), [("published", 48, 12), ("plain_vit_depth4", 0, 4)])
def test_our_stand_ins_are_stored_as_the_public_classes_are(
    name: str, groups: int, depth: int, tmp_path: Path
) -> None:
    """Class for class and attribute for attribute: what is tested with them is tested for the real ones."""
    from inference.data.torchfile import Buffer, describe

    sizes = {
        "width": 192,
        "heads": 6,
        "hidden": 768,
        "stem": 32,
        "branch": 1096,
        "magnitude": 1024,
        "fusion": 1024,
    }
    model = foreign.astromae(**sizes, widths=PUBLISHED, groups=groups, depth=depth)
    ours = foreign.save(nn.DataParallel(model), tmp_path)
    theirs = _decompressed(name, tmp_path)
    stored = [_structure(describe(Buffer(path.read_bytes()))) for path in (ours, theirs)]
    assert stored[0] == stored[1]


# Files that are none


def _zip(**entries: bytes) -> bytes:
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name.replace("__", "/"), content)
    return body.getvalue()


def _tar() -> bytes:
    body = io.BytesIO()
    with tarfile.open(fileobj=body, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo("model"))
    return body.getvalue()


def _hdf5() -> bytes:
    import h5py

    body = io.BytesIO()
    with h5py.File(body, "w") as file:
        file["x"] = [1]
    return body.getvalue()


def _scripted() -> bytes:
    return _zip(**{"m/data.pkl": b"\x80\x02}.", "m/constants.pkl": b"\x80\x02).", "m/version": b"3"})


def _saved(content: object) -> bytes:
    body = io.BytesIO()
    torch.save(content, body)
    return body.getvalue()


_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 63920779\n"

OTHERS: dict[str, tuple[Callable[[], bytes], str]] = {
    "nothing": (lambda: b"", "is empty"),
    "a Git LFS pointer": (lambda: _POINTER, r"is a Git LFS pointer, not the file itself: run `git lfs pull`"),
    "a web page": (lambda: b"\n<!DOCTYPE html><html><head>", "is a web page"),
    "XML": (lambda: b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "is a web page"),
    "xz": (lambda: lzma.compress(b"x"), "is compressed with xz"),
    "gzip": (lambda: gzip.compress(b"x"), "is compressed with gzip"),
    "bzip2": (lambda: bz2.compress(b"x"), "is compressed with bzip2"),
    "tar": (_tar, "is a tar archive"),
    "HDF5": (_hdf5, "is an HDF5 file"),
    "numpy": (lambda: b"\x93NUMPY\x01\x00", "is a numpy array"),
    "a zip": (lambda: _zip(readme__txt=b"x"), r"is a zip file without data\.pkl \(it begins with readme/txt\)"),
    "TorchScript": (_scripted, "is a TorchScript archive"),
    "a plain pickle": (lambda: pickle.dumps({"model": 1}), "is a plain pickle"),
    "text": (lambda: b"just text", "is cut short or not a .pt file of torch.save"),
    "a number": (lambda: _saved(3), "holds no network: it is 3"),
    "a list": (lambda: _saved([1, 2]), "holds no network: it is a list"),
    "no network": (lambda: _saved({"epoch": 3, "loss": 0.1}), "holds no network: it is a dict of epoch, loss"),
    "another module": (
        lambda: _saved(nn.Linear(3, 3)),
        r"\(torch\.nn\.modules\.linear\.Linear\) is not an AstroMAE",
    ),
    "another network": (
        lambda: _saved(nn.Conv2d(3, 3, 3).state_dict()),
        r"has no tensor patch_embed\.proj\.weight",
    ),
    "safetensors cut short": (
        lambda: struct.pack("<Q", 900) + b'{"a":',
        "cut short or damaged inside the header",
    ),
    "safetensors damaged": (lambda: struct.pack("<Q", 5) + b'{"a":', "its safetensors header is damaged"),
    "safetensors beyond": (
        lambda: _safetensors({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}, 8),
        "'a' reaches beyond the file",
    ),
    "safetensors of another size": (
        lambda: _safetensors({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 8]}}, 8),
        r"'a' has 8 bytes, which are not those of its shape \[4\]",
    ),
    "safetensors that lie": (
        lambda: _safetensors({"a": {"dtype": "F32", "shape": [1 << 62] * 9, "data_offsets": [0, 8]}}, 8),
        "'a' reaches beyond the file",
    ),
}


def _safetensors(header: object, size: int) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(size)


@pytest.mark.parametrize("name", OTHERS)
def test_other_files_are_named(name: str, tmp_path: Path) -> None:
    made, message = OTHERS[name]
    path = tmp_path / "astromae.pt"
    path.write_bytes(made())
    with pytest.raises(CheckpointError, match=rf"astromae\.pt: .*{message}"):
        read(path, Choices())


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none\.pt: cannot be opened \(No such file or directory\)"):
        read(tmp_path / "none.pt", Choices())


@pytest.mark.parametrize("share", [0.01, 0.3, 0.9, 0.999])
@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
def test_a_file_cut_short_is_refused(share: float, legacy: bool, tmp_path: Path) -> None:
    path = foreign.save(foreign.astromae(depth=1), tmp_path, _use_new_zipfile_serialization=not legacy)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(CheckpointError, match=r"cut short|damaged|ends"):
        read(path, Choices())


def test_a_damaged_weight_is_found_by_its_checksum(tmp_path: Path) -> None:
    model = foreign.astromae(depth=1)
    with torch.no_grad():
        model.head.weight.fill_(0.123456)
    path = foreign.save(model, tmp_path)
    data = bytearray(path.read_bytes())
    data[data.index(np.full(24, 0.123456, np.float32).tobytes()) + 40] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"is damaged: the checksum of data/\d+ is not"):
        read(path, Choices())


# Files that mean harm


class _Hostile(nn.Linear):
    marker = ""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {_Hostile.marker}",)


def test_code_in_place_of_a_layer_is_refused_by_name_and_not_run(tmp_path: Path) -> None:
    _Hostile.marker = str(tmp_path / "executed")
    model = foreign.astromae(depth=1)
    model.vit_block[0] = _Hostile(24, 20)
    with pytest.raises(
        CheckpointError, match=r"vit_block\.0 is a posix\.system, which is not a class known here"
    ):
        read(foreign.save(model, tmp_path), Choices())
    assert not (tmp_path / "executed").exists()


def test_code_beside_the_network_is_not_run(tmp_path: Path) -> None:
    _Hostile.marker = str(tmp_path / "executed")
    model = foreign.astromae(depth=1)
    read(foreign.save({"model": model, "extra": _Hostile(2, 2)}, tmp_path), Choices())
    assert not (tmp_path / "executed").exists()


def _shared() -> nn.Module:
    """Two to the power of 40 modules, if each were looked at wherever it stands."""
    layer: nn.Module = nn.Linear(24, 24)
    for _ in range(40):
        layer = nn.Sequential(layer, layer)
    return layer


def _itself() -> nn.Module:
    layer = nn.Sequential(nn.Linear(24, 24))
    layer.append(layer)
    return layer


def _deep() -> nn.Module:
    layer: nn.Module = nn.Linear(24, 24)
    for _ in range(150):
        layer = nn.Sequential(layer)
    return layer


@pytest.mark.parametrize("made", [_shared, _itself, _deep])
def test_modules_within_modules_are_refused_at_once(made: Callable[[], nn.Module], tmp_path: Path) -> None:
    model = foreign.astromae(depth=1)
    model.vit_block = made()
    path = foreign.save(model, tmp_path)
    began = time.process_time()
    with pytest.raises(CheckpointError, match=r"more than 5000 modules|nested more than 20 deep"):
        read(path, Choices())
    assert time.process_time() - began < 3


def test_weights_blown_up_by_steps_of_zero_are_refused(tmp_path: Path) -> None:
    model = foreign.astromae(depth=1)
    model.head.weight.data = torch.zeros(1).expand(100_000, 100_000)
    with pytest.raises(
        CheckpointError, match=r"of shape \(100000, 100000\), more values than the file has bytes"
    ):
        read(foreign.save(model, tmp_path), Choices())


def test_many_blown_up_weights_are_refused(tmp_path: Path) -> None:
    """Each by itself has fewer values than the file has bytes."""
    model = foreign.astromae(depth=1)
    for block in model.inception_model.vis_inception:
        for module in block.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.data = torch.zeros(1).expand(20_000, 2, 1, 1)
    with pytest.raises(CheckpointError, match=r"its tensors have more values than the file has bytes"):
        read(foreign.save(model, tmp_path), Choices())


def test_names_that_control_a_terminal_are_made_printable(tmp_path: Path) -> None:
    state = {**foreign.astromae(depth=1).state_dict(), "\x1b[2J\u202e[red]": torch.ones(1)}
    with pytest.raises(CheckpointError) as refusal:
        read(foreign.save(state, tmp_path), Choices({"heads": "3"}))
    assert str(refusal.value).isprintable()
    assert r"\x1b[2J\u202e[red]" in str(refusal.value)
