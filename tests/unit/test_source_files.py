"""A file for each galaxy, tables of paths, and frames of the sky with a catalogue of positions."""

from __future__ import annotations

import bz2
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from astropy.io import fits
from astropy.nddata import Cutout2D
from astropy.table import Table
from astropy.wcs import WCS
from pyarrow import parquet

from cosmicai.data import photometry
from cosmicai.data.reading import Columns, Reading

from .galaxies import BANDS, Arrays, differing, galaxies, made, refused

COUNT = 11
ORDER = "gzuir"


@pytest.fixture(scope="module")
def arrays() -> Arrays:
    return galaxies(COUNT)


def _names() -> list[str]:
    """Not in the order of the galaxies."""
    return [f"obj_{(7 * row) % COUNT:03d}" for row in range(COUNT)]


def _cubes(folder: Path, arrays: Arrays, with_header: bool = False) -> list[str]:
    folder.mkdir()
    for row, name in enumerate(_names()):
        cube = fits.PrimaryHDU(arrays["images"][row][[BANDS.index(band) for band in ORDER]])
        cube.header["BANDS"] = ORDER
        if with_header:
            cube.header["REDSHIFT"], cube.header["OBJID"] = float(arrays["redshift"][row]), 2**60 + row
            for number, band in enumerate(BANDS):
                cube.header[f"MAG_{band.upper()}"] = float(arrays["magnitudes"][row, number])
        cube.writeto(folder / f"{name}.fits")
    return _names()


def _catalogue(arrays: Arrays, **columns: object) -> Table:
    table = Table({**columns, "z_spec": arrays["redshift"]})
    for number, band in enumerate(BANDS):
        table[f"mag_{band}"] = arrays["magnitudes"][:, number]
    return table


# Cut-outs


def test_a_folder_of_cut_outs_with_all_in_their_headers(arrays: Arrays, tmp_path: Path) -> None:
    names = _cubes(tmp_path / "cut", arrays, with_header=True)
    written, prepared = made(tmp_path / "cut", tmp_path / "out")
    order = np.argsort(names)
    assert not differing(written, {name: array[order] for name, array in arrays.items()})
    assert dict(prepared.summary.facts)["identifiers"] == f"OBJID (int64), the first {2**60}"


def test_cut_outs_are_matched_to_a_catalogue_by_name(arrays: Arrays, tmp_path: Path) -> None:
    names = _cubes(tmp_path / "cut", arrays)
    refused(tmp_path / "cut", "no column for magnitudes")
    _catalogue(arrays, name=names, number=np.arange(COUNT)).write(tmp_path / "cat.fits")
    written, prepared = made(tmp_path / "cut", tmp_path / "out", Reading(catalogue=tmp_path / "cat.fits"))
    assert not differing(written, arrays)
    assert "files are matched by the catalogue's name" in prepared.summary.notes
    (tmp_path / "cut" / f"{names[3]}.fits").unlink()
    reading = Reading(catalogue=tmp_path / "cat.fits")
    refused(tmp_path / "cut", rf"1 of 11 rows have no file in .*, the first is row 3, name {names[3]}", reading)


def test_cut_outs_with_an_hdu_for_each_band(arrays: Arrays, tmp_path: Path) -> None:
    (tmp_path / "cut").mkdir()
    names = _names()
    for row, name in enumerate(names):
        hdus = [fits.ImageHDU(arrays["images"][row, BANDS.index(band)], name=band) for band in ORDER]
        path = tmp_path / "cut" / f"{name}.fits.bz2"
        fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(tmp_path / "plain.fits", overwrite=True)
        path.write_bytes(bz2.compress((tmp_path / "plain.fits").read_bytes()))
    _catalogue(arrays, id=names).write(tmp_path / "cat.csv")
    assert not differing(
        made(tmp_path / "cut", tmp_path / "out", Reading(catalogue=tmp_path / "cat.csv"))[0], arrays
    )


def test_a_cut_out_of_another_size_is_named(arrays: Arrays, tmp_path: Path) -> None:
    names = _cubes(tmp_path / "cut", arrays, with_header=True)
    path = tmp_path / "cut" / f"{names[4]}.fits"
    fits.PrimaryHDU(np.zeros((5, 32, 31), np.float32)).writeto(path, overwrite=True)
    refused(tmp_path / "cut", rf"{names[4]}\.fits: HDU 0 has an image of shape \(5, 32, 31\), .* \(5, 32, 32\)")


def test_a_folder_of_numpy_stamps_with_a_catalogue(arrays: Arrays, tmp_path: Path) -> None:
    (tmp_path / "cut").mkdir()
    for name, image in zip(_names(), arrays["images"], strict=True):
        np.save(tmp_path / "cut" / f"{name}.npy", image)
    _catalogue(arrays, object_id=_names()).write(tmp_path / "cat.fits")
    reading = Reading(catalogue=tmp_path / "cat.fits")
    assert not differing(made(tmp_path / "cut", tmp_path / "out", reading)[0], arrays)


# Tables of paths


@pytest.mark.parametrize("kind", ["csv", "fits", "parquet"])
def test_a_table_of_paths(kind: str, arrays: Arrays, tmp_path: Path) -> None:
    names = _cubes(tmp_path / "cut", arrays)
    table = _catalogue(
        arrays,
        path=[f"cut/{name}.fits" for name in names],
        objectId=np.arange(COUNT) + 2**60,
        ra=np.linspace(0, 1, COUNT),
        dec=np.linspace(-1, 1, COUNT),
    )
    path = tmp_path / f"table.{kind}"
    if kind == "parquet":
        parquet.write_table(pa.table({name: table[name].tolist() for name in table.colnames}), path)
    else:
        table.write(path)
    written, prepared = made(path, tmp_path / "out")
    assert not differing(written, arrays)
    assert dict(prepared.summary.facts)["identifiers"].endswith(f"the first {2**60}")
    (tmp_path / "cut" / f"{names[2]}.fits").unlink()
    refused(path, rf"1 of 11 files are missing, the first in row 2: .*{names[2]}\.fits")


def test_a_table_of_paths_with_a_file_for_each_band(arrays: Arrays, tmp_path: Path) -> None:
    columns = {}
    for number, band in enumerate(BANDS):
        (tmp_path / band).mkdir()
        columns[f"file_{band}"] = [f"{band}/{row}.fits" for row in range(COUNT)]
        for row in range(COUNT):
            fits.PrimaryHDU(arrays["images"][row, number]).writeto(tmp_path / band / f"{row}.fits")
    _catalogue(arrays, **columns).write(tmp_path / "table.csv")
    reading = Reading(Columns(images=tuple(f"file_{band}" for band in ORDER)))
    assert not differing(made(tmp_path / "table.csv", tmp_path / "out", reading)[0], arrays)


def test_two_columns_of_paths_arerefused(arrays: Arrays, tmp_path: Path) -> None:
    _catalogue(arrays, path=["a"] * COUNT, filename=["b"] * COUNT).write(tmp_path / "table.csv")
    refused(tmp_path / "table.csv", r"files could be those of path or filename: give --images NAME")


# Frames


def _world(scale: float, side: int) -> WCS:
    world = WCS(naxis=2)
    world.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    world.wcs.crval, world.wcs.crpix = [150.0, 2.0], [side / 2 + 3, side / 2 - 7]
    world.wcs.cdelt = [-scale / 3600, scale / 3600]
    return world


def _frames(folder: Path, scale: float, side: int = 300) -> tuple[dict[str, np.ndarray], WCS]:
    folder.mkdir()
    world = _world(scale, side)
    images = {}
    for number, band in enumerate(BANDS):
        images[band] = np.random.default_rng(number).normal(0, 1, (side, side)).astype(np.float32)
        hdu = fits.PrimaryHDU(images[band], header=world.to_header())
        hdu.header["FILTER"] = f"{band} DECam c000{number}"
        hdu.writeto(folder / f"frame{9 - number}.fits")
    return images, world


def _positions(world: WCS, side: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    x, y = rng.uniform(20, side - 20, (2, COUNT))
    sky = world.pixel_to_world(x, y)
    return sky.ra.deg, sky.dec.deg


def test_stamps_are_cut_from_frames_by_position(arrays: Arrays, tmp_path: Path) -> None:
    images, world = _frames(tmp_path / "frames", 0.2)
    ra, dec = _positions(world, 300)
    _catalogue(arrays, ra=ra, dec=dec, id=np.arange(COUNT)).write(tmp_path / "cat.fits")
    written, prepared = made(tmp_path / "frames", tmp_path / "out", Reading(catalogue=tmp_path / "cat.fits"))
    sky = world.pixel_to_world(*world.all_world2pix(ra, dec, 0))
    for row in range(COUNT):
        for number, band in enumerate(BANDS):
            expected = Cutout2D(images[band], sky[row], 32, wcs=world, mode="partial", fill_value=np.nan).data
            assert np.array_equal(written["images"][row, number], expected, equal_nan=True)
    assert np.array_equal(written["magnitudes"], arrays["magnitudes"])
    assert any("u DECam c0000 from frame9.fits HDU 0" in note for note in prepared.summary.notes)
    assert photometry.read(tmp_path / "out").pixel_scale == pytest.approx(0.2)


def test_frames_of_another_scale_are_resampled_around_the_galaxy(arrays: Arrays, tmp_path: Path) -> None:
    """A galaxy of 30 arcsec from the edge keeps its flux and place."""
    (tmp_path / "frames").mkdir()
    world = _world(0.4, 200)
    x, y = 100.0, 90.0
    grid_y, grid_x = np.mgrid[:200, :200]
    blob = np.exp(-((grid_x - x) ** 2 + (grid_y - y) ** 2) / (2 * 1.5**2)).astype(np.float32)
    for band in BANDS:
        hdu = fits.PrimaryHDU(blob, header=world.to_header())
        hdu.header["BAND"] = band
        hdu.writeto(tmp_path / "frames" / f"{band}.fits")
    sky = world.pixel_to_world(x, y)
    one = {name: array[:1] for name, array in arrays.items()}
    _catalogue(one, ra=[sky.ra.deg], dec=[sky.dec.deg]).write(tmp_path / "cat.csv")
    written, _ = made(tmp_path / "frames", tmp_path / "out", Reading(catalogue=tmp_path / "cat.csv"))
    stamp = written["images"][0, 0].astype(np.float64)
    assert stamp.sum() == pytest.approx(blob.sum(), rel=1e-3)
    centre = (np.mgrid[:32, :32] * stamp).sum((1, 2)) / stamp.sum()
    assert np.abs(centre - 16).max() < 1.01  # the frame's nearest pixel: half of one of 0.4", one of 0.2"


def test_positions_beyond_a_frame_are_bad_pixels(arrays: Arrays, tmp_path: Path) -> None:
    _, world = _frames(tmp_path / "frames", 0.2)
    ra, dec = _positions(world, 300)
    edge = world.pixel_to_world(3, 150)
    ra[1], dec[1], dec[2] = edge.ra.deg, edge.dec.deg, 60.0
    _catalogue(arrays, ra=ra, dec=dec).write(tmp_path / "cat.fits")
    written, prepared = made(tmp_path / "frames", tmp_path / "out", Reading(catalogue=tmp_path / "cat.fits"))
    bad = np.isnan(written["images"]).any(1).sum((1, 2))
    assert bad[2] == 32 * 32
    assert 0 < bad[1] < 32 * 32
    assert ("bad pixels", "in 2 galaxies, the first in row 1, left as NaN") in prepared.summary.facts


def test_frames_as_hdus_of_one_file_with_masks_beside(arrays: Arrays, tmp_path: Path) -> None:
    images, world = _frames(tmp_path / "frames", 0.2)
    ra, dec = _positions(world, 300)
    _catalogue(arrays, RAJ2000=ra, DEJ2000=dec).write(tmp_path / "cat.fits")
    header = world.to_header()
    hdus = [
        fits.CompImageHDU(images[band], header, name=band, quantize_level=0, compression_type="GZIP_1")
        for band in ORDER
    ]
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(tmp_path / "a.fits")
    reading = Reading(catalogue=tmp_path / "cat.fits")
    one, _ = made(tmp_path / "a.fits", tmp_path / "one", reading)
    many, _ = made(tmp_path / "frames", tmp_path / "many", reading)
    assert not differing(one, many)
    masks = [fits.ImageHDU(np.zeros((300, 300), np.uint8), header, name=f"MASK_{band}") for band in ORDER]
    fits.HDUList([fits.PrimaryHDU(), *hdus, *masks]).writeto(tmp_path / "b.fits")
    named = Reading(Columns(images=tuple(BANDS)), catalogue=tmp_path / "cat.fits")
    assert not differing(made(tmp_path / "b.fits", tmp_path / "named", named)[0], many)


def test_what_frames_lack_is_named(arrays: Arrays, tmp_path: Path) -> None:
    _, world = _frames(tmp_path / "frames", 0.2)
    ra, dec = _positions(world, 300)
    _catalogue(arrays, ra=ra, dec=dec).write(tmp_path / "cat.fits")
    reading = Reading(catalogue=tmp_path / "cat.fits")
    (tmp_path / "frames" / "frame7.fits").unlink()
    refused(tmp_path / "frames", r"there is no band r among", reading)
    table = _catalogue(arrays, ra=[f"{value:.3f} deg" for value in ra], dec=dec)
    table.write(tmp_path / "text.csv")
    fits.PrimaryHDU(np.zeros((9, 9)), world.to_header()).writeto(tmp_path / "frames" / "r.fits")
    refused(
        tmp_path / "frames",
        r"ra and dec, rows from 0 on: .*give degrees",
        Reading(catalogue=tmp_path / "text.csv"),
    )


def test_units_of_a_frame_are_those_of_its_header(arrays: Arrays, tmp_path: Path) -> None:
    """Each band has its own zero point, and all get the model's."""
    _, world = _frames(tmp_path / "frames", 0.2)
    ra, dec = _positions(world, 300)
    _catalogue(arrays, ra=ra, dec=dec).write(tmp_path / "cat.fits")
    reading = Reading(catalogue=tmp_path / "cat.fits")
    plain, _ = made(tmp_path / "frames", tmp_path / "plain", reading)
    for number in range(5):
        with fits.open(tmp_path / "frames" / f"frame{9 - number}.fits", mode="update") as hdus:
            hdus[0].header["MAGZERO"] = 27.0 + number
    scaled, prepared = made(tmp_path / "frames", tmp_path / "scaled", reading)
    factor = 10 ** (-0.4 * np.arange(5))[:, None, None]
    assert np.allclose(scaled["images"], plain["images"] * factor, rtol=1e-6)
    assert dict(prepared.summary.facts)["pixels"].startswith("zero point 27, 28, 29, 30, 31, multiplied by")
