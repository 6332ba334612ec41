"""A changed byte in a source whose format has checksums is an error: nothing is prepared from it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from torch.utils.data import TensorDataset

from cosmicai.data.places import Folder
from cosmicai.data.prepare import prepare
from cosmicai.data.sources.base import SourceError

COUNT = 30
MARK = np.float32(0.1234567)  # once in the images, and not in statistics of them
Images = NDArray[np.float32]
RANDOM = np.random.default_rng(0)
MAGNITUDES = RANDOM.uniform(20, 25, (COUNT, 5)).astype(np.float32)
REDSHIFTS = RANDOM.uniform(0, 2, COUNT).astype(np.float32)


def _torch(path: Path, images: Images) -> None:
    torch.save(TensorDataset(*map(torch.from_numpy, (images, MAGNITUDES, REDSHIFTS))), path)


def _torch_views(path: Path, images: Images) -> None:
    """Every second galaxy of a storage, which the file holds whole."""
    twice = torch.from_numpy(np.repeat(images, 2, axis=0))[::2]
    named = {"images": twice, "magnitudes": MAGNITUDES, "redshift": REDSHIFTS}
    torch.save({name: torch.as_tensor(value) for name, value in named.items()}, path)


def _npz(path: Path, images: Images) -> None:
    np.savez(path, images=images, magnitudes=MAGNITUDES, redshift=REDSHIFTS)


def _hdf5(path: Path, images: Images) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("images", data=images, fletcher32=True)
        file["magnitudes"], file["redshift"] = MAGNITUDES, REDSHIFTS


def _parquet(path: Path, images: Images) -> None:
    def listed(array: Images) -> pa.Array:
        values = pa.array(array.ravel())
        for size in array.shape[:0:-1]:
            values = pa.FixedSizeListArray.from_arrays(values, size)
        return values

    columns = {"images": listed(images), "magnitudes": listed(MAGNITUDES), "redshift": REDSHIFTS}
    options = {"compression": "none", "use_dictionary": False, "write_page_checksum": True}
    pq.write_table(pa.table(columns), path, **options)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.pt", _torch), ("views.pt", _torch_views), ("a.npz", _npz), ("a.h5", _hdf5),
        ("a.parquet", _parquet),
    ],
)  # fmt: skip
def test_a_changed_byte_is_an_error(name: str, write: Callable[[Path, Images], None], tmp_path: Path) -> None:
    images = RANDOM.normal(size=(COUNT, 5, 32, 32)).astype(np.float32)
    images[17, 2, 5, 5] = MARK
    write(tmp_path / name, images)
    prepare(tmp_path / name, Folder(tmp_path / "whole"), 1)
    data = bytearray((tmp_path / name).read_bytes())
    data[data.index(MARK.tobytes()) + 1] ^= 1
    (tmp_path / name).write_bytes(data)
    with pytest.raises(SourceError, match=name):
        prepare(tmp_path / name, Folder(tmp_path / "out"), 1)
