"""Calibrated densities: what they promise of real galaxies, their numbers, and their file."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsRegressor

from cosmicai.data import dc2
from cosmicai.model import calibrating
from cosmicai.model.calibrating import Predicted
from inference.contract.columns import LEVELS, quantile_name
from inference.contract.model_files import CALIBRATION
from inference.engine.loading import BUNDLED_MODEL
from inference.probability.calibration import Calibration, CalibrationError
from inference.probability.predictive import (
    Densities,
    densities,
    half_precision,
    pit,
)
from tests.conftest import CACHE

_COSMICAI = str(Path(sys.executable).with_name("cosmicai"))
_REFERENCE = 3


@pytest.fixture(scope="module")
def galaxies() -> tuple[Predicted, Predicted]:
    """DC2 galaxies to calibrate by and others to test on, with the redshifts of nearest neighbours."""
    known, others = (dc2.observations(split, [0], CACHE) for split in ("training", "validation"))
    regressor = KNeighborsRegressor(10).fit(known.magnitudes, known.redshift)
    predicted = regressor.predict(others.magnitudes).astype(np.float32)
    all_ = Predicted(predicted, others.magnitudes, others.redshift)
    return all_.at(np.arange(6000)), all_.at(np.arange(6000, 14000))


@pytest.fixture(scope="module")
def calibration(galaxies: tuple[Predicted, Predicted]) -> Calibration:
    return calibrating.calibrate("0" * 64, galaxies[0])


@pytest.fixture(scope="module")
def estimates(calibration: Calibration, galaxies: tuple[Predicted, Predicted]) -> Densities:
    return densities(calibration, galaxies[1].z_pred, galaxies[1].magnitudes)


def _inside(estimates: Densities, redshift: np.ndarray, low: float, high: float) -> np.ndarray:
    first, last = (estimates.z_quantiles[:, LEVELS.index(level)] for level in (low, high))
    return (first <= redshift) & (redshift <= last)


def test_intervals_cover_what_they_state(estimates: Densities, galaxies: tuple[Predicted, Predicted]) -> None:
    """Of 8,000 galaxies, with 3,000 that calibrate: the share of either has a standard error below 1 %."""
    test = galaxies[1]
    for levels, stated, tolerance in (((0.16, 0.84), 0.68, 0.025), ((0.025, 0.975), 0.95, 0.012)):
        inside = _inside(estimates, test.redshift, *levels)
        assert inside.mean() == pytest.approx(stated, abs=tolerance)
        for value in (test.magnitudes[:, _REFERENCE], test.z_pred):
            third = np.digitize(value, np.quantile(value, [1 / 3, 2 / 3]))
            for part in range(3):
                assert inside[third == part].mean() == pytest.approx(stated, abs=0.04)


def test_the_probability_below_the_true_redshift_is_uniform(
    calibration: Calibration, galaxies: tuple[Predicted, Predicted]
) -> None:
    values = pit(calibration, galaxies[1].z_pred, galaxies[1].magnitudes, galaxies[1].redshift)
    counts = np.histogram(values, 10, (0, 1))[0] / len(values)
    assert counts == pytest.approx(np.full(10, 0.1), abs=0.015)


def test_the_confidence_is_how_often_the_median_is_near(
    estimates: Densities, galaxies: tuple[Predicted, Predicted]
) -> None:
    near = np.abs(estimates.z_median - galaxies[1].redshift) <= 0.15 * (1 + estimates.z_median)
    for low, high in ((0.0, 0.9), (0.9, 0.97), (0.97, 1.0)):
        rows = (estimates.z_confidence > low) & (estimates.z_confidence <= high)
        assert near[rows].mean() == pytest.approx(estimates.z_confidence[rows].mean(), abs=0.04)


def test_a_density_follows_the_galaxy(estimates: Densities, galaxies: tuple[Predicted, Predicted]) -> None:
    """Faint galaxies have wider ones than bright galaxies."""
    bright, faint = (galaxies[1].magnitudes[:, _REFERENCE] < 22, galaxies[1].magnitudes[:, _REFERENCE] > 24.5)
    assert np.median(estimates.z_std[faint]) > 2 * np.median(estimates.z_std[bright])


def test_the_numbers_are_those_of_the_density(estimates: Densities) -> None:
    """Integrated on the grid by the trapezoidal rule, to the width of its cells."""
    grid, pdf = estimates.redshifts, estimates.pdf.astype(np.float64)
    step = grid[1]
    assert np.trapezoid(pdf, grid, axis=1) == pytest.approx(1, abs=5e-4)  # in half precision
    mean = np.trapezoid(pdf * grid, grid, axis=1)
    assert estimates.z_mean == pytest.approx(mean, abs=step / 5)
    spread = np.sqrt(np.trapezoid(pdf * (grid - mean[:, None]) ** 2, grid, axis=1))
    assert estimates.z_std == pytest.approx(spread, abs=step / 2)
    highest = pdf[np.arange(len(pdf)), np.abs(grid - estimates.z_mode[:, None]).argmin(axis=1)]
    assert highest == pytest.approx(pdf.max(axis=1), rel=1e-6)
    edges = np.concatenate([[0], (grid[1:] + grid[:-1]) / 2, grid[-1:]])
    cumulative = np.concatenate([np.zeros((len(pdf), 1)), (pdf * np.diff(edges)).cumsum(axis=1)], axis=1)
    columns = [*estimates.z_quantiles.T, estimates.z_median]
    for level, quantile in zip((*LEVELS, 0.5), columns, strict=True):
        by_sum = [np.interp(level, row, edges) for row in cumulative[:500]]
        assert quantile[:500] == pytest.approx(
            by_sum, abs=2 * step
        )  # a density near 0 leaves a quantile a step of play
    for row in range(0, 500, 50):
        reach = 0.15 * (1 + estimates.z_median[row])
        ends = np.interp(estimates.z_median[row] + np.array([-reach, reach]), edges, cumulative[row])
        assert estimates.z_confidence[row] == pytest.approx(ends[1] - ends[0], abs=2e-3)


def test_half_precision_rounds_as_numpy_does() -> None:
    random = np.random.default_rng(0)
    steps = np.arange(0, 2**11, dtype=np.float64) * 2.0**-25  # halves and the middles between them
    values = np.concatenate([steps, np.exp2(random.uniform(-40, 15, 100_000)), [0.0, 2.0**-14]])
    assert np.array_equal(half_precision(values.copy()), values.astype(np.float16))


def test_components_as_narrow_as_can_be_give_a_step(
    calibration: Calibration, galaxies: tuple[Predicted, Predicted]
) -> None:
    """Their logistic functions overflow in single precision, which is correct and gives no warning."""
    narrow = replace(calibration, unit=1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        steps = densities(narrow, galaxies[1].z_pred[:50], galaxies[1].magnitudes[:50])
    assert np.isfinite(steps.pdf).all()
    assert steps.z_median == pytest.approx(galaxies[1].z_pred[:50], abs=0.01)


def test_the_calibrator_holds_order_statistics_exactly(
    calibration: Calibration, galaxies: tuple[Predicted, Predicted]
) -> None:
    """Of the n galaxies that calibrate, ceil(a (n + 1)) have redshifts up to their quantile of level a."""
    _, others = calibrating._halves(galaxies[0], 0)
    quantiles = densities(calibration, others.z_pred, others.magnitudes).z_quantiles
    for level, quantile in zip(LEVELS, quantiles.T, strict=True):
        below = np.count_nonzero(others.redshift.astype(np.float64) <= quantile.astype(np.float64))
        assert below == pytest.approx(np.ceil(level * (len(others) + 1)), abs=2)  # ties in float32


def test_a_galaxy_does_not_depend_on_others(
    calibration: Calibration, estimates: Densities, galaxies: tuple[Predicted, Predicted]
) -> None:
    """Nor on one without a redshift, whose own numbers are NaN."""
    rows = np.array([5, 900, 17, 4000])
    some = galaxies[1].at(rows)
    some.z_pred[2] = np.nan
    alone = densities(calibration, some.z_pred, some.magnitudes)
    kept = [0, 1, 3]
    for name, column in alone.arrays().items():
        if name != "z_grid":
            assert np.isnan(column[2]).all()
            assert column[kept] == pytest.approx(estimates.arrays()[name][rows[kept]], rel=2e-3, abs=1e-5), name


def test_no_galaxy_at_all(calibration: Calibration) -> None:
    none = densities(calibration, np.empty(0, np.float32), np.empty((0, 5), np.float32))
    assert none.pdf.shape == (0, len(none.redshifts))
    assert len(pit(calibration, np.empty(0), np.empty((0, 5)), np.empty(0))) == 0


def test_the_file_gives_the_same_densities(
    calibration: Calibration, galaxies: tuple[Predicted, Predicted], tmp_path: Path
) -> None:
    calibration.write(tmp_path)
    read = Calibration.read(tmp_path)
    some = galaxies[1].at(np.arange(300))
    before, after = (densities(one, some.z_pred, some.magnitudes) for one in (calibration, read))
    assert np.array_equal(before.pdf, after.pdf)
    assert json.loads((tmp_path / CALIBRATION).read_text())["galaxies"] == {"fitted": 3000, "calibrated": 3000}


def _without(name: str) -> Callable[[Any], None]:
    return lambda content: content.pop(name)


def _with(path: tuple[Any, ...], value: object) -> Callable[[Any], None]:
    def change(content: Any) -> None:
        for name in path[:-1]:
            content = content[name]
        content[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (_with(("format",), 2), "format is not 1"),
        (_without("members"), "members is missing"),
        (_with(("members",), []), "members is not a list"),
        (_with(("members", 0, 0, "shape"), [64, 7]), "a layer does not take 6 values"),
        (_with(("members", 0, 0, "weights"), "AAAA"), "weights is not"),
        (_with(("members", 0, 1, "biases"), "%"), ""),
        (_with(("features", "scale", 0), 0), "scale is not positive"),
        (_with(("features", "centre"), "x"), "centre is not a list of numbers"),
        (_with(("unit",), -1), "unit is not a positive number"),
        (_with(("unit",), float("nan")), "not a finite number"),
        (_with(("residuals", 3), 9), "residuals is not"),
        (_with(("calibrator", "base", 0), 1e-12), "calibrator does not map 0 to 0"),
        (_with(("redshifts", "step"), 1e-5), "redshifts: to / step is not from 2 to"),
        (_with(("galaxies", "fitted"), True), "fitted is not a whole number"),
        (_with(("magnitudes",), 10**30), "not a finite number"),
    ],
)
def test_a_malformed_file_says_what_is_wrong(
    calibration: Calibration, tmp_path: Path, change: Callable[[Any], None], fault: str
) -> None:
    content = json.loads(json.dumps(calibration.to_json()))
    change(content)
    (tmp_path / CALIBRATION).write_text(json.dumps(content))
    with pytest.raises(CalibrationError, match="run `cosmicai model calibrate`") as error:
        Calibration.read(tmp_path)
    assert fault in str(error.value)


def test_too_few_galaxies_are_refused(tmp_path: Path) -> None:
    folder = dc2.partitions("validation", 120, 1, CACHE, seed=3)
    command = [_COSMICAI, "model", "calibrate", str(BUNDLED_MODEL), "--calibration", str(folder)]
    before = (BUNDLED_MODEL / "card.json").read_bytes()
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 1
    assert "120 galaxies with a known redshift are too few; give 1,000 or more" in process.stderr
    assert (BUNDLED_MODEL / "card.json").read_bytes() == before


def test_the_committed_models_card_names_the_galaxies_that_calibrated_it() -> None:
    card = json.loads((BUNDLED_MODEL / "card.json").read_text())["calibration"]
    known = dc2.observations("validation", [0], CACHE)[: card["galaxies"]]
    some = Predicted(known.redshift, known.magnitudes, known.redshift)
    assert card["sha256 of magnitudes and redshifts"] == some.digest
    calibration = Calibration.read(BUNDLED_MODEL)
    assert (calibration.fitted, calibration.calibrated) == (card["fitted"], card["calibrated"])


def test_names_of_quantiles() -> None:
    assert [quantile_name(level) for level in LEVELS] == ["z_q025", "z_q160", "z_q840", "z_q975"]
