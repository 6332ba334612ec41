"""FITS as astropy writes it: scaling, missing values, compression, bands by name, several images."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from cosmicai.data.places import Folder
from cosmicai.data.prepare import prepare
from cosmicai.data.reading import Columns, Reading
from cosmicai.data.sources import SourceError

from .galaxies import BANDS, Arrays, differing, galaxies, made

COUNT = 12
ORDER = "gzuir"  # of the HDUs in a file


@pytest.fixture(scope="module")
def arrays() -> Arrays:
    return galaxies(COUNT)


def _table(arrays: Arrays, *more: fits.Column, name: str = "CAT") -> fits.BinTableHDU:
    columns = [fits.Column(b, "E", array=arrays["magnitudes"][:, n]) for n, b in enumerate(BANDS)]
    columns.append(fits.Column("Z_SPEC", "E", array=arrays["redshift"]))
    return fits.BinTableHDU.from_columns([*columns, *more], name=name)


def _bands(images: np.ndarray, name: Callable[[str], str] = str.upper) -> list[fits.ImageHDU]:
    """An HDU for each band, not in the model's order."""
    return [fits.ImageHDU(images[:, BANDS.index(band)], name=name(band)) for band in ORDER]


def _write(path: Path, *hdus: object) -> Path:
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(path)
    return path


def _refused(path: Path, match: str, reading: Reading = Reading(), out: str = "out") -> None:  # noqa: B008
    with pytest.raises(SourceError, match=match):
        prepare(path, Folder(path.parent / out), 1, reading)


def test_bands_are_put_in_order_by_extname(arrays: Arrays, tmp_path: Path) -> None:
    source = _write(tmp_path / "a.fits", *_bands(arrays["images"]), _table(arrays))
    written, prepared = made(source, tmp_path / "out")
    assert not differing(written, arrays)
    assert dict(prepared.summary.facts)["bands"] == "u, g, r, i, z (in the file: G, Z, U, I, R)"


@pytest.mark.parametrize("key", ["FILTER", "BAND"])
def test_bands_are_put_in_order_by_keywords_as_surveys_write_them(
    key: str, arrays: Arrays, tmp_path: Path
) -> None:
    bands = [fits.ImageHDU(arrays["images"][:, BANDS.index(band)]) for band in ORDER]
    for band, hdu in zip(ORDER, bands, strict=True):
        hdu.header[key] = {"g": "g DECam SDSS c0001 4720.0 1520.0", "i": "HSC-I"}.get(band, f"sdss_{band}")
    source = _write(tmp_path / "a.fits", *bands, _table(arrays))
    assert not differing(made(source, tmp_path / "out")[0], arrays)


def test_bands_of_a_cube_are_named_as_cut_out_services_do(arrays: Arrays, tmp_path: Path) -> None:
    cube = fits.ImageHDU(arrays["images"][:, [BANDS.index(band) for band in ORDER]])
    cube.header["BANDS"] = ORDER
    for number, band in enumerate(ORDER):
        cube.header[f"BAND{number}"] = band
    assert not differing(made(_write(tmp_path / "a.fits", cube, _table(arrays)), tmp_path / "out")[0], arrays)


@pytest.mark.parametrize("plane", ["INVVAR", "IVAR", "MASK", "WEIGHT", "PSF", "DQ"])
def test_several_images_are_refused_and_listed_until_they_are_named(
    plane: str, arrays: Arrays, tmp_path: Path
) -> None:
    images = arrays["images"]
    other = fits.ImageHDU(np.ones_like(images), name=plane)
    source = _write(tmp_path / "a.fits", fits.ImageHDU(images, name="SCI"), other, _table(arrays))
    listed = rf"HDU 1 \(SCI\) \(12, 5, 32, 32\), HDU 2 \({plane}\) \(12, 5, 32, 32\)\. Give --images NAME"
    _refused(source, listed)
    assert not differing(made(source, tmp_path / "named", Reading(Columns(("SCI",))))[0], arrays)
    bands = [*_bands(images), fits.ImageHDU(np.ones_like(images[:, 0]), name=plane)]
    _refused(_write(tmp_path / "b.fits", *bands, _table(arrays)), rf"HDU 6 \({plane}\) \(12, 32, 32\)")
    named = Reading(Columns(tuple(BANDS)))
    assert not differing(made(tmp_path / "b.fits", tmp_path / "bands", named)[0], arrays)


def test_planes_of_one_band_each_are_told_apart_by_a_pattern(arrays: Arrays, tmp_path: Path) -> None:
    images = arrays["images"].copy()
    images[3, 2, 4, 5] = 1e9
    ivar = np.ones_like(images)
    ivar[3, 2, 4, 5] = 0
    hdus = [*_bands(images, lambda b: f"SCI_{b}"), *_bands(ivar, lambda b: f"IVAR_{b}"), _table(arrays)]
    source = _write(tmp_path / "a.fits", *hdus)
    _refused(source, r"band u occurs 2 times: SCI_U, IVAR_U.*--images")
    named = Reading(Columns(images=("sci_*",), ivar=("ivar_*",)), bad_pixels="zero")
    written, prepared = made(source, tmp_path / "out", named)
    images[3, 2, 4, 5] = 0
    assert not differing(written, {**arrays, "images": images})
    assert ("bad pixels", "in 1 galaxies, the first in row 3, set to 0") in prepared.summary.facts


def test_a_mask_for_all_bands_marks_pixels_as_bad(arrays: Arrays, tmp_path: Path) -> None:
    mask = np.zeros((COUNT, 32, 32), np.uint8)
    mask[7, 30, 31] = 4
    hdus = [fits.ImageHDU(arrays["images"], name="SCI"), fits.ImageHDU(mask, name="MASK"), _table(arrays)]
    reading = Reading(Columns(images=("SCI",), mask=("MASK",)))
    written, _ = made(_write(tmp_path / "a.fits", *hdus), tmp_path / "out", reading)
    expected = arrays["images"].copy()
    expected[7, :, 30, 31] = np.nan
    assert not differing(written, {**arrays, "images": expected})


def test_a_set_of_bands_that_lacks_one_or_cannot_be_named_is_refused(arrays: Arrays, tmp_path: Path) -> None:
    four = [hdu for hdu in _bands(arrays["images"]) if hdu.name != "I"]
    _refused(
        _write(tmp_path / "four.fits", *four, _table(arrays)), r"no band i among G, Z, U, R; the model takes"
    )
    unnamed = [fits.ImageHDU(hdu.data) for hdu in _bands(arrays["images"])]
    source = _write(tmp_path / "unnamed.fits", *unnamed, _table(arrays))
    _refused(source, r"several images: HDU 1 \(12, 32, 32\), HDU 2 \(12, 32, 32\)")
    assert not differing(made(source, tmp_path / "named", Reading(bands=tuple(ORDER)))[0], arrays)


def test_a_table_with_the_wanted_column_twice_is_refused(arrays: Arrays, tmp_path: Path) -> None:
    other = fits.BinTableHDU.from_columns(
        [fits.Column("Z_SPEC", "E", array=arrays["redshift"] + 1)], name="SPEC"
    )
    source = _write(tmp_path / "a.fits", fits.ImageHDU(arrays["images"]), _table(arrays), other)
    _refused(source, r"redshift could be CAT\.Z_SPEC \(12,\) or SPEC\.Z_SPEC \(12,\): give --redshift")
    _refused(source, r"Z_SPEC could be CAT.*whole name", Reading(Columns(redshift="Z_SPEC")))
    assert not differing(made(source, tmp_path / "out", Reading(Columns(redshift="CAT.Z_SPEC")))[0], arrays)


def _counts(images: np.ndarray) -> np.ndarray:
    return np.round(images * 1000).clip(-30000, 30000)


def _blank(hdu: fits.ImageHDU | fits.CompImageHDU, value: int) -> object:
    hdu.header["BLANK"] = value
    return hdu


INTEGERS = {
    "int16": lambda counts: fits.ImageHDU(counts.astype(np.int16)),
    "uint16": lambda counts: fits.ImageHDU((counts + 30000).astype(np.uint16)),
    "compressed": lambda counts: fits.CompImageHDU(counts.astype(np.int16), tile_shape=(1, 1, 32, 32)),
    "compressed uint16": lambda counts: fits.CompImageHDU((counts + 30000).astype(np.uint16)),
    "gzip tiles": lambda counts: fits.CompImageHDU(counts.astype(np.int32), compression_type="GZIP_2"),
    "BLANK": lambda counts: _blank(fits.ImageHDU(counts.astype(np.int16)), int(counts[5, 1, 2, 3])),
    "compressed BLANK": lambda counts: _blank(
        fits.CompImageHDU(counts.astype(np.int16)), int(counts[5, 1, 2, 3])
    ),
    "float64": lambda counts: fits.ImageHDU(counts.astype(">f8")),
    "lossless float": lambda counts: fits.CompImageHDU(
        counts.astype(np.float32), compression_type="GZIP_1", quantize_level=0
    ),
}


@pytest.mark.parametrize("kind", INTEGERS)
def test_stored_numbers_of_every_kind_have_their_value(kind: str, arrays: Arrays, tmp_path: Path) -> None:
    counts = _counts(arrays["images"])
    source = _write(tmp_path / "a.fits", INTEGERS[kind](counts), _table(arrays))
    with fits.open(source, do_not_scale_image_data=True) as hdus:
        assert ("BZERO" in hdus[1].header) == ("uint16" in kind)
    written, _ = made(source, tmp_path / "out")
    expected = counts + (30000 if "uint16" in kind else 0)
    if "BLANK" in kind:
        expected[counts == counts[5, 1, 2, 3]] = np.nan
    assert np.array_equal(written["images"], expected.astype(np.float32), equal_nan=True)


def test_bscale_and_bzero_scale(arrays: Arrays, tmp_path: Path) -> None:
    counts = _counts(arrays["images"]).astype(np.int16)
    hdu = fits.ImageHDU(counts)
    source = _write(tmp_path / "a.fits", hdu, _table(arrays))
    with fits.open(source, mode="update", do_not_scale_image_data=True) as hdus:
        hdus[1].header["BSCALE"], hdus[1].header["BZERO"] = 0.001, 5.0
    with fits.open(source) as hdus:
        by_astropy = hdus[1].data
    written, _ = made(source, tmp_path / "out")
    assert np.abs(written["images"] - by_astropy).max() < 2e-5
    assert np.array_equal(written["images"], (counts * 0.001 + 5.0).astype(np.float32))


@pytest.mark.parametrize("name", ["a.fits.gz", "a.fits.fz", "a.fit", "a.data"])
def test_the_kind_is_told_by_the_content(name: str, arrays: Arrays, tmp_path: Path) -> None:
    plain = _write(
        tmp_path / "plain.fits",
        fits.CompImageHDU(arrays["images"], quantize_level=0, compression_type="GZIP_1"),
        _table(arrays),
    )
    if name.endswith(".gz"):
        with plain.open("rb") as source, gzip.open(tmp_path / name, "wb") as target:
            shutil.copyfileobj(source, target)
    else:
        plain.rename(tmp_path / name)
    assert not differing(made(tmp_path / name, tmp_path / "out")[0], arrays)


def _scaled_table(path: Path, arrays: Arrays) -> np.ndarray:
    """u as integers in TSCAL and TZERO with TNULL in row 2, written into the header by hand; the u expected."""
    stored = np.round((arrays["magnitudes"][:, 0] - 20) * 1000).astype(np.int16)
    stored[2] = -32768
    table = _table({**arrays})
    columns = [fits.Column("u", "I", array=stored), *[c for c in table.columns if c.name != "u"]]
    _write(path, fits.ImageHDU(arrays["images"]), fits.BinTableHDU.from_columns(columns))
    with fits.open(path) as hdus:
        header, place = hdus[2].header.copy(), hdus[2].fileinfo()
    header["TSCAL1"], header["TZERO1"], header["TNULL1"] = 0.001, 20.0, -32768
    text = header.tostring().encode("ascii")
    assert len(text) == place["datLoc"] - place["hdrLoc"]
    with path.open("r+b") as file:
        file.seek(place["hdrLoc"])
        file.write(text)
    expected = stored * 0.001 + 20
    expected[2] = np.nan
    return expected


def test_tscal_tzero_and_tnull_of_a_table(arrays: Arrays, tmp_path: Path) -> None:
    expected = _scaled_table(tmp_path / "a.fits", arrays)
    written, prepared = made(tmp_path / "a.fits", tmp_path / "out")
    assert np.allclose(written["magnitudes"][:, 0], expected, atol=1e-5, equal_nan=True)
    assert prepared.summary.missing == (("u", "masked or blank", "not observed", 1),)
    reading = Reading(missing={np.nan: _not_detected()})
    written, _ = made(tmp_path / "a.fits", tmp_path / "limit", reading)
    assert written["magnitudes"][2, 0] == np.float32(27.79)


def _not_detected() -> object:
    from inference.contract.missing import Missing

    return Missing.NOT_DETECTED


def test_integer_redshifts_with_tnull_and_text_numbers(arrays: Arrays, tmp_path: Path) -> None:
    table = _table(arrays)
    text = [f"{value:.4f}" for value in arrays["redshift"]]
    text[4], text[5] = "", "null"
    columns = [c for c in table.columns if c.name != "Z_SPEC"] + [fits.Column("z_spec", "12A", array=text)]
    source = _write(
        tmp_path / "a.fits", fits.ImageHDU(arrays["images"]), fits.BinTableHDU.from_columns(columns)
    )
    written, prepared = made(source, tmp_path / "out")
    expected = np.round(arrays["redshift"].astype(np.float64), 4).astype(np.float32)
    expected[4:6] = np.nan
    assert np.allclose(written["redshift"], expected, atol=1e-6, equal_nan=True)
    assert ("z_spec", "not finite or masked", "unknown", 2) in prepared.summary.missing
    columns[-1] = fits.Column("z_spec", "12A", array=["0.5"] * 8 + ["about 1"] + ["0.5"] * 3)
    source = _write(
        tmp_path / "b.fits", fits.ImageHDU(arrays["images"]), fits.BinTableHDU.from_columns(columns)
    )
    _refused(
        source, r"b\.fits: z_spec, rows from 0 on: holds 'about 1' in row 8, which is not a number", out="b"
    )


def test_ascii_tables_are_read(arrays: Arrays, tmp_path: Path) -> None:
    columns = [
        fits.Column(b, "F12.6", ascii=True, array=arrays["magnitudes"][:, n]) for n, b in enumerate(BANDS)
    ]
    columns.append(fits.Column("redshift", "F12.8", ascii=True, array=arrays["redshift"]))
    source = _write(tmp_path / "a.fits", fits.ImageHDU(arrays["images"]), fits.TableHDU.from_columns(columns))
    written, _ = made(source, tmp_path / "out")
    assert np.abs(written["magnitudes"] - arrays["magnitudes"]).max() < 2e-6
    assert np.abs(written["redshift"] - arrays["redshift"]).max() < 1e-7


def test_values_with_errors_are_named(arrays: Arrays, tmp_path: Path) -> None:
    pairs = np.stack([arrays["redshift"], np.full(COUNT, 0.01)], 1)
    table = [c for c in _table(arrays).columns if c.name != "Z_SPEC"]
    hdu = fits.BinTableHDU.from_columns([*table, fits.Column("Z_SPEC", "2E", array=pairs)])
    source = _write(tmp_path / "a.fits", fits.ImageHDU(arrays["images"]), hdu)
    _refused(
        source,
        r"Z_SPEC \(12, 2\) has 2 values per galaxy, perhaps with its error: give --redshift 'Z_SPEC\[0\]'",
    )
    assert not differing(made(source, tmp_path / "out", Reading(Columns(redshift="Z_SPEC[0]")))[0], arrays)


def test_the_header_gives_scale_and_unit(arrays: Arrays, tmp_path: Path) -> None:
    cube = fits.ImageHDU(arrays["images"])
    cube.header.update({"BUNIT": "nanomaggy", "PIXSCALE": 0.2})
    written, prepared = made(_write(tmp_path / "a.fits", cube, _table(arrays)), tmp_path / "out")
    assert np.allclose(written["images"], arrays["images"] * 10 ** (0.4 * 4.5), rtol=1e-5)
    assert dict(prepared.summary.facts)["pixels"].startswith("zero point 22.5, multiplied by 63.09")
    world = {
        "CTYPE1": "RA---TAN",
        "CTYPE2": "DEC--TAN",
        "CRVAL1": 10.0,
        "CRVAL2": 0.0,
        "CRPIX1": 16.5,
        "CRPIX2": 16.5,
    }
    cube.header.update({**world, "CD1_1": -0.1 / 3600, "CD1_2": 0.0, "CD2_1": 0.0, "CD2_2": 0.1 / 3600})
    del cube.header["PIXSCALE"]
    source = _write(tmp_path / "b.fits", cube, _table(arrays))
    _refused(source, r'stamps are 32×32 pixels of 0\.1", which cover 16 pixels of the model')


def test_columns_of_variable_length_are_named(arrays: Arrays, tmp_path: Path) -> None:
    images = np.empty(COUNT, object)
    images[:] = [image.ravel() for image in arrays["images"]]
    table = _table(arrays, fits.Column("image", "PE()", array=images))
    source = _write(tmp_path / "a.fits", table)
    _refused(source, r"no column holds images")
    from cosmicai.data import layout
    from cosmicai.data.sources import opened_source

    with opened_source(source, Reading(), layout.read(layout.BUNDLED)) as opened:
        assert any("column image has arrays of variable length" in note for note in opened.notes)


def test_faults_name_the_file(arrays: Arrays, tmp_path: Path) -> None:
    flat = _write(tmp_path / "flat.fits", fits.ImageHDU(np.zeros((32, 32)), name="SKY"))
    _refused(flat, r"flat\.fits: no column holds images.*HDU 1 \(SKY\) has 2 axes")
    (tmp_path / "header.fits").write_bytes(b"SIMPLE  = nonsense" + b" " * 3000)
    _refused(tmp_path / "header.fits", r"header\.fits: cannot be read")


def test_object_identifiers_beyond_a_float_are_exact(arrays: Arrays, tmp_path: Path) -> None:
    ids = np.arange(COUNT, dtype=np.int64) + 2**53 + 1
    table = _table(arrays, fits.Column("TARGETID", "K", array=ids))
    source = _write(tmp_path / "a.fits", fits.ImageHDU(arrays["images"]), table)
    prepared = made(source, tmp_path / "out")[1]
    assert dict(prepared.summary.facts)["identifiers"] == f"TARGETID (int64), the first {2**53 + 1}"
