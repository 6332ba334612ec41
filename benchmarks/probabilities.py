"""p(z) of a calibrated model beside RAIL's estimators, on DC2 validation galaxies that none of them has seen.

    .venv/bin/python benchmarks/probabilities.py PARTITIONS [--model FOLDER] [--fewer N]

PARTITIONS: a folder of rendered validation galaxies (`cosmicai data dc2 PARTITIONS --split validation
--galaxies 20449`); the first half calibrates the model, the second half judges all. RAIL's k nearest neighbours
and FlexZBoost are trained on the training galaxies and on those that calibrate, by magnitudes and their errors.
They need `pip install pz-rail-sklearn pz-rail-flexzboost`. All densities are judged by RAIL's CDELoss on the
grid of 301 redshifts from 0 to 3. Writes benchmarks/probabilities.json and prints the tables.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosmicai.data import dc2
from cosmicai.model.calibrating import Predicted, calibrate, predicted
from cosmicai.packaging.places import ROOT
from inference.engine.loading import BUNDLED_MODEL
from inference.probability import scores
from inference.probability.predictive import LEVELS, densities
from initialize.plan import natural

CACHE = ROOT / ".cosmicai" / "cache"
BANDS = [f"mag_{band}_lsst" for band in "ugriz"]
GRID = np.linspace(0.0, 3.0, 301)
Doubles = NDArray[np.float64]
Json = dict[str, Any]


def ours(calibrating: Predicted, judging: Predicted) -> tuple[Json, Doubles]:
    """Coverage and scores, and the densities on GRID."""
    calibration = calibrate("0" * 64, calibrating)
    began = time.process_time()
    found = densities(calibration, judging.z_pred, judging.magnitudes, judging.redshift)
    seconds = time.process_time() - began
    true = judging.redshift.astype(np.float64)
    assert found.pit is not None  # noqa: S101 - redshifts were given
    columns = dict(zip(LEVELS, found.z_quantiles.T, strict=True))
    inside = {
        "68 %": (columns[0.16] <= true) & (true <= columns[0.84]),
        "95 %": (columns[0.025] <= true) & (true <= columns[0.975]),
    }
    by = {"magnitude": judging.magnitudes[:, 3], "predicted redshift": judging.z_pred, "true redshift": true}
    thirds = {name: np.digitize(value, np.quantile(value, [1 / 3, 2 / 3])) for name, value in by.items()}
    told = {
        "PIT KS": scores.kolmogorov_smirnov(found.pit),
        "PIT CvM": scores.cramer_von_mises(found.pit),
        "CRPS": float(scores.crps(found.redshifts, found.pdf.astype(np.float64), true).mean()),
        "microseconds of CPU per galaxy": 1e6 * seconds / len(judging),
        "coverage": {name: float(held.mean()) for name, held in inside.items()},
        "coverage by tertile": {
            what: {name: [float(held[third == k].mean()) for k in range(3)] for name, held in inside.items()}
            for what, third in thirds.items()
        },
    }
    pdf = np.stack([np.interp(GRID, found.redshifts, row) for row in found.pdf.astype(np.float64)])
    return told, pdf / np.trapezoid(pdf, GRID, axis=1)[:, None]


def rails(training: dc2.Catalogue, judging: dc2.Catalogue) -> dict[str, Doubles]:
    """Densities (N, 301) of RAIL's estimators."""
    warnings.simplefilter("ignore")
    from rail.estimation.algos import flexzboost, k_nearneigh

    limits = {name: dc2.LIMITING_MAGNITUDE[name[4]] for name in BANDS}
    common = {"hdf5_groupname": "", "bands": BANDS, "ref_band": BANDS[3], "mag_limits": limits,
              "zmin": 0.0, "zmax": 3.0, "nzbins": 301, "nondetect_val": np.nan}  # fmt: skip
    errors = [name.replace("mag_", "mag_err_") for name in BANDS]
    kinds = {
        "k nearest neighbours (RAIL)": (k_nearneigh.KNearNeighInformer, k_nearneigh.KNearNeighEstimator, {}),
        "FlexZBoost (RAIL)": (
            flexzboost.FlexZBoostInformer,
            flexzboost.FlexZBoostEstimator,
            {"err_bands": errors},
        ),
    }
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, (informer, estimator, more)) in enumerate(kinds.items()):
            options = {**common, **more, "model": f"{folder}/{number}.pkl"}
            trained = informer.make_stage(name=f"inform{number}", **options).inform(_table(training))
            options |= {"model": trained, "output": f"{folder}/{number}.hdf5"}
            made = estimator.make_stage(name=f"estimate{number}", **options).estimate(_table(judging))
            found[name] = np.asarray(made.read().pdf(GRID))
    return found


def _table(catalogue: dc2.Catalogue) -> dict[str, NDArray[Any]]:
    magnitudes = {name: catalogue.magnitudes[:, k].astype(np.float64) for k, name in enumerate(BANDS)}
    errors = {
        name.replace("mag_", "mag_err_"): catalogue.errors[:, k].astype(np.float64)
        for k, name in enumerate(BANDS)
    }
    return {**magnitudes, **errors, "redshift": catalogue.redshift.astype(np.float64)}


def loss(pdf: Doubles, true: Doubles) -> float:
    """RAIL's CDE loss."""
    import qp
    from rail.evaluation.metrics.cdeloss import CDELoss

    ensemble = qp.Ensemble(qp.interp, data={"xvals": GRID, "yvals": pdf})
    return float(CDELoss(ensemble, GRID, true).evaluate().statistic)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("partitions", type=Path)
    parser.add_argument("--model", type=Path, default=BUNDLED_MODEL)
    parser.add_argument("--fewer", type=int, help="Train and judge on so many galaxies, to try it.")
    arguments = parser.parse_args()
    files = sorted(arguments.partitions.glob("*.pt"), key=lambda path: natural(path.name))
    galaxies = predicted(arguments.model, files)
    observed = dc2.observations("validation", [0], CACHE)[: len(galaxies)]
    if not np.array_equal(observed.redshift, galaxies.redshift):
        raise SystemExit(f"{arguments.partitions}: these are not DC2's validation galaxies, seed 0")
    half = len(galaxies) // 2
    judged = slice(half, half + arguments.fewer if arguments.fewer else None)
    told, pdf = ours(galaxies.at(np.arange(half)), galaxies.at(np.arange(len(galaxies))[judged]))
    training = dc2.observations("training", [0], CACHE)[: arguments.fewer]
    calibrating = observed[: arguments.fewer or half]
    names = ("identifiers", "magnitudes", "errors", "detected", "redshift")
    seen = dc2.Catalogue(*(np.concatenate([getattr(training, n), getattr(calibrating, n)]) for n in names))
    true = observed[judged].redshift.astype(np.float64)
    losses = {arguments.model.name: loss(pdf, true)}
    losses |= {name: loss(pdf, true) for name, pdf in rails(seen, observed[judged]).items()}
    results = {"galaxies": len(true), "model": arguments.model.name, **told, "CDE loss": losses}
    if not arguments.fewer:
        (ROOT / "benchmarks" / "probabilities.json").write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
