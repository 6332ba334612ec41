"""Files of surveys through `data prepare` and `infer`, as a user calls them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from cosmicai.data import dc2
from cosmicai.packaging.places import ROOT
from tests.conftest import CACHE

from .galaxies import BANDS, Arrays

_COSMICAI = str(Path(sys.executable).with_name("cosmicai"))
SDSS = ROOT / "tests" / "reference" / "real" / "sdss_ugriz_20.npz"
LEGACY = ROOT / "tests" / "reference" / "real" / "legacy_griz_train_50.npz"
COUNT = 60
ZERO = 0.02  # flux of one count


def _cosmicai(*words: object, status: int = 0) -> str:
    """What a call prints, on one line."""
    process = subprocess.run(
        [_COSMICAI, *map(str, words)],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "200", "NO_COLOR": "1"},
    )
    assert process.returncode == status, process.stdout + process.stderr
    return " ".join((process.stdout + process.stderr).split())


def _predictions(folder: Path) -> Arrays:
    with np.load(folder / "predictions" / "0.npz") as predictions:
        return dict(predictions)


@pytest.fixture(scope="module")
def survey() -> Arrays:
    """DC2 galaxies whose pixels are whole numbers of counts, and which are not detected here and there."""
    rows = dc2.load("validation", CACHE)[:COUNT]
    counts = np.round(np.concatenate(list(dc2.render(rows, 0))) / ZERO).clip(-20000, 40000)
    observed = dc2.observed(rows, 0)
    magnitudes = observed.magnitudes.copy()
    magnitudes[[3, 17, 40], [0, 0, 4]] = [dc2.LIMITING_MAGNITUDE[band] for band in "uuz"]
    images = (counts.astype(np.float64) * ZERO).astype(np.float32)
    return {"counts": counts, "images": images, "magnitudes": magnitudes, "redshift": observed.redshift}


def _survey_file(path: Path, survey: Arrays) -> None:
    """uint16 with BZERO in bands out of order, IVAR and MASK beside them, a table u to z with 99 and TNULL."""
    hdus: list[object] = [fits.PrimaryHDU()]
    for band in "zgiur":
        hdu = fits.ImageHDU((survey["counts"][:, BANDS.index(band)] + 20000).astype(np.uint16))
        hdu.header["EXTNAME"], hdu.header["FILTER"] = f"SCI_{band.upper()}", f"{band} sloan"
        hdus.append(hdu)
    shape = survey["images"][:, 0].shape
    hdus += [
        fits.ImageHDU(np.ones(shape, np.float32), name="IVAR"),
        fits.ImageHDU(np.zeros(shape, np.uint8), name="MASK"),
    ]
    magnitudes = survey["magnitudes"].copy()
    magnitudes[[3, 17, 40], [0, 0, 4]] = [99.0, 99.0, np.inf]
    columns = [fits.Column("TARGETID", "K", array=np.arange(COUNT) + 2**60)]
    columns += [fits.Column(band, "E", array=magnitudes[:, n]) for n, band in enumerate(BANDS)]
    thousandths = np.round(survey["redshift"] * 1000).astype(np.int32)
    thousandths[5] = -999
    columns.append(fits.Column("Z_SPEC", "J", null=-999, array=thousandths))
    hdus.append(fits.BinTableHDU.from_columns(columns, name="CATALOG"))
    fits.HDUList(hdus).writeto(path)
    _scale(path, "SCI", {"BSCALE": ZERO, "BZERO": (32768 - 20000) * ZERO})
    _scale(path, "CATALOG", {"TSCAL7": 0.001, "TZERO7": 0.0})


def _scale(path: Path, name: str, keywords: dict[str, float]) -> None:
    """Writes scaling keywords into headers, as a survey's pipeline does; the stored numbers stay."""
    with fits.open(path, mode="update", do_not_scale_image_data=True) as hdus:
        for hdu in hdus:
            if hdu.name.startswith(name):
                hdu.header.update(keywords)


def test_a_survey_like_file_gives_the_redshifts_of_the_plain_arrays(survey: Arrays, tmp_path: Path) -> None:
    plain = {name: survey[name] for name in ("images", "magnitudes", "redshift")}
    np.savez(tmp_path / "plain.npz", **plain)
    _survey_file(tmp_path / "survey.fits", survey)
    refusal = _cosmicai("data", "prepare", tmp_path / "survey.fits", "--out", tmp_path / "no", status=1)
    assert "it has several images" in refusal
    assert "HDU 6 (IVAR) (60, 32, 32)" in refusal
    output = _cosmicai(
        *("data", "prepare", tmp_path / "survey.fits", "--out", tmp_path / "survey"),
        *("--images", "SCI_*", "--mask", "MASK", "--ivar", "IVAR", "--pixel-scale", "0.2"),
    )
    for words in ("u, g, r, i, z (in the file: z sloan, g sloan", f"TARGETID (int64), the first {2**60}"):
        assert words in output
    for row in (
        "u │ 99 │ not detected │ 2",
        "z │ inf │ not detected │ 1",
        "Z_SPEC │ not finite or masked │ unknown │ 1",
    ):
        assert row in output, output
    _cosmicai("data", "prepare", tmp_path / "plain.npz", "--out", tmp_path / "plain")
    redshifts = {}
    for name in ("plain", "survey"):
        _cosmicai("infer", tmp_path / name, "--out", tmp_path / f"{name}-out")
        predictions = _predictions(tmp_path / f"{name}-out")
        assert predictions["index"].tolist() == list(range(COUNT))
        redshifts[name] = predictions["z_pred"]
    assert np.abs(redshifts["survey"] - redshifts["plain"]).max() < 1e-6
    assert np.std(redshifts["plain"]) > 0.1
    assert predictions["id"].dtype == np.int64
    assert np.array_equal(predictions["id"], np.arange(COUNT) + 2**60)
    assert np.flatnonzero(np.isnan(predictions["z_true"])).tolist() == [5]


def test_sdss_stamps_prepare_and_infer(tmp_path: Path) -> None:
    output = _cosmicai(
        *("data", "prepare", SDSS, "--out", tmp_path / "sdss", "--bands", "u,g,r,i,z"),
        *("--pixel-scale", "0.396", "--pixel-unit", "nanomaggies"),
    )
    assert "1 partition of 20 galaxies in" in output
    assert "outside those of the model's training" in output
    assert (tmp_path / "sdss" / "stamps.png").read_bytes().startswith(b"\x89PNG")
    _cosmicai("infer", tmp_path / "sdss", "--out", tmp_path / "out")
    predictions = _predictions(tmp_path / "out")
    assert predictions["index"].tolist() == list(range(20))
    assert predictions["z_pred"].shape == (20,)
    assert np.isfinite(predictions["z_pred"]).all()
    with np.load(SDSS) as source:
        assert np.array_equal(predictions["id"], source["object_id"])


def test_legacy_stamps_are_refused_for_the_bundled_model(tmp_path: Path) -> None:
    words = ("data", "prepare", LEGACY, "--out", tmp_path / "out", "--bands", "g,r,i,z")
    assert "there is no band u among g, r, i, z; the model takes u, g, r, i, z" in _cosmicai(*words, status=1)
    assert "images have 4 channels" in _cosmicai(*words[:-2], status=1)
    assert not list((tmp_path / "out").glob("*.pt"))


SMALL = {
    **{"image_size": 16, "channels": 4, "magnitudes": 4, "width": 32, "depth": 1, "heads": 4, "mlp_width": 32},
    **{"parallel_width": 32, "parallel_groups": 8, "head_width": 32, "stem_width": 8},
    **{name: {"widths": [32, 32], "activation": "relu"} for name in ("encoder_branch", "inception_branch")},
    "magnitude_branch": {"widths": [32, 32], "activation": "relu"},
    "fusion": {"widths": [32, 1], "activation": "relu"},
}


def test_legacy_stamps_train_a_network_of_their_bands(tmp_path: Path) -> None:
    """40 galaxies train it, 10 others get redshifts; its card says what it takes."""
    with np.load(LEGACY) as source:
        for name, rows in (("train", slice(0, 40)), ("test", slice(40, 50))):
            np.savez(tmp_path / f"{name}.npz", **{key: source[key][rows] for key in source.files})
    config, model = tmp_path / "config.json", tmp_path / "model"
    config.write_text(json.dumps(SMALL))
    stated = ("--bands", "g,r,i,z", "--pixel-scale", "0.262", "--pixel-unit", "nanomaggies")
    words = ("data", "prepare", tmp_path / "train.npz", "--out", tmp_path / "train")
    _cosmicai(*words, "--model", config, "--fit", "crop", *stated)
    _cosmicai("model", "train", tmp_path / "train", "--out", model, "--config", config, "--epochs", "2")
    words = ("data", "prepare", tmp_path / "test.npz", "--out", tmp_path / "test", "--model", model)
    assert 'model: g, r, i, z at 16×16 pixels of 0.262"' in _cosmicai(*words, *stated)
    _cosmicai("infer", tmp_path / "test", "--model", model, "--out", tmp_path / "out")
    predictions = _predictions(tmp_path / "out")
    redshifts = predictions["z_pred"]
    assert predictions["index"].tolist() == list(range(10))
    assert redshifts.shape == (10,)
    assert np.isfinite(redshifts).all()
    _cosmicai("catalogue", tmp_path / "out", "--format", "fits")
    with np.load(tmp_path / "test.npz") as test, fits.open(tmp_path / "out" / "catalogue.fits") as hdus:
        assert np.array_equal(predictions["z_true"], test["redshift"])
        assert list(hdus[1].data["id"]) == list(test["object_id"])
        for name in ("ra", "dec"):
            assert np.array_equal(hdus[1].data[name], test[name])
        for name, column in (("id", "object_id"), ("ra", "ra"), ("dec", "dec")):
            assert np.array_equal(predictions[name], test[column])
        assert np.array_equal(hdus[1].data["z_pred"], redshifts)


def test_inspect_shows_a_file_that_prepare_would_refuse(tmp_path: Path) -> None:
    output = _cosmicai("data", "inspect", LEGACY, status=1)
    assert "images │ (50, 4, 23, 23) │ float32" in output.replace(" ", " ")
    assert "`data prepare` refuses it" in output
    output = _cosmicai("data", "inspect", SDSS, "--pixel-scale", "0.396", "--sheet", tmp_path / "sheet.png")
    assert "the images look like fluxes of zero point 22 or so, not 27" in output
    assert (tmp_path / "sheet.png").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--pixel-unit", "furlongs"), "furlongs: give one of maggies, nanomaggies"),
        (("--flux-unit", "nJy", "--zero-point", "31.4"), "and --zero-point exclude each other; give one"),
        (("--missing", "99=gone"), "VALUE=not-detected or VALUE=not-observed"),
        (("--flux-unit", "nanomaggies"), "look like magnitudes"),
    ],
)
def test_options_that_make_no_sense_are_refused(words: tuple[str, ...], message: str, tmp_path: Path) -> None:
    call = ("data", "prepare", SDSS, "--out", tmp_path / "out", "--pixel-scale", "0.396")
    process = subprocess.run(
        [_COSMICAI, *map(str, call), *words],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "300"},
    )
    assert process.returncode != 0
    assert message in " ".join((process.stdout + process.stderr).replace("│", " ").split())
