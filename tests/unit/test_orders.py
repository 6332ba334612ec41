"""Rows, bands and files that two parts of a source have in different orders are refused, not put together."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from cosmicai.data.reading import Columns, Reading

from .galaxies import BANDS, Arrays, differing, galaxies, made, refused

COUNT = 8
SHUFFLED = np.array([0, 1, 3, 2, 4, 5, 6, 7])
ORDER = "giruz"  # alphabetical, as tools write HDUs


@pytest.fixture(scope="module")
def arrays() -> Arrays:
    return galaxies(COUNT)


def _catalogue(path: Path, arrays: Arrays, ids: object, name: str = "object_id", **more: object) -> Path:
    table = Table({name: ids, **more, "redshift": arrays["redshift"]})
    for number, band in enumerate(BANDS):
        table[f"mag_{band}"] = arrays["magnitudes"][:, number]
    table.write(path)
    return path


def _images(path: Path, arrays: Arrays, ids: np.ndarray) -> Path:
    with h5py.File(path, "w") as file:
        file["images"], file["object_id"] = arrays["images"], ids
    return path


def _bands(path: Path, arrays: Arrays) -> Path:
    """An HDU for each band, and the magnitudes as one array."""
    hdus = [fits.ImageHDU(arrays["images"][:, BANDS.index(band)], name=band) for band in ORDER]
    table = Table({"mag": arrays["magnitudes"], "redshift": arrays["redshift"]})
    fits.HDUList([fits.PrimaryHDU(), *hdus, fits.BinTableHDU(table)]).writeto(path)
    return path


@pytest.mark.parametrize("identifier", [None, "none", "object_id"])
def test_a_catalogue_in_another_order_is_refused(
    identifier: str | None, arrays: Arrays, tmp_path: Path
) -> None:
    ids = 2**60 + np.arange(COUNT)
    source = _images(tmp_path / "a.h5", arrays, ids)
    catalogue = _catalogue(tmp_path / "a.csv", arrays, ids[SHUFFLED])
    refused(
        source,
        rf"2 of 8 rows of .*a\.csv are not those of .*a\.h5: in row 2 object_id is {ids[3]}, but {ids[2]}",
        Reading(Columns(ids=identifier), catalogue=catalogue),
    )


@pytest.mark.parametrize("kind", [np.int64, np.float64, "U8"])
def test_identifiers_of_images_and_catalogue_are_compared_as_they_are(
    kind: object, arrays: Arrays, tmp_path: Path
) -> None:
    source = _images(tmp_path / "a.h5", arrays, np.arange(COUNT))
    catalogue = _catalogue(tmp_path / "a.fits", arrays, np.arange(COUNT).astype(kind), "OBJECT_ID")
    written, prepared = made(source, tmp_path / "out", Reading(catalogue=catalogue))
    assert not differing(written, arrays)
    assert dict(prepared.summary.facts)["identifiers"] == "object_id (int64), the first 0"
    assert "rows of a.fits have the OBJECT_ID of those of a.h5" in prepared.summary.notes


def test_a_catalogue_without_common_identifiers_is_said_to_be_in_order(arrays: Arrays, tmp_path: Path) -> None:
    source = _images(tmp_path / "a.h5", arrays, np.arange(COUNT))
    catalogue = _catalogue(tmp_path / "a.csv", arrays, np.arange(COUNT), "number")
    _, prepared = made(source, tmp_path / "out", Reading(catalogue=catalogue))
    assert any("a.csv are assumed to be in the order of a.h5" in note for note in prepared.summary.notes)


def test_files_that_two_columns_name_differently_are_refused(arrays: Arrays, tmp_path: Path) -> None:
    (tmp_path / "cut").mkdir()
    for row, image in enumerate(arrays["images"]):
        fits.PrimaryHDU(image).writeto(tmp_path / "cut" / f"{row}.fits")
    catalogue = _catalogue(tmp_path / "a.csv", arrays, np.arange(COUNT)[SHUFFLED], "rank", id=np.arange(COUNT))
    refused(tmp_path / "cut", r"could be in rank or id, which differ: give --id", Reading(catalogue=catalogue))
    for column, order in (("id", np.arange(COUNT)), ("rank", SHUFFLED)):
        reading = Reading(Columns(ids=column), catalogue=catalogue)
        written, _ = made(tmp_path / "cut", tmp_path / column, reading)
        assert not differing(written, {**arrays, "images": arrays["images"][order]})


def test_bands_that_contradict_the_names_in_the_file_are_refused(arrays: Arrays, tmp_path: Path) -> None:
    source = _bands(tmp_path / "a.fits", arrays)
    magnitudes = tuple(f"mag[{n}]" for n in range(5))
    refused(
        source,
        r"--bands says that a channel is u, but the source names it G",
        Reading(Columns(magnitudes=magnitudes), bands=tuple(BANDS)),
    )
    reading = Reading(Columns(magnitudes=magnitudes), bands=tuple(ORDER))
    assert not differing(made(source, tmp_path / "out", reading)[0], arrays)


def test_an_array_of_magnitudes_beside_images_in_another_order_is_refused(
    arrays: Arrays, tmp_path: Path
) -> None:
    source = _bands(tmp_path / "a.fits", arrays)
    refused(source, r"in the order of the images, G, I, R, U, Z, or of the model, u, g, r, i, z: give --magn")
    for order in ([0, 1, 2, 3, 4], [3, 0, 2, 1, 4]):
        reading = Reading(Columns(magnitudes=tuple(f"mag[{n}]" for n in order)))
        written, _ = made(source, tmp_path / "-".join(map(str, order)), reading)
        assert not differing(written, {**arrays, "magnitudes": arrays["magnitudes"][:, order]})
