"""Learns what a network's galaxies look like, so that ranks spot others; see inference.probability.novelty."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from inference.engine.interface import Floats
from inference.probability.novelty import Novelty

COMPONENTS = 8  # of the mixture, if there are enough galaxies
_GALAXIES_OF_A_COMPONENT = 100
_LEAST_VARIANCE = 0.01  # relative to that of all galaxies: added, so that no direction is too narrow
_STEPS = 100


def learn(
    network: str, embedding: Floats, magnitudes: Floats, fits: NDArray[np.bool_], seed: int = 0
) -> Novelty:
    """Learns from galaxies that the network was not trained on: embeddings (N, D), magnitudes (N, M).

    fits (N,): which of them the density is fitted to; the scores of the others calibrate p-values. Galaxies
    with a number that is not finite are left out.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    vectors = np.concatenate([embedding, magnitudes], axis=1, dtype=np.float64)
    usable = np.isfinite(vectors).all(axis=1)
    known, others = vectors[fits & usable], ~fits & usable
    centre, scale = known.mean(axis=0), np.maximum(known.std(axis=0), 1e-6)
    components = int(np.clip(len(known) // _GALAXIES_OF_A_COMPONENT, 1, COMPONENTS))
    mixture = GaussianMixture(components, reg_covar=_LEAST_VARIANCE, max_iter=_STEPS, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # any density will do: the others calibrate it
        mixture.fit((known - centre) / scale)
    whitenings = mixture.precisions_cholesky_ / scale[:, None]
    peaks = np.linalg.slogdet(whitenings)[1] - 0.5 * vectors.shape[1] * np.log(2 * np.pi)
    started = Novelty(
        network=network,
        fitted=len(known),
        embedding=embedding.shape[1],
        magnitudes=magnitudes.shape[1],
        constants=(np.log(mixture.weights_) + peaks).astype(np.float32),
        centres=(centre + scale * mixture.means_).astype(np.float32),
        whitenings=whitenings.astype(np.float32),
        scores=np.empty(0, np.float32),
    )
    return replace(started, scores=np.sort(started.score(embedding[others], magnitudes[others])))
