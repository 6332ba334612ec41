"""HDF5, Parquet, numpy and torch files, as h5py, pyarrow, numpy and torch write them."""

from __future__ import annotations

import gzip
import lzma
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet
from torch.utils.data import TensorDataset

from cosmicai.data import layout
from cosmicai.data.reading import Columns, Reading
from cosmicai.data.sources import opened_source
from cosmicai.packaging.places import ROOT

from .galaxies import BANDS, Arrays, differing, galaxies, made, refused

COUNT = 150
REFERENCE = ROOT / "tests" / "reference"


@pytest.fixture(scope="module")
def arrays() -> Arrays:
    return galaxies(COUNT)


# HDF5


def _save(group: h5py.Group, arrays: Arrays) -> None:
    for name, array in arrays.items():
        group[name] = array


def test_groups_are_told_apart_by_the_images(arrays: Arrays, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        _save(file.create_group("train"), arrays)
        _save(file.create_group("test"), {name: array + 1 for name, array in arrays.items()})
    refused(
        tmp_path / "a.h5", r"images could be test/images \(150, 5, 32, 32\) or train/images .*--images NAME"
    )
    reading = Reading(Columns(images=("train/images",)))
    assert not differing(made(tmp_path / "a.h5", tmp_path / "out", reading)[0], arrays)


def test_compound_tables_and_text_of_any_length(arrays: Arrays, tmp_path: Path) -> None:
    fields = [("objectId", "i8"), *((f"mag_{band}_lsst", "f4") for band in BANDS), ("redshift", "f8")]
    rows = np.zeros(COUNT, fields)
    for number, band in enumerate(BANDS):
        rows[f"mag_{band}_lsst"] = arrays["magnitudes"][:, number]
    rows["objectId"] = np.arange(COUNT) + 2**60
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["images"], file["photometry"] = arrays["images"], rows
        file["specz"] = [f"{value:.9g}" for value in arrays["redshift"]]
    reading = Reading(Columns(redshift="specz"))
    written, prepared = made(tmp_path / "a.h5", tmp_path / "out", reading)
    assert not differing(written, arrays)
    assert dict(prepared.summary.facts)["identifiers"] == f"photometry/objectId (int64), the first {2**60}"
    refused(tmp_path / "a.h5", r"redshift could be photometry/redshift .* or specz")


def test_links_are_followed_within_the_folder(arrays: Arrays, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "pixels.h5", "w") as file:
        file["deep/down"] = arrays["images"]
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["images"] = h5py.ExternalLink("pixels.h5", "/deep/down")
        file["hidden/values"] = arrays["magnitudes"]
        file["magnitudes"] = h5py.SoftLink("/hidden/values")
        file["redshift"] = arrays["redshift"]
        file["loop"] = h5py.SoftLink("/")
        file["broken"] = h5py.SoftLink("/nowhere")
    written, prepared = made(tmp_path / "a.h5", tmp_path / "out")
    assert not differing(written, arrays)
    assert "broken is a broken link" in prepared.summary.notes


def test_links_and_virtual_datasets_of_files_elsewhere_are_not_followed(arrays: Arrays, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    with h5py.File(tmp_path / "elsewhere" / "pixels.h5", "w") as file:
        file["images"] = arrays["images"]
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["images"] = h5py.ExternalLink("elsewhere/pixels.h5", "/images")
        file["magnitudes"] = arrays["magnitudes"]
    refused(tmp_path / "a.h5", "no column holds images.*images links to elsewhere/pixels.h5")
    virtual = h5py.VirtualLayout(arrays["images"].shape, "f4")
    virtual[:] = h5py.VirtualSource("gone.h5", "images", arrays["images"].shape)
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file.create_virtual_dataset("images", virtual)
        file["magnitudes"] = arrays["magnitudes"]
    refused(
        tmp_path / "b.h5", r"/images is a virtual dataset of gone\.h5, which is not in the folder of this file"
    )


def test_units_and_chunked_compressed_datasets(arrays: Arrays, tmp_path: Path) -> None:
    fluxes = 10 ** (-0.4 * (arrays["magnitudes"].astype(np.float64) - 31.4))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset(
            "images", data=arrays["images"], chunks=(7, 2, 16, 32), compression="gzip", shuffle=True
        )
        file["z"] = arrays["redshift"]
        for number, band in enumerate(BANDS):
            file[f"{band}_cModelFlux"] = fluxes[:, number]
    refused(tmp_path / "a.h5", r"no column for magnitudes, but fluxes: u_cModelFlux, .*--flux-unit")
    written, prepared = made(tmp_path / "a.h5", tmp_path / "stated", Reading(flux_zero_point=31.4))
    assert np.abs(written["magnitudes"] - arrays["magnitudes"]).max() < 4e-6
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        for band in BANDS:
            file[f"{band}_cModelFlux"].attrs["unit"] = "nJy"
    again, prepared = made(tmp_path / "a.h5", tmp_path / "unit")
    assert np.array_equal(again["magnitudes"], written["magnitudes"])
    assert "magnitudes are computed from fluxes: nJy" in prepared.summary.notes


# Multimodal Universe


def _mmu(arrays: Arrays) -> tuple[np.ndarray, np.ndarray]:
    """Images and band names, as its build scripts have them; odd rows in another order."""
    names = np.array([f"hsc-{band}" for band in BANDS])
    order = np.array([np.arange(5) if row % 2 == 0 else np.array([4, 2, 0, 1, 3]) for row in range(COUNT)])
    images = np.take_along_axis(arrays["images"], order[:, :, None, None], 1)
    return images, names[order]


def test_multimodal_universe_hdf5(arrays: Arrays, tmp_path: Path) -> None:
    images, names = _mmu(arrays)
    with h5py.File(tmp_path / "001-of-001.hdf5", "w") as file:
        file["image_array"], file["image_ivar"] = images, np.ones_like(images)
        file.create_dataset("image_band", data=names.astype("S5"))
        file["image_mask"] = np.zeros(images.shape, bool)
        file["image_scale"] = np.full((COUNT, 5), 0.2, np.float32)
        file["image_psf_fwhm"] = np.ones((COUNT, 5), np.float32)
        file["object_id"] = np.arange(COUNT) + 40_000_000_000_000_000
        file["Z"] = arrays["redshift"]
        for number, band in enumerate(BANDS):
            file[f"{band}_cmodel_mag"] = arrays["magnitudes"][:, number]
            file[f"{band}_cmodel_magerr"], file[f"a_{band}"] = np.ones(COUNT), np.ones(COUNT)
    written, prepared = made(tmp_path / "001-of-001.hdf5", tmp_path / "out")
    assert not differing(written, arrays)
    facts = dict(prepared.summary.facts)
    assert facts["bands"].startswith("u, g, r, i, z (in the file: hsc-u, hsc-g")
    assert facts["pixel scale"] == '0.2"'
    assert any("Z counts as the redshift" in note for note in prepared.summary.notes)


def test_multimodal_universe_parquet_and_other_structs(arrays: Arrays, tmp_path: Path) -> None:
    images, names = _mmu(arrays)
    rows = [
        [
            {"band": str(names[row, c]), "flux": images[row, c].tolist(), "scale": 0.2, "psf_fwhm": 0.7}
            for c in range(5)
        ]
        for row in range(COUNT)
    ]
    table = {
        "image": rows,
        "Z": pa.array(arrays["redshift"]),
        "object_id": [f"id-{row}" for row in range(COUNT)],
    }
    table |= {f"{band}_cmodel_mag": arrays["magnitudes"][:, n] for n, band in enumerate(BANDS)}
    flux = pa.list_(pa.list_(pa.float32()))
    one = pa.struct(
        [("band", pa.string()), ("flux", flux), ("scale", pa.float32()), ("psf_fwhm", pa.float32())]
    )
    image = pa.array(rows, pa.list_(one))
    parquet.write_table(pa.table({**table, "image": image}), tmp_path / "a.parquet", row_group_size=40)
    written, prepared = made(tmp_path / "a.parquet", tmp_path / "out")
    assert not differing(written, arrays)
    assert dict(prepared.summary.facts)["identifiers"] == "object_id (text), the first id-0"


# Parquet


def _nested(array: np.ndarray) -> pa.Array:
    """Lists of lists of numbers."""
    if array.ndim == 1:
        return pa.array(array)
    inner = _nested(array.reshape(-1, *array.shape[2:]))
    return pa.ListArray.from_arrays(np.arange(len(array) + 1, dtype=np.int32) * array.shape[1], inner)


@pytest.mark.parametrize("kind", ["lists", "fixed", "one for each band"])
def test_parquet_with_image_columns(kind: str, arrays: Arrays, tmp_path: Path) -> None:
    columns = {f"{band}mag": arrays["magnitudes"][:, n] for n, band in enumerate(BANDS)}
    columns["z_spec"] = pa.array(arrays["redshift"], mask=np.arange(COUNT) == 3)
    if kind == "lists":
        columns["image"] = _nested(arrays["images"])
    elif kind == "fixed":
        flat = pa.array(arrays["images"].ravel())
        for side in (32, 32, 5):
            flat = pa.FixedSizeListArray.from_arrays(flat, side)
        columns["image"] = flat
    else:
        columns |= {f"cutout_{band}": _nested(arrays["images"][:, n]) for n, band in enumerate(BANDS)}
    parquet.write_table(pa.table(columns), tmp_path / "a.parquet", row_group_size=64)
    written, prepared = made(tmp_path / "a.parquet", tmp_path / "out")
    expected = arrays["redshift"].copy()
    expected[3] = np.nan
    assert not differing(written, {**arrays, "redshift": expected})
    assert ("z_spec", "not finite or masked", "unknown", 1) in prepared.summary.missing


def test_flat_lists_do_not_tell_a_shape(arrays: Arrays, tmp_path: Path) -> None:
    flat = _nested(arrays["images"].reshape(COUNT, -1))
    parquet.write_table(
        pa.table({"image": flat, "mags": _nested(arrays["magnitudes"])}), tmp_path / "a.parquet"
    )
    refused(tmp_path / "a.parquet", r"no column holds images.*image \(150, 5120\)")


def test_a_folder_of_parts_is_one_source(arrays: Arrays, tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    folder.mkdir()
    for number, rows in enumerate((slice(0, 9), slice(9, 100), slice(100, None))):
        part = {name: _nested(array[rows]) for name, array in arrays.items()}
        parquet.write_table(pa.table(part), folder / f"part-{number}.parquet")
    assert not differing(made(folder, tmp_path / "out")[0], arrays)
    part["images"] = _nested(arrays["images"][:, :, :16, :16])
    part = {
        "images": _nested(arrays["images"][:3, :, :16]),
        **{n: _nested(arrays[n][:3]) for n in ("magnitudes", "redshift")},
    }
    parquet.write_table(pa.table(part), folder / "part-3.parquet")
    refused(folder, r"part-3\.parquet: has images \(3, 5, 16, 32\), the first file has images \(9, 5, 32, 32\)")


# numpy


def test_a_structured_npy_is_a_table(arrays: Arrays, tmp_path: Path) -> None:
    rows = np.zeros(COUNT, [("stamp", ">f4", (5, 32, 32)), ("mags", "f8", 5), ("redshift", "f4")])
    rows["stamp"], rows["mags"], rows["redshift"] = arrays["images"], arrays["magnitudes"], arrays["redshift"]
    np.save(tmp_path / "a.npy", rows)
    assert not differing(made(tmp_path / "a.npy", tmp_path / "out")[0], arrays)


def test_a_folder_of_npy_files_are_columns(arrays: Arrays, tmp_path: Path) -> None:
    folder = tmp_path / "arrays"
    folder.mkdir()
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    assert not differing(made(folder, tmp_path / "out")[0], arrays)


def test_a_plain_npy_needs_a_catalogue(arrays: Arrays, tmp_path: Path) -> None:
    np.save(tmp_path / "stamps.npy", arrays["images"])
    refused(tmp_path / "stamps.npy", r"no column for magnitudes")
    lines = [",".join(["id", *BANDS, "z_spec"])]
    values = np.column_stack([arrays["magnitudes"], arrays["redshift"]])
    lines += [f"00{row}," + ",".join(f"{value:.9g}" for value in values[row]) for row in range(COUNT)]
    (tmp_path / "cat.csv").write_text("# made up\n" + "\n".join(lines) + "\n")
    written, prepared = made(tmp_path / "stamps.npy", tmp_path / "out", Reading(catalogue=tmp_path / "cat.csv"))
    assert not differing(written, arrays)
    assert dict(prepared.summary.facts)["identifiers"] == "id (text), the first 000"


@pytest.mark.parametrize(
    ("array", "match"),
    [
        (np.asfortranarray(np.zeros((4, 5, 32, 32))), "images is in Fortran order"),
        (np.array([None, "a"], object), "images holds pickled objects"),
    ],
)
def test_what_numpy_cannot_give_by_rows_isrefused(array: np.ndarray, match: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=array, magnitudes=np.zeros((4, 5)))
    refused(tmp_path / "a.npz", match)


# torch


@pytest.mark.parametrize("name", ["a.pth", "a.pt.gz", "a.pt.xz", "legacy.pt"])
def test_torch_files_of_every_name_and_age(name: str, arrays: Arrays, tmp_path: Path) -> None:
    dataset = TensorDataset(*(torch.from_numpy(array) for array in arrays.values()))
    torch.save(dataset, tmp_path / "plain", _use_new_zipfile_serialization=name != "legacy.pt")
    content = (tmp_path / "plain").read_bytes()
    packed = {".gz": gzip.compress, ".xz": lzma.compress}.get(Path(name).suffix, bytes)(content)
    (tmp_path / name).write_bytes(packed)
    assert not differing(made(tmp_path / name, tmp_path / "out")[0], arrays)


@pytest.mark.parametrize("kind", ["", "-legacy", "-strided-double"])
def test_files_of_torch_1_13(kind: str) -> None:
    source = REFERENCE / f"torch-1.13.1{kind}.pt"
    expected = torch.load(source, weights_only=False).tensors
    with opened_source(source, Reading(), layout.read(layout.BUNDLED)) as table:
        assert [column.name for column in table.columns] == ["images", "magnitudes", "redshift"]
        for column, tensor in zip(table.columns, expected, strict=True):
            assert np.array_equal(column.read(0, 2), tensor.numpy())


@pytest.mark.parametrize("kind", [dict, tuple, list])
def test_dicts_and_lists_of_tensors(kind: type, arrays: Arrays, tmp_path: Path) -> None:
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    torch.save(tensors if kind is dict else kind(tensors.values()), tmp_path / "a.pt")
    assert not differing(made(tmp_path / "a.pt", tmp_path / "out")[0], arrays)


def test_a_module_isrefused(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "a.pt")
    refused(tmp_path / "a.pt", r"a\.pt: ")
    torch.save([torch.zeros(3)] * 4, tmp_path / "b.pt")
    refused(tmp_path / "b.pt", r"has 4 tensors without names")


# Columns


def test_two_columns_that_could_be_the_images_arerefused(arrays: Arrays, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", stamps=arrays["images"], cutouts=arrays["images"], mags=arrays["magnitudes"])
    refused(tmp_path / "a.npz", r"images could be stamps \(150, 5, 32, 32\) or cutouts")
    np.savez(tmp_path / "b.npz", a=arrays["images"], b=arrays["images"], mags=arrays["magnitudes"])
    refused(tmp_path / "b.npz", r"images could be a \(150, 5, 32, 32\) or b")
    np.savez(tmp_path / "c.npz", data=arrays["images"], mags=arrays["magnitudes"])
    prepared = made(tmp_path / "c.npz", tmp_path / "out")[1]
    assert "images are data (150, 5, 32, 32), the only column of stamps" in prepared.summary.notes


def test_columns_of_a_parquet_file_are_decoded_apart(arrays: Arrays, tmp_path: Path) -> None:
    """Reading another column between must not make the images' reader decode the whole file."""
    rows = 4000
    images = np.tile(arrays["images"][:100], (rows // 100, 1, 1, 1))
    table = pa.table({"images": _nested(images), "mags": _nested(np.full((rows, 5), 20, np.float32))})
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=rows)
    del table
    with opened_source(tmp_path / "a.parquet", Reading(), layout.read(layout.BUNDLED)) as source:
        pixels, magnitudes = source.columns
        before = pa.default_memory_pool().bytes_allocated()
        for start in range(0, 1000, 100):
            assert np.array_equal(pixels.read(start, start + 100), images[:100])
            magnitudes.read(start, start + 100)
            held = pa.default_memory_pool().bytes_allocated() - before
            assert held < images.nbytes / 4, f"{held} bytes are held of {images.nbytes}"
