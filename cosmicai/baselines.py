"""Photometric redshifts by the field's simple methods, from magnitudes alone, to compare with."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
from sklearn.ensemble import RandomForestRegressor
from sklearn.neighbors import KNeighborsRegressor
from sklearn.preprocessing import StandardScaler

from cosmicai.data.dc2 import Catalogue, Floats
from inference.accuracy import Accuracy

_I_BAND = 3
Measures = dict[str, float | None]


def measure(training: Catalogue, validation: Catalogue, cache: Path) -> dict[str, Measures]:
    """Accuracy on `validation` of two regressors fitted to `training`; computed once for the same galaxies.

    Both see the i magnitude and the four colours. k nearest neighbours: 10, weighted by distance; random
    forest: 200 trees with at least 3 galaxies in a leaf.
    """
    key = hashlib.sha256()
    for part in (training, validation):
        key.update(part.magnitudes.tobytes() + part.redshift.tobytes())
    key.update(Path(__file__).read_bytes())
    path = cache / f"baselines-{key.hexdigest()[:12]}.json"
    if not path.exists():
        path.write_text(json.dumps(_fit_and_measure(training, validation)))
    measured: dict[str, Measures] = json.loads(path.read_text())
    return measured


def _fit_and_measure(training: Catalogue, validation: Catalogue) -> dict[str, Measures]:
    scaler = StandardScaler().fit(_features(training.magnitudes))
    regressors = {
        "k nearest neighbours": KNeighborsRegressor(10, weights="distance", n_jobs=-1),
        "random forest": RandomForestRegressor(200, min_samples_leaf=3, n_jobs=-1, random_state=0),
    }
    known, unknown = (scaler.transform(_features(part.magnitudes)) for part in (training, validation))
    measured = {}
    for name, regressor in regressors.items():
        predicted = regressor.fit(known, training.redshift).predict(unknown)
        measured[name] = Accuracy.of(predicted.tolist(), validation.redshift.tolist()).measures()
    return measured


def _features(magnitudes: Floats) -> Floats:
    """(N, 5) magnitudes to (N, 5): the i magnitude and u-g, g-r, r-i, i-z."""
    return np.column_stack([magnitudes[:, _I_BAND], -np.diff(magnitudes, axis=1)])
