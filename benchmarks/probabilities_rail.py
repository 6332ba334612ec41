"""What benchmarks/probabilities.py runs in an environment with RAIL: its estimators, and the evaluation of all.

    build/rail/bin/python benchmarks/probabilities_rail.py FOLDER [networks]

FOLDER holds galaxies.npz (`<set>_magnitudes`, `<set>_errors`, `<set>_redshift` and `<set>_id` of the sets that
train and of the set `judged`) and the networks' catalogues *.qp.hdf5. Writes results.json there. qp and RAIL
give the measures of all of them; CRPS, which they do not have, comes from inference.probability.scores.
networks: without RAIL's estimators.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import qp
from numpy.typing import NDArray
from qp.metrics.pit import PIT
from rail.evaluation.metrics import pointestimates
from rail.evaluation.metrics.cdeloss import CDELoss

from inference.probability import scores

BANDS = [f"mag_{band}_lsst" for band in "ugriz"]
ERRORS = [f"mag_err_{band}_lsst" for band in "ugriz"]
LIMITS = dict(zip(BANDS, (27.79, 29.04, 29.06, 28.62, 27.98), strict=True))
GRID = np.linspace(0.0, 3.0, 301)
SAMPLES = 500  # of the bootstrap
INTERVALS = {"68 %": (0.16, 0.84), "95 %": (0.025, 0.975)}
COLUMNS = {"68 %": ("z_q160", "z_q840"), "95 %": ("z_q025", "z_q975")}  # of a network's catalogue
_AGREE = 1e-6  # between RAIL's measures and those of the bootstrap, on the same galaxies

Doubles = NDArray[np.float64]
Json = dict[str, Any]


@dataclass(frozen=True)
class Judged:
    """One method's densities of N galaxies, reduced to what a bootstrap sample needs of each galaxy."""

    pit: Doubles
    cde: Doubles
    crps: Doubles
    error: Doubles  # (z_mode - z) / (1 + z)

    @classmethod
    def of(cls, ensemble: qp.Ensemble, true: Doubles) -> tuple[Judged, Json]:
        """The densities, and the measures of all galaxies by qp and RAIL."""
        pdf = np.asarray(ensemble.pdf(GRID))
        mode = np.asarray(ensemble.mode(grid=GRID)).ravel()
        pit = PIT(ensemble, true)
        judged = cls(
            np.asarray(pit.pit_samps),
            scores.cde_loss(GRID, pdf, true),
            scores.crps(GRID, pdf / np.trapezoid(pdf, GRID, axis=1)[:, None], true),
            (mode - true) / (1.0 + true),
        )
        rails = {
            "PIT KS": pit.evaluate_PIT_KS().statistic,
            "PIT CvM": pit.evaluate_PIT_CvM().statistic,
            "CDE loss": CDELoss(ensemble, GRID, true).evaluate().statistic,
            "median bias": pointestimates.PointBias(mode, true).evaluate(),
            "sigma_IQR": pointestimates.PointSigmaIQR(mode, true).evaluate(),
            "sigma_MAD": pointestimates.PointSigmaMAD(mode, true).evaluate(),
            "outlier rate": pointestimates.PointOutlierRate(mode, true).evaluate(),
        }
        return judged, {name: float(value) for name, value in rails.items()}

    def measures(self, rows: NDArray[np.integer] | slice = slice(None)) -> dict[str, float]:
        pit, error = self.pit[rows], self.error[rows]
        low, middle, high = np.percentile(error, [25.0, 50.0, 75.0])
        spread = (high - low) / 1.349
        covered = {f"within {name}": float(_inside(pit, *ends).mean()) for name, ends in INTERVALS.items()}
        return {
            **covered,
            "PIT KS": scores.kolmogorov_smirnov(pit),
            "PIT CvM": scores.cramer_von_mises(pit),
            "CDE loss": float(self.cde[rows].mean()),
            "CRPS": float(self.crps[rows].mean()),
            "median bias": float(middle),
            "sigma_IQR": float(spread),
            "sigma_MAD": 1.4826 * float(np.median(np.abs(error - middle))),
            "outlier rate": float((np.abs(error) > max(0.06, 3.0 * spread)).mean()),
        }

    @property
    def inside(self) -> dict[str, NDArray[np.bool_]]:
        """By interval, whether each galaxy is in it, from its PIT by qp."""
        return {name: _inside(self.pit, *ends) for name, ends in INTERVALS.items()}


def by_tertile(inside: dict[str, NDArray[np.bool_]], values: dict[str, Doubles]) -> Json:
    """Coverage of each interval, for each third of the galaxies in the order of a value."""
    thirds = {name: np.digitize(one, np.quantile(one, [1 / 3, 2 / 3])) for name, one in values.items()}
    return {
        name: {
            interval: [float(those[third == k].mean()) for k in range(3)] for interval, those in inside.items()
        }
        for name, third in thirds.items()
    }


def _between_columns(ensemble: qp.Ensemble, true: Doubles) -> dict[str, NDArray[np.bool_]]:
    """By interval, whether each galaxy is between the quantiles that a network's catalogue states.

    qp's PIT comes from densities on a grid, which widens those that are narrower than its cells.
    """
    columns = {name: np.ravel(ensemble.ancil[name]) for ends in COLUMNS.values() for name in ends}
    return {name: (columns[low] <= true) & (true <= columns[high]) for name, (low, high) in COLUMNS.items()}


def _inside(pit: Doubles, low: float, high: float) -> NDArray[np.bool_]:
    return (low <= pit) & (pit <= high)


def estimators(seen: Json, judged: Json, scratch: Path) -> dict[str, tuple[qp.Ensemble, float]]:
    """By name: the ensemble of a RAIL estimator trained on `seen`, with RAIL's defaults, and its seconds."""
    from rail.estimation.algos import flexzboost, k_nearneigh

    common = {"hdf5_groupname": "", "bands": BANDS, "ref_band": BANDS[3], "mag_limits": LIMITS,
              "zmin": 0.0, "zmax": 3.0, "nzbins": len(GRID), "nondetect_val": np.nan}  # fmt: skip
    kinds = {
        "k nearest neighbours": (k_nearneigh.KNearNeighInformer, k_nearneigh.KNearNeighEstimator, {}),
        "FlexZBoost": (flexzboost.FlexZBoostInformer, flexzboost.FlexZBoostEstimator, {"err_bands": ERRORS}),
    }
    results = {}
    for name, (informer, estimator, more) in kinds.items():
        began = time.perf_counter()
        stage, options = scratch.name + name.replace(" ", "_"), {**common, **more}
        model = informer.make_stage(
            name=f"inform_{stage}", **options, model=str(scratch / f"{stage}.pkl")
        ).inform(_copied(seen))
        output = str(scratch / f"{stage}.hdf5")
        made = estimator.make_stage(name=f"estimate_{stage}", **options, model=model, output=output)
        results[name] = (made.estimate(_copied(judged)).read(), time.perf_counter() - began)
    return results


def _copied(table: Json) -> Json:
    """A copy, because RAIL's stages change the tables that they get."""
    return {name: column.copy() for name, column in table.items()}


def _tables(folder: Path) -> tuple[dict[str, Json], NDArray[np.int64]]:
    """RAIL's table of each set of galaxies, and the identifiers of the set `judged`."""
    tables: dict[str, Json] = {}
    with np.load(folder / "galaxies.npz") as content:
        for name in (key.removesuffix("_redshift") for key in content.files if key.endswith("_redshift")):
            columns = dict(zip(BANDS, content[f"{name}_magnitudes"].T.astype(np.float64), strict=True))
            columns |= dict(zip(ERRORS, content[f"{name}_errors"].T.astype(np.float64), strict=True))
            tables[name] = {**columns, "redshift": content[f"{name}_redshift"].astype(np.float64)}
        return tables, content["judged_id"]


def _network(path: Path, identifiers: NDArray[np.int64], true: Doubles) -> qp.Ensemble:
    """A catalogue in the order of the judged galaxies."""
    ensemble = qp.read(str(path))
    ids = np.asarray(ensemble.ancil["id"])
    if not np.array_equal(np.sort(ids), np.sort(identifiers)):
        raise SystemExit(f"{path}: holds other galaxies than the {len(identifiers):,} that are judged")
    ensemble = ensemble[np.argsort(ids)[np.argsort(np.argsort(identifiers))]]
    if not np.allclose(np.ravel(ensemble.ancil["z_true"]), true, atol=1e-6):
        raise SystemExit(f"{path}: has other true redshifts than the catalogue")
    return ensemble


def _checked(measures: dict[str, float], rails: Json, name: str) -> None:
    for measure, value in rails.items():
        if not np.isclose(measures[measure], value, rtol=_AGREE, atol=_AGREE):
            raise SystemExit(f"{name}: RAIL's {measure} is {value}, the bootstrap's {measures[measure]}")


def main(folder: Path, with_rail: bool) -> None:
    warnings.simplefilter("ignore")
    tables, identifiers = _tables(folder)
    judged = tables.pop("judged")
    training = tables if with_rail else {}
    true = judged["redshift"]
    ensembles = {
        path.name.removesuffix(".qp.hdf5"): _network(path, identifiers, true)
        for path in sorted(folder.glob("*.qp.hdf5"))
    }
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for trained_on, seen in training.items():
            place = Path(scratch) / trained_on
            place.mkdir()
            for name, (ensemble, took) in estimators(seen, judged, place).items():
                ensembles[f"{name}, {trained_on}"] = ensemble
                seconds[f"{name}, {trained_on}"] = took
                print(f"{name}, {trained_on}: {took:.0f} s", file=sys.stderr, flush=True)
    rows = np.random.default_rng(0).integers(0, len(true), (SAMPLES, len(true)))
    results: Json = {}
    losses: dict[str, Doubles] = {}
    for name, ensemble in ensembles.items():
        one, rails = Judged.of(ensemble, true)
        measures = one.measures()
        _checked(measures, rails, name)
        sampled = [one.measures(sample) for sample in rows]
        losses[name] = one.cde
        ends = {m: np.quantile([sample[m] for sample in sampled], [0.025, 0.975]).tolist() for m in measures}
        tertiles = {
            "i magnitude": judged[BANDS[3]],
            "median redshift": np.ravel(ensemble.median()),
            "true redshift": true,
        }
        results[name] = {
            "measures": {measure: [value, *ends[measure]] for measure, value in measures.items()},
            "coverage by tertile": by_tertile(one.inside, tertiles),
            "seconds to train and estimate": seconds.get(name),
        }
        if name not in seconds:  # a network
            columns = _between_columns(ensemble, true)
            results[name]["coverage of the quantile columns by tertile"] = by_tertile(columns, tertiles)
    for name, one in results.items():
        one["CDE loss minus that of"] = {
            other: _difference(losses[name] - loss, rows) for other, loss in losses.items() if other != name
        }
    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n")


def _difference(values: Doubles, rows: NDArray[np.integer]) -> list[float]:
    """The mean of paired differences and its 95 % interval."""
    sampled = [float(values[sample].mean()) for sample in rows]
    return [float(values.mean()), *np.quantile(sampled, [0.025, 0.975]).tolist()]


if __name__ == "__main__":
    main(Path(sys.argv[1]), with_rail=sys.argv[2:] != ["networks"])
