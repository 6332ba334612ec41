"""The field's measures agree with the field's own software: RAIL's, qp's, scipy's."""

from __future__ import annotations

import json
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from cosmicai.data import dc2
from inference.contract.accuracy import BIN_WIDTH, Accuracy, Metrics
from inference.contract.field_measures import DEFINITIONS, exact_field_measures, field_measures
from inference.contract.probabilities import PIT_BINS, Probabilities
from inference.engine.loading import BUNDLED_MODEL
from inference.probability import scores
from inference.probability.calibration import Calibration
from inference.probability.predictive import Densities, densities
from tests.conftest import CACHE

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import qp
    from qp.metrics.brier import Brier
    from qp.metrics.pit import PIT
    from rail.evaluation.metrics.cdeloss import CDELoss
    from rail.evaluation.metrics.pointestimates import (
        PointBias,
        PointOutlierRate,
        PointSigmaIQR,
        PointSigmaMAD,
    )

_RAIL = {
    "median bias": PointBias,
    "sigma_IQR": PointSigmaIQR,
    "sigma_MAD": PointSigmaMAD,
    "outlier rate": PointOutlierRate,
}
_COUNT = 1500


@pytest.fixture(scope="module")
def sample() -> tuple[Densities, dict[str, Any]]:
    """Densities of the bundled model's calibration, for redshifts that scatter around DC2's."""
    galaxies = dc2.observations("validation", [0], CACHE)[-_COUNT:]
    scatter = 0.03 * np.random.default_rng(0).standard_t(3, _COUNT) * (1 + galaxies.redshift)
    predicted = np.clip(galaxies.redshift + scatter, 0.01, 3).astype(np.float32)
    estimates = densities(Calibration.read(BUNDLED_MODEL), predicted, galaxies.magnitudes, galaxies.redshift)
    return estimates, {"z_pred": predicted, "z_true": galaxies.redshift, "magnitude": galaxies.magnitudes[:, 3]}


pytestmark = pytest.mark.usefixtures("quiet_libraries")


@pytest.mark.parametrize(("count", "width"), [(1, 0.01), (2, 0.01), (5, 0.02), (1000, 0.001), (4001, 0.05)])
def test_point_measures_are_rails(count: int, width: float) -> None:
    random = np.random.default_rng(count)
    true = random.uniform(0.02, 3, count)
    predicted = true + 0.01 + width * random.standard_t(2, count) * (1 + true)
    exact = exact_field_measures(predicted.tolist(), true.tolist())
    merged = field_measures(Accuracy.of(predicted, true).histogram, BIN_WIDTH)
    assert list(exact) == list(DEFINITIONS)
    for name, metric in _RAIL.items():
        expected = float(metric(predicted, true).evaluate())
        assert exact[name] == pytest.approx(expected, abs=1e-9), name
        tolerance = 2e-4 if name != "outlier rate" else 4e-3  # galaxies within a bin of the limit
        assert merged[name] == pytest.approx(expected, abs=tolerance), name


def test_galaxies_without_a_redshift_count_nowhere() -> None:
    assert exact_field_measures([0.5, 0.5, 0.5], [-1.0, float("nan"), float("inf")]) == dict.fromkeys(
        DEFINITIONS
    )
    assert exact_field_measures([0.5, 0.5], [0.5, -99.0])["median bias"] == 0


def test_scores_are_rails_and_qps(sample: tuple[Densities, dict[str, Any]]) -> None:
    estimates, columns = sample
    grid, pdf, true = (
        estimates.redshifts,
        estimates.pdf.astype(np.float64),
        columns["z_true"].astype(np.float64),
    )
    ensemble = qp.Ensemble(
        qp.interp,
        data={"xvals": grid, "yvals": pdf},
    )
    normalised = ensemble.pdf(grid)
    assert normalised == pytest.approx(pdf, rel=5e-4), "they were densities before, in half precision"
    expected = CDELoss(ensemble, grid, true).evaluate().statistic
    assert scores.cde_loss(grid, normalised, true).mean() == pytest.approx(expected, abs=1e-6)
    cells = np.concatenate([grid[:1], (grid[1:] + grid[:-1]) / 2, grid[-1:]])
    held = np.stack([np.histogram(z, cells)[0] for z in true])
    expected = Brier(pdf * np.diff(cells), held).evaluate()
    assert scores.brier(grid, pdf, true).mean() == pytest.approx(expected, abs=1e-6)


def test_pit_and_its_statistics_are_qps(sample: tuple[Densities, dict[str, Any]]) -> None:
    estimates, columns = sample
    grid = estimates.redshifts
    cells = np.concatenate([grid[:1], (grid[1:] + grid[:-1]) / 2, grid[-1:]])
    ensemble = qp.Ensemble(qp.hist, data={"bins": cells, "pdfs": estimates.pdf})
    assert estimates.pit is not None
    theirs = PIT(ensemble, columns["z_true"].astype(np.float64))
    assert estimates.pit == pytest.approx(theirs.pit_samps, abs=0.03), "to what a cell of the grid holds"
    assert np.abs(estimates.pit - theirs.pit_samps).mean() < 2e-3
    samples = theirs.pit_samps
    assert scores.kolmogorov_smirnov(samples) == pytest.approx(theirs.evaluate_PIT_KS().statistic, abs=1e-9)
    assert scores.cramer_von_mises(samples) == pytest.approx(theirs.evaluate_PIT_CvM().statistic, abs=1e-9)


def test_crps_is_the_integral(sample: tuple[Densities, dict[str, Any]]) -> None:
    estimates, columns = sample
    grid, pdf, true = (
        estimates.redshifts,
        estimates.pdf[:40].astype(np.float64),
        columns["z_true"][:40].astype(float),
    )
    pdf /= np.trapezoid(pdf, grid, axis=1)[:, None]  # from half precision to a density
    cells = np.concatenate([grid[:1], (grid[1:] + grid[:-1]) / 2, grid[-1:]])
    ensemble = qp.Ensemble(qp.hist, data={"bins": cells, "pdfs": pdf})
    fine = np.linspace(0, grid[-1], 400_001)
    squares = [(ensemble[row].cdf(fine).ravel() - (fine >= true[row])) ** 2 for row in range(40)]
    expected = np.trapezoid(np.array(squares), fine, axis=1)
    assert scores.crps(grid, pdf, true) == pytest.approx(expected, abs=1e-5)


def test_a_forecast_without_spread_scores_its_distance() -> None:
    """CRPS of a forecast that is certain is the absolute error, to the width of a cell."""
    grid = np.linspace(0, 3, 3001)
    pdf = np.zeros((2, 3001))
    pdf[:, 1000] = 1000.0
    assert scores.crps(grid, pdf, np.array([1.5, 0.2])) == pytest.approx([0.5, 0.8], abs=1e-3)
    assert scores.brier(grid, pdf, np.array([1.0, 0.2])) == pytest.approx([0.0, 2.0])


def _state(sample: tuple[Densities, dict[str, Any]], rows: slice) -> Probabilities:
    estimates, columns = sample
    arrays = {name: value if name == "redshifts" else value[rows] for name, value in vars(estimates).items()}
    return scores.state(
        Densities(**arrays), *(columns[name][rows] for name in ("z_pred", "z_true", "magnitude"))
    )


def test_the_state_has_the_measures_of_all_galaxies(sample: tuple[Densities, dict[str, Any]]) -> None:
    estimates, columns = sample
    state = _state(sample, slice(None))
    report = state.report()
    assert estimates.pit is not None
    assert report["count"] == _COUNT
    assert report["PIT KS"] == pytest.approx(stats.kstest(estimates.pit, "uniform").statistic, abs=1 / PIT_BINS)
    expected = stats.cramervonmises(estimates.pit, "uniform").statistic
    assert report["PIT CvM"] == pytest.approx(expected, abs=2e-3)
    assert report["PIT by tenth"] == np.histogram(estimates.pit, 10, (0, 1))[0].tolist()
    grid, true, pdf = estimates.redshifts, columns["z_true"].astype(float), estimates.pdf.astype(np.float64)
    for name, score in (("CDE loss", scores.cde_loss), ("CRPS", scores.crps), ("Brier", scores.brier)):
        assert report[name] == pytest.approx(score(grid, pdf, true).mean(), abs=1e-9)
    inside = (estimates.z_quantiles[:, 1] <= columns["z_true"]) & (
        columns["z_true"] <= estimates.z_quantiles[:, 2]
    )
    assert report["coverage 68 %"] == inside.mean()
    rows = (columns["magnitude"] >= 23) & (columns["magnitude"] < 24)
    row = next(row for row in report["coverage by magnitude"] if row["from"] == 23)
    assert (row["count"], row["68 %"]) == (rows.sum(), pytest.approx(inside[rows].mean()))
    assert report["n(z)"]["density"] == pytest.approx(pdf.mean(axis=0), abs=1e-6)


@given(st.lists(st.integers(0, 60), min_size=1, max_size=6), st.randoms())
def test_the_order_and_the_split_over_ranks_do_not_matter(
    sample: tuple[Densities, dict[str, Any]], counts: list[int], order: Any
) -> None:
    edges = np.cumsum([0, *counts]).tolist()
    parts = [_state(sample, slice(a, b)) for a, b in pairwise(edges)]
    order.shuffle(parts)
    merged = Probabilities.from_json(json.loads(json.dumps(parts[0].to_json())))
    for part in parts[1:]:
        merged.add(Probabilities.from_json(json.loads(json.dumps(part.to_json()))))
    whole = _state(sample, slice(0, edges[-1]))
    assert merged.to_json() == whole.to_json()
    assert merged.report() == whole.report()


def test_unknown_redshifts_count_in_nz_alone(sample: tuple[Densities, dict[str, Any]]) -> None:
    estimates, columns = sample
    true = columns["z_true"].copy()
    true[:500] = -99.0
    state = scores.state(estimates, columns["z_pred"], true, columns["magnitude"])
    assert (state.count, state.stacked) == (_COUNT - 500, _COUNT)
    none = scores.state(estimates, columns["z_pred"], np.full(_COUNT, np.nan), columns["magnitude"])
    assert set(none.measures().values()) == {None}


def test_ranks_with_other_grids_have_no_common_nz(sample: tuple[Densities, dict[str, Any]]) -> None:
    first, second = _state(sample, slice(0, 10)), _state(sample, slice(10, 20))
    assert second.stack is not None
    second.stack.sums.append(0)
    first.add(second)
    assert first.report()["n(z)"] is None
    assert first.count == 20


@pytest.mark.parametrize(
    "change",
    [
        {"unit": 1}, {"pit": "x"}, {"within": [1]}, {"within": [10**9, 0]}, {"count": -1}, {"cde": 1.5},
        {"by_magnitude": []}, {"by_redshift": [[0, 1, 0]] * 8}, {"stack": {"step": 0, "sums": [1, 2]}},
        {"stack": {"step": 0.01, "sums": [1, -2]}}, {"stack": {"step": float("nan"), "sums": [1, 2]}},
        {"stacked": 0}, {"stack": 3},
    ],
)  # fmt: skip
def test_a_state_that_no_galaxies_give_is_refused(
    sample: tuple[Densities, dict[str, Any]], change: dict[str, Any]
) -> None:
    content = _state(sample, slice(0, 10)).to_json()
    with pytest.raises(ValueError, match=r"probabilities|coverage|stack|accuracy state"):
        Probabilities.from_json({**content, **change})


def test_metrics_carry_the_state(sample: tuple[Densities, dict[str, Any]], tmp_path: Path) -> None:
    _, columns = sample
    metrics = [Metrics.of(*(columns[name][:20].tolist() for name in columns)) for _ in range(3)]
    metrics[1].probabilities = _state(sample, slice(0, 20))
    total = metrics[0]
    for part in metrics[1:]:
        total.add(Metrics.from_json(json.loads(json.dumps(part.to_json()))))
    assert total.report()["probabilities"]["count"] == 20
    assert total.report()["RAIL's measures"]["sigma_IQR"] is not None
