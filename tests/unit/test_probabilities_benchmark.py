"""benchmarks/probabilities.py judges densities as RAIL and qp do, and tells them in tables."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import probabilities

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import qp

    from benchmarks import probabilities_rail as worker


pytestmark = pytest.mark.usefixtures("quiet_libraries")


def _judged(width: float) -> tuple[worker.Judged, dict[str, float]]:
    """2,000 galaxies whose redshifts scatter by 0.05, with densities of some other width."""
    random = np.random.default_rng(0)
    centre = random.uniform(0.5, 2.5, 2000)
    true = centre + random.normal(0, 0.05, 2000)
    density = np.exp(-0.5 * ((worker.GRID - centre[:, None]) / width) ** 2)
    ensemble = qp.Ensemble(qp.interp, data={"xvals": worker.GRID, "yvals": density})
    return worker.Judged.of(ensemble, true)


def test_the_bootstraps_measures_are_those_of_rail_and_qp() -> None:
    judged, rails = _judged(0.05)
    measures = judged.measures()
    assert rails.keys() <= measures.keys()
    worker._checked(measures, rails, "normal")
    with pytest.raises(SystemExit, match="normal: RAIL's CDE loss is"):
        worker._checked({**measures, "CDE loss": 0.0}, rails, "normal")


def test_right_densities_cover_what_they_state_and_narrow_ones_less() -> None:
    right, narrow = _judged(0.05)[0], _judged(0.025)[0]
    covered = right.measures()
    assert covered["within 68 %"] == pytest.approx(0.68, abs=0.03)
    assert covered["within 95 %"] == pytest.approx(0.95, abs=0.015)
    assert narrow.measures()["within 68 %"] < 0.45
    assert narrow.measures()["CDE loss"] > covered["CDE loss"]
    thirds = worker.by_tertile(right.inside, {"place": np.arange(2000.0)})["place"]["68 %"]
    assert np.mean(thirds) == pytest.approx(covered["within 68 %"], abs=1e-3)


@pytest.mark.parametrize("swap", [False, True])
def test_no_galaxy_calibrates_and_judges(tmp_path: Path, swap: bool) -> None:
    source = tmp_path / "all"
    source.mkdir()
    for number in range(1, 18):
        (source / f"{number}.pt").write_bytes(b"")
    calibrating, judging = (
        {path.name for path in folder.iterdir()} for folder in probabilities.split(source, tmp_path, None, swap)
    )
    halves = [{f"{number}.pt" for number in some} for some in (range(1, 9), range(9, 18))]
    assert [calibrating, judging] == (halves[::-1] if swap else halves)


def test_the_table_has_each_measure_with_its_interval() -> None:
    measures = {
        "measures": {"CDE loss": [-5.0, -5.5, -4.5]},
        "coverage by tertile": {"i magnitude": {"68 %": [0.68, 0.7, 0.66], "95 %": [0.95, 0.94, 0.96]}},
        "coverage of the quantile columns by tertile": {"redshift": {"68 %": [0.6, 0.61, 0.62]}},
    }
    table = probabilities.table({"galaxies": {"judged": 10225}, "methods": {"mine": measures}})
    assert "| 10,225 galaxies | CDE loss |" in table
    assert "| mine | -5.0000 (-5.5000 to -4.5000) |" in table
    assert "| mine | i magnitude | 68.0, 70.0, 66.0 | 95.0, 94.0, 96.0 |" in table
    assert "| mine, quantile columns | redshift | 60.0, 61.0, 62.0 |" in table


def test_the_quantile_columns_are_judged_as_they_are_written() -> None:
    grid = np.linspace(0, 3, 301)
    columns = {"z_q160": [0.9, 1.1], "z_q840": [1.1, 1.2], "z_q025": [0.8, 0.99], "z_q975": [1.2, 1.3]}
    ancillary = {name: np.array(values) for name, values in columns.items()}
    ensemble = qp.Ensemble(qp.interp, data={"xvals": grid, "yvals": np.ones((2, 301))}, ancil=ancillary)
    inside = worker._between_columns(ensemble, np.array([1.0, 1.0]))
    assert {name: those.tolist() for name, those in inside.items()} == {
        "68 %": [True, False],
        "95 %": [True, True],
    }


def test_the_table_of_halves_has_their_mean_by_galaxies() -> None:
    def half(judged: int, inside: float) -> dict[str, Any]:
        tertiles = [inside - 0.1, inside, inside + 0.1]
        intervals = dict.fromkeys(("68 %", "95 %"), tertiles)
        measures = {name: [inside] for name in ("within 68 %", "within 95 %", "PIT KS", "CDE loss")}
        method = {"measures": measures, "coverage by tertile": {"i magnitude": intervals}}
        return {"galaxies": {"judged": judged}, "methods": {"mine": method}}

    table = probabilities.halves_table([half(300, 0.6), half(100, 0.8)])
    assert "| mine | 68 % | second half | 60.0 | 50.0, 60.0, 70.0 |" in table
    assert "| mine | 68 % | first half | 80.0 | 70.0, 80.0, 90.0 |" in table
    assert "| mine | 95 % | both | 65.0 | 55.0, 65.0, 75.0 |" in table
    assert table.endswith(
        "mine, second half: PIT KS 0.600, CDE loss 0.600\nmine, first half: PIT KS 0.800, CDE loss 0.800"
    )
