"""What files state about pixels and fluxes: it is used, and where it is contradictory the source is refused."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from astropy.io import fits
from astropy.table import Table

from cosmicai.data import units
from cosmicai.data.reading import Reading

from .galaxies import BANDS, Arrays, differing, galaxies, made, refused

COUNT = 6
TO_MODEL = 10 ** (0.4 * (27.0 - 31.4))  # the factor from nJy to the bundled model's zero point


@pytest.fixture(scope="module")
def arrays() -> Arrays:
    return galaxies(COUNT)


def _hdf5(path: Path, arrays: Arrays, unit: str, **columns: np.ndarray) -> Path:
    with h5py.File(path, "w") as file:
        for name, array in {**arrays, **columns}.items():
            file[name] = array
        file["images"].attrs["unit"] = unit
    return path


def _header(arrays: Arrays, row: int, **more: object) -> fits.Header:
    """What a cut-out needs in its header."""
    magnitudes = {f"MAG_{band.upper()}": float(arrays["magnitudes"][row, n]) for n, band in enumerate(BANDS)}
    return fits.Header({"BANDS": BANDS, "REDSHIFT": float(arrays["redshift"][row]), **magnitudes, **more})


def _cut_outs(folder: Path, arrays: Arrays, last: dict[str, object]) -> Path:
    """last: the keywords of the last file; those of the others are zero point 27 and 0.2 arcsec."""
    folder.mkdir()
    for row, image in enumerate(arrays["images"]):
        usual = {"MAGZERO": 27.0, "PIXSCALE": 0.2}
        header = _header(arrays, row, **(usual | last if row == COUNT - 1 else usual))
        fits.PrimaryHDU(image, header).writeto(folder / f"{row}.fits")
    return folder


def test_the_unit_of_a_column_of_images_is_used(arrays: Arrays, tmp_path: Path) -> None:
    table = Table({"image": arrays["images"], "mags": arrays["magnitudes"], "redshift": arrays["redshift"]})
    table["image"].unit = "nJy"
    table.write(tmp_path / "a.fits")
    _hdf5(tmp_path / "a.h5", arrays, "nJy")
    for source in (tmp_path / "a.fits", tmp_path / "a.h5"):
        written, prepared = made(source, tmp_path / f"out-{source.suffix}")
        assert np.allclose(written["images"], arrays["images"] * TO_MODEL, rtol=1e-5)
        assert dict(prepared.summary.facts)["pixels"].startswith("zero point 31.4, multiplied")


@pytest.mark.parametrize("unit", ["MJy/sr", "erg / (s cm2 Angstrom)", "mag", "mag(AB)", "Jy/beam"])
def test_pixels_in_a_unit_of_light_without_a_zero_point_are_refused(
    unit: str, arrays: Arrays, tmp_path: Path
) -> None:
    source = _hdf5(tmp_path / "a.h5", arrays, unit)
    refused(source, r"pixels in .* have no AB zero point .* give --pixel-unit or --pixel-zero-point")
    written, _ = made(source, tmp_path / "out", Reading(pixel_zero_point=27.0))
    assert not differing(written, arrays)


def test_counts_are_said_to_state_no_zero_point(arrays: Arrays, tmp_path: Path) -> None:
    _, prepared = made(_hdf5(tmp_path / "a.h5", arrays, "adu"), tmp_path / "out")
    assert "the unit of the pixels, adu, says nothing about their zero point" in prepared.summary.notes


@pytest.mark.parametrize(
    ("unit", "zero_point"),
    [
        ("3.631e-6 Jy", 22.5),
        ("10**-6 Jy", 23.9),
        ("1e-29 erg/s/cm2/Hz", 23.9),
        ("erg / (s cm2 Hz)", -48.6),
        *((unit, None) for unit in ("mag(AB)", "MJy/sr", "adu", "electron/s", "deg", "", "1")),
    ],
)
def test_multiples_of_jansky_have_a_zero_point(unit: str, zero_point: float | None) -> None:
    assert units.zero_point_of(unit) == pytest.approx(zero_point, abs=1e-3)


WORLD = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CDELT1": -0.2 / 3600, "CDELT2": 0.2 / 3600}


@pytest.mark.parametrize(
    ("keywords", "match", "reading"),
    [
        (
            {"BUNIT": "nanomaggy", "MAGZERO": 27.0},
            "more than one zero point: 22.5 by BUNIT, 27 by MAGZERO: give --pixel-unit",
            Reading(pixel_zero_point=27.0),
        ),
        (
            {"PIXSCALE": 0.1, **WORLD},
            "more than one pixel scale: 0.1 by PIXSCALE, 0.2 by the world coordinates: give --pixel-scale",
            Reading(pixel_scale=0.2),
        ),
    ],
)
def test_a_header_that_contradicts_itself_is_refused(
    keywords: dict[str, object], match: str, reading: Reading, arrays: Arrays, tmp_path: Path
) -> None:
    columns = [fits.Column(b, "E", array=arrays["magnitudes"][:, n]) for n, b in enumerate(BANDS)]
    columns.append(fits.Column("Z_SPEC", "E", array=arrays["redshift"]))
    image = fits.PrimaryHDU(arrays["images"], fits.Header({"BANDS": BANDS, **keywords}))
    fits.HDUList([image, fits.BinTableHDU.from_columns(columns)]).writeto(tmp_path / "a.fits")
    refused(tmp_path / "a.fits", match)
    assert not differing(made(tmp_path / "a.fits", tmp_path / "out", reading)[0], arrays)


@pytest.mark.parametrize(
    ("last", "match"),
    [
        (
            {"BANDS": BANDS[::-1]},
            r"5\.fits: HDU 0 has the bands z, i, r, g, u, that of 0\.fits has u, g, r, i, z",
        ),
        ({"MAGZERO": 30.0}, r"5\.fits: HDU 0 has the zero point 30, that of 0\.fits has 27"),
        ({"PIXSCALE": 0.4}, r"5\.fits: HDU 0 has the pixel scale 0\.4, that of 0\.fits has 0\.2"),
    ],
)
def test_a_cut_out_whose_header_says_something_else_is_named(
    last: dict[str, object], match: str, arrays: Arrays, tmp_path: Path
) -> None:
    assert not differing(made(_cut_outs(tmp_path / "same", arrays, {}), tmp_path / "out")[0], arrays)
    refused(_cut_outs(tmp_path / "cut", arrays, last), match)


def test_cut_outs_with_their_bands_in_another_order_of_hdus_are_refused(arrays: Arrays, tmp_path: Path) -> None:
    (tmp_path / "cut").mkdir()
    for row, order in enumerate([*["ugriz"] * (COUNT - 1), "guriz"]):
        hdus = [fits.ImageHDU(arrays["images"][row, BANDS.index(band)], name=band) for band in order]
        fits.HDUList([fits.PrimaryHDU(header=_header(arrays, row)), *hdus]).writeto(
            tmp_path / "cut" / f"{row}.fits"
        )
    refused(tmp_path / "cut", r"5\.fits: HDU 1 has the bands g, that of 0\.fits has u")


def test_files_of_one_source_in_different_units_are_refused(arrays: Arrays, tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    fluxes = 10 ** (-0.4 * (arrays["magnitudes"].astype(np.float64) - 22.5))
    plain = {"images": arrays["images"], "redshift": arrays["redshift"]}
    for name, pixels, unit in (("a", "nmgy", "nmgy"), ("b", "nmgy", "uJy")):
        path = _hdf5(tmp_path / "parts" / f"{name}.h5", plain, pixels, flux=fluxes)
        with h5py.File(path, "r+") as file:
            file["flux"].attrs["unit"] = unit
    refused(
        tmp_path / "parts",
        r"the zero point of flux is 23\.9 in b\.h5, but 22\.5 in a\.h5: give --flux-unit or --zero-point",
    )
    written, _ = made(tmp_path / "parts", tmp_path / "out", Reading(flux_zero_point=22.5))
    assert np.allclose(written["magnitudes"][COUNT:], arrays["magnitudes"], atol=1e-5)
    _hdf5(tmp_path / "parts" / "b.h5", plain, "uJy", flux=fluxes)
    refused(tmp_path / "parts", r"the zero point of images is 23\.9 in b\.h5", Reading(flux_zero_point=22.5))


def test_a_flux_unit_that_the_file_contradicts_is_said(arrays: Arrays, tmp_path: Path) -> None:
    plain = {"images": arrays["images"], "redshift": arrays["redshift"]}
    fluxes = 10 ** (-0.4 * (arrays["magnitudes"].astype(np.float64) - 31.4))
    source = _hdf5(tmp_path / "a.h5", plain, "adu", flux=fluxes)
    with h5py.File(source, "r+") as file:
        file["flux"].attrs["unit"] = "uJy"
    written, prepared = made(source, tmp_path / "out", Reading(flux_zero_point=31.4))
    assert np.allclose(written["magnitudes"], arrays["magnitudes"], atol=1e-5)
    assert "nJy is used as the option says, although the file states uJy" in prepared.summary.notes


def test_positions_that_are_not_in_degrees_are_refused(arrays: Arrays, tmp_path: Path) -> None:
    source = _hdf5(tmp_path / "a.h5", arrays, "adu", ra=np.ones(COUNT), dec=np.ones(COUNT))
    with h5py.File(source, "r+") as file:
        file["ra"].attrs["unit"] = "rad"
    refused(source, r"ra is in rad: convert it to degrees")


def test_rows_of_another_pixel_scale_are_named(arrays: Arrays, tmp_path: Path) -> None:
    scales = np.full((COUNT, 5), 0.2, np.float32)
    scales[3] = 0.4
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["image_array"], file["image_scale"] = arrays["images"], scales
        file["image_band"] = np.array([[f"lsst-{band}".encode() for band in BANDS]] * COUNT)
        file["magnitudes"] = arrays["magnitudes"]
    refused(tmp_path / "a.h5", r"image_scale is 0\.4 in row 3, but 0\.2 in the first")


def test_the_bands_of_a_dict_of_tensors_give_the_order(arrays: Arrays, tmp_path: Path) -> None:
    reverse = {name: torch.from_numpy(arrays[name][:, ::-1].copy()) for name in ("images", "magnitudes")}
    redshift = torch.from_numpy(arrays["redshift"])
    torch.save({**reverse, "redshift": redshift, "bands": list(BANDS[::-1])}, tmp_path / "a.pt")
    assert not differing(made(tmp_path / "a.pt", tmp_path / "out")[0], arrays)


def test_options_that_a_header_contradicts_are_said(arrays: Arrays, tmp_path: Path) -> None:
    source = _cut_outs(tmp_path / "cut", arrays, {})
    _, prepared = made(source, tmp_path / "out", Reading(pixel_zero_point=22.5, pixel_scale=0.21, fit="crop"))
    assert {
        "zero point 22.5 is used as the option says, although the file states 27",
        "pixel scale 0.21 is used as the option says, although the file states 0.2",
    } <= set(prepared.summary.notes)


def test_magnitudes_that_are_vega_by_their_name_or_unit_are_said(arrays: Arrays, tmp_path: Path) -> None:
    for name, unit in (("mag_{}_vega", "mag"), ("mag_{}", "mag(VEGA)")):
        plain = {"images": arrays["images"], "redshift": arrays["redshift"]}
        columns = {name.format(band): arrays["magnitudes"][:, n] for n, band in enumerate(BANDS)}
        source = _hdf5(tmp_path / f"{unit}.h5", plain, "adu", **columns)
        with h5py.File(source, "r+") as file:
            for column in columns:
                file[column].attrs["unit"] = unit
        _, prepared = made(source, tmp_path / f"out {unit}")
        assert any("names or units say Vega" in note for note in prepared.summary.notes)
