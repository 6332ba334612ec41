"""Stamps of real surveys: what is read, what is refused, with the figures that the surveys give."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cosmicai.data import photometry
from cosmicai.data.places import Folder
from cosmicai.data.prepare import prepare
from cosmicai.data.reading import Columns, Reading
from cosmicai.data.sources import SourceError
from cosmicai.packaging.places import ROOT
from inference.contract.missing import Missing

from .galaxies import made, prepared

SDSS = ROOT / "tests" / "reference" / "real" / "sdss_ugriz_20.npz"
LEGACY = ROOT / "tests" / "reference" / "real" / "legacy_griz_train_50.npz"
GRIZ = tuple("griz")
TO_MODEL = Reading(pixel_scale=0.396, pixel_zero_point=22.5, bands=tuple("ugriz"))


def test_sdss_stamps_become_the_models_by_scale_and_zero_point(tmp_path: Path) -> None:
    written, prepared = made(SDSS, tmp_path, TO_MODEL)
    with np.load(SDSS) as source:
        images, magnitudes = source["images"], source["magnitudes"]
    assert np.array_equal(written["magnitudes"], magnitudes)
    assert written["images"].shape == (20, 5, 32, 32)
    # 32 pixels of 0.2" are the central 16.16 of 0.396": the same light, in units 10**(0.4 * 4.5) times smaller.
    inner, outer = (images[:, :, n:-n, n:-n].sum((2, 3)) * 10**1.8 for n in (16, 15))
    light = written["images"].sum((2, 3))
    assert (light > inner - 0.02 * outer).all()
    assert (light < outer).all()
    assert dict(prepared.summary.facts)["pixels"] == "zero point 22.5, multiplied by 63.0957"
    assert photometry.read(tmp_path) == photometry.Photometry(
        tuple("ugriz"), 27.0, 0.2, "linear flux, AB zero point 27", (27.79, 29.04, 29.06, 28.62, 27.98)
    )


def test_another_zero_point_is_noticed(tmp_path: Path) -> None:
    """The magnitudes say that the pixels are nanomaggies."""
    reading = Reading(pixel_scale=0.396)
    warnings = made(SDSS, tmp_path / "wrong", reading)[1].summary.warnings
    assert any("zero point 22 or so" in text and "not 27" in text for text in warnings), warnings
    right = made(SDSS, tmp_path / "right", TO_MODEL)[1].summary.warnings
    assert not any("zero point" in text or "order" in text for text in right)


def test_sdss_stamps_of_unknown_scale_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"stamps are 48×48, the model takes 32×32.*--pixel-scale ARCSEC"):
        prepare(SDSS, Folder(tmp_path), 25)


def test_legacy_stamps_lack_a_band_of_the_bundled_model(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"images have 4 channels.*takes 5 bands, u, g, r, i, z: at least 1 "):
        prepare(LEGACY, Folder(tmp_path), 25)
    with pytest.raises(
        SourceError, match=r"there is no band u among g, r, i, z; the model takes u, g, r, i, z"
    ):
        prepare(LEGACY, Folder(tmp_path), 25, Reading(bands=GRIZ))


def _griz_config(folder: Path) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps({"channels": 4, "magnitudes": 4, "image_size": 16, "patch_size": 8}))
    return path


def test_legacy_stamps_are_prepared_for_a_network_of_their_bands(tmp_path: Path) -> None:
    reading = Reading(bands=GRIZ, fit="crop", pixel_scale=0.262, pixel_zero_point=22.5)
    outcome = prepare(LEGACY, Folder(tmp_path / "out"), 25, reading, _griz_config(tmp_path))
    written = prepared(tmp_path / "out")
    with np.load(LEGACY) as source:
        assert np.array_equal(written["images"], source["images"][:, :, 3:19, 3:19])
        assert np.array_equal(written["redshift"], source["redshift"])
        assert np.array_equal(written["magnitudes"], source["magnitudes"])
        assert (
            dict(outcome.summary.facts)["identifiers"]
            == f"object_id (text), the first {source['object_id'][0]}"
        )
    assert photometry.read(tmp_path / "out") == photometry.Photometry(GRIZ, 22.5, 0.262, "nanomaggies")
    # The file has 30 where a flux is not positive, which no table of markers knows.
    assert [text.partition(":")[0] for text in outcome.summary.warnings] == [
        "2 galaxies have the same extreme magnitude 30 in g",
        "3 galaxies have the same extreme magnitude 30 in z",
    ]


def test_a_marker_of_the_files_own_is_told(tmp_path: Path) -> None:
    markers = {30.0: Missing.NOT_DETECTED}
    reading = Reading(bands=GRIZ, fit="crop", missing=markers, limits=(24.7, 23.9, 23.4, 23.0))
    outcome = prepare(LEGACY, Folder(tmp_path / "out"), 25, reading, _griz_config(tmp_path))
    written = prepared(tmp_path / "out")["magnitudes"]
    with np.load(LEGACY) as source:
        marked = source["magnitudes"] == 30
    assert np.array_equal(written[marked], np.tile(np.float32((24.7, 23.9, 23.4, 23.0)), (50, 1))[marked])
    assert ("g", "30", "not detected", 2) in outcome.summary.missing
    assert ("z", "30", "not detected", 3) in outcome.summary.missing


def test_legacy_magnitudes_follow_from_its_fluxes(tmp_path: Path) -> None:
    """The file's magnitudes were computed from its fluxes in nanomaggies. 30 stands for a missing flux."""
    reading = Reading(bands=GRIZ, fit="crop", flux_zero_point=22.5, columns=Columns(magnitudes=("flux",)))
    outcome = prepare(LEGACY, Folder(tmp_path / "out"), 25, reading, _griz_config(tmp_path))
    written = prepared(tmp_path / "out")["magnitudes"]
    with np.load(LEGACY) as source:
        flux, magnitudes = source["flux"], source["magnitudes"]
    detected = flux > 0
    assert np.abs(written - magnitudes)[detected].max() < 1e-5
    assert np.isnan(written[~detected]).all()
    assert sum(count for *_, count in outcome.summary.missing) == (~detected).sum() > 0


def test_a_missing_band_is_filled_only_if_asked_for(tmp_path: Path) -> None:
    reading = Reading(bands=GRIZ, fit="resize", filled=("u",))
    written, prepared = made(LEGACY, tmp_path, reading)
    assert (written["images"][:, 0] == 0).all()
    assert (written["magnitudes"][:, 0] == np.float32(27.79)).all()
    with np.load(LEGACY) as source:
        assert np.abs(written["images"][:, 1:].sum((2, 3)) - source["images"].sum((2, 3))).max() < 1e-3
    assert "filled with zeros, as requested: u" in prepared.summary.notes
