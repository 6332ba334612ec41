"""What looks wrong is said: other bands, another zero point, saturation, zeros. On rendered DC2 galaxies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cosmicai.data import dc2
from cosmicai.data.inspect import describe, look
from cosmicai.data.reading import Reading
from tests.conftest import CACHE

from .galaxies import BANDS, Arrays


@pytest.fixture(scope="module")
def rendered() -> Arrays:
    """DC2 galaxies as the bundled model takes them."""
    rows = dc2.load("validation", CACHE)[:120]
    images = np.concatenate(list(dc2.render(rows, 0)))
    observed = dc2.observed(rows, 0)
    return {"images": images, "magnitudes": observed.magnitudes, "redshift": observed.redshift}


def _warnings(path: Path, arrays: Arrays, reading: Reading = Reading()) -> list[str]:  # noqa: B008
    np.savez(path / "a.npz", **arrays)
    return list(look(path / "a.npz", reading).warnings)


def test_what_is_right_is_not_warned_of(rendered: Arrays, tmp_path: Path) -> None:
    assert _warnings(tmp_path, rendered) == []


@pytest.mark.parametrize("order", ["zirgu", "griuz"])
def test_bands_in_another_order(order: str, rendered: Arrays, tmp_path: Path) -> None:
    places = [BANDS.index(band) for band in order]
    warnings = _warnings(tmp_path, {**rendered, "images": rendered["images"][:, places]})
    assert any(f"u, g, r, i, z hold {', '.join(order)}: give --bands" in text for text in warnings), warnings


@pytest.mark.parametrize("zero_point", [22.5, 25.0, 30.0, 31.4])
def test_another_zero_point(zero_point: float, rendered: Arrays, tmp_path: Path) -> None:
    images = rendered["images"] * np.float32(10 ** (0.4 * (zero_point - 27)))
    warnings = [text for text in _warnings(tmp_path, {**rendered, "images": images}) if "zero point" in text]
    assert len(warnings) == 1
    likely = float(warnings[0].partition("zero point ")[2].split()[0])
    assert abs(likely - zero_point) < 1


def test_one_band_in_another_unit(rendered: Arrays, tmp_path: Path) -> None:
    images = rendered["images"].copy()
    images[:, 3] *= 10
    warnings = _warnings(tmp_path, {**rendered, "images": images})
    assert any("differ from the other bands in i by" in text for text in warnings), warnings


def test_saturation_and_zeros(rendered: Arrays, tmp_path: Path) -> None:
    images = rendered["images"].copy()
    images[:20] = np.minimum(images[:20], images[:20].max((2, 3), keepdims=True) * 0.3)
    images[30:60, 1], images[:, 4] = 0, 0
    warnings = _warnings(tmp_path, {**rendered, "images": images})
    assert any("20 of 120 galaxies look saturated" in text for text in warnings), warnings
    assert "band z: all images are zero" in warnings
    assert "images that are all zero: 30 in g of 120" in warnings
    assert "all images are zero" in _warnings(tmp_path, {**rendered, "images": images * 0})


def test_magnitudes_beyond_the_training(rendered: Arrays, tmp_path: Path) -> None:
    warnings = _warnings(tmp_path, {**rendered, "magnitudes": rendered["magnitudes"] - 8})
    assert any("magnitudes in i are outside those of the model's training" in text for text in warnings)


def test_a_summary_has_all_that_is_to_be_looked_at(rendered: Arrays, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **rendered, objid=np.arange(120) + 7)
    summary = look(tmp_path / "a.npz", Reading(pixel_scale=0.2, pixel_zero_point=27.0))
    facts = dict(summary.facts)
    assert facts["bands"] == "u, g, r, i, z"
    assert facts["stamps"] == "32×32: used as they are"
    assert facts["pixel scale"] == '0.2"'
    assert facts["identifiers"] == "objid (int64), the first 7"
    assert facts["redshift"].startswith("redshift: 120 known, ")
    assert "the model's training 0.0194 to 2.99" in facts["redshift"]
    assert [row.band for row in summary.ranges] == list(BANDS)
    for number, row in enumerate(summary.ranges):
        column = rendered["magnitudes"][:, number]
        assert row.low == pytest.approx(column.min(), abs=0.02)
        assert row.median == pytest.approx(np.median(column), abs=0.1)
        assert row.high == pytest.approx(column.max(), abs=0.02)
    assert summary.ranges[0].trained == (20.259, 27.79)
    summary.contact_sheet(tmp_path / "sheet.png", "a")
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")


def test_figures_of_columns(rendered: Arrays, tmp_path: Path) -> None:
    images = rendered["images"].copy()
    images[3, 0, 0, 0] = np.nan
    np.savez(tmp_path / "a.npz", **{**rendered, "images": images}, name=np.array(["x"] * 120))
    rows = {row[0]: row[1:] for row in describe(tmp_path / "a.npz", Reading())}
    assert rows["images"][:2] == ("(120, 5, 32, 32)", "float32")
    assert rows["images"][-1] == "1"
    assert rows["redshift"][2] == f"{rendered['redshift'].min():.4g}"
    assert rows["name"][2:] == ("", "", "", "")
