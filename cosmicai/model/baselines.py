"""Photometric redshifts by the field's simple methods, from magnitudes alone, to compare with."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestRegressor
from sklearn.neighbors import KNeighborsRegressor
from sklearn.preprocessing import StandardScaler

from cosmicai.data.dc2 import Catalogue, Floats
from inference.contract.accuracy import Accuracy

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
        predicted = predict(training, validation)
        true = validation.redshift.tolist()
        path.write_text(
            json.dumps({name: Accuracy.of(z.tolist(), true).measures() for name, z in predicted.items()})
        )
    measured: dict[str, Measures] = json.loads(path.read_text())
    return measured


def predict(training: Catalogue, validation: Catalogue) -> dict[str, NDArray[np.float64]]:
    """Redshifts of `validation` by two regressors fitted to `training`."""
    scaler = StandardScaler().fit(_features(training.magnitudes))
    regressors = {
        "k nearest neighbours": KNeighborsRegressor(10, weights="distance", n_jobs=-1),
        "random forest": RandomForestRegressor(200, min_samples_leaf=3, n_jobs=-1, random_state=0),
    }
    known, unknown = (scaler.transform(_features(part.magnitudes)) for part in (training, validation))
    return {name: r.fit(known, training.redshift).predict(unknown) for name, r in regressors.items()}


def _features(magnitudes: Floats) -> Floats:
    """(N, 5) magnitudes to (N, 5): the i magnitude and u-g, g-r, r-i, i-z."""
    return np.column_stack([magnitudes[:, _I_BAND], -np.diff(magnitudes, axis=1)])
