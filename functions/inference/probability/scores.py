"""How good densities are if the true redshifts are known; contract.probabilities has the definitions."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ..contract.probabilities import INTERVALS, STACK_UNIT, Probabilities, Scored, Stack
from ..data.missing import known_redshifts
from .calibration import Doubles
from .predictive import LEVELS, Densities

_CHUNK = 512  # galaxies


def state(
    densities: Densities,
    z_pred: NDArray[np.floating],
    z_true: NDArray[np.floating],
    magnitude: NDArray[np.floating],
) -> Probabilities:
    """The state of galaxies (N,) that Summarize adds up; magnitude: the reference magnitude."""
    with_density = np.isfinite(densities.z_median)
    rows = np.flatnonzero(with_density & known_redshifts(z_true))
    sums = np.zeros(len(densities.redshifts), np.int64)
    for some in _chunks(np.flatnonzero(with_density)):
        sums += np.rint(densities.pdf[some].astype(np.float64) / STACK_UNIT).astype(np.int64).sum(axis=0)
    step = float(densities.redshifts[1])
    return Probabilities.of(
        Stack(step, sums.tolist()),
        int(with_density.sum()),
        scored(densities, z_true, rows),
        magnitude[rows].tolist(),
        z_pred[rows].tolist(),
    )


def scored(densities: Densities, z_true: NDArray[np.floating], rows: NDArray[np.integer]) -> Scored:
    """The scores of some rows, whose true redshifts are known."""
    true = z_true[rows].astype(np.float64)
    losses = []
    for some in _chunks(np.arange(len(rows))):
        pdf = densities.pdf[rows[some]].astype(np.float64)
        losses.append([loss(densities.redshifts, pdf, true[some]) for loss in (cde_loss, crps, brier)])
    cde, ranked, squared = np.concatenate([np.empty((3, 0)), *losses], axis=1).tolist()
    columns = {level: densities.z_quantiles[rows, place] for place, level in enumerate(LEVELS)}
    pit = np.full(len(z_true), np.nan) if densities.pit is None else densities.pit
    return Scored(
        pit=pit[rows].tolist(),
        cde=cde,
        crps=ranked,
        brier=squared,
        within=[
            ((columns[low] <= true) & (true <= columns[high])).tolist() for low, high in INTERVALS.values()
        ],
    )


def _chunks(rows: NDArray[np.integer]) -> Iterator[NDArray[np.integer]]:
    """Chunks of rows whose densities in full precision take a few MB."""
    return (rows[start : start + _CHUNK] for start in range(0, len(rows), _CHUNK))


def cde_loss(redshifts: Doubles, pdf: Doubles, true: Doubles) -> Doubles:
    """The loss of each galaxy (N,), from densities (N, R) on a grid (R,); integrals by the trapezoidal rule."""
    nearest = _cell(redshifts, true)
    return np.trapezoid(pdf**2, redshifts, axis=1) - 2.0 * pdf[np.arange(len(pdf)), nearest]


def brier(redshifts: Doubles, pdf: Doubles, true: Doubles) -> Doubles:
    """Brier's original score of each galaxy (N,), over the cells around the points of the grid."""
    probability = pdf * np.diff(_edges(redshifts))
    at_true = probability[np.arange(len(pdf)), _cell(redshifts, true)]
    return (probability**2).sum(axis=1) - at_true**2 + (1.0 - at_true) ** 2


def crps(redshifts: Doubles, pdf: Doubles, true: Doubles) -> Doubles:
    """The score of each galaxy (N,), exact for densities constant in each cell; clips `true` to the grid."""
    edges, rows = _edges(redshifts), np.arange(len(pdf))
    widths = np.diff(edges)
    below = np.concatenate([np.zeros((len(pdf), 1)), np.cumsum(pdf * widths, axis=1)], axis=1)
    low, high = below[:, :-1], below[:, 1:]
    before = widths * _squares(low, high)
    after = widths * _squares(1.0 - low, 1.0 - high)
    cell, true = _cell(redshifts, true), np.clip(true, edges[0], edges[-1])
    share = (true - edges[cell]) / widths[cell]
    first, last = low[rows, cell], high[rows, cell]
    middle = first + share * (last - first)
    split = widths[cell] * (
        share * _squares(first, middle) + (1.0 - share) * _squares(1.0 - middle, 1.0 - last)
    )
    index = np.arange(len(widths))
    sums = np.where(index < cell[:, None], before, 0.0).sum(axis=1)
    return sums + np.where(index > cell[:, None], after, 0.0).sum(axis=1) + split


def kolmogorov_smirnov(pit: Doubles) -> float:
    """Of PIT values (N,) against the uniform distribution."""
    ordered, count = np.sort(pit), len(pit)
    return float(
        max((np.arange(1, count + 1) / count - ordered).max(), (ordered - np.arange(count) / count).max())
    )


def cramer_von_mises(pit: Doubles) -> float:
    """Of PIT values (N,) against the uniform distribution."""
    ordered, count = np.sort(pit), len(pit)
    return float(1.0 / (12 * count) + (((2 * np.arange(count) + 1) / (2 * count) - ordered) ** 2).sum())


def _squares(first: Doubles, last: Doubles) -> Doubles:
    """The mean square of a function that is linear from `first` to `last`."""
    return (first**2 + first * last + last**2) / 3.0


def _edges(redshifts: Doubles) -> Doubles:
    """The edges of the cells around the points of a grid."""
    return np.concatenate([redshifts[:1], (redshifts[1:] + redshifts[:-1]) / 2, redshifts[-1:]])


def _cell(redshifts: Doubles, true: Doubles) -> NDArray[np.intp]:
    """The index of the grid's point nearest to each true redshift."""
    return np.clip(np.searchsorted(_edges(redshifts), true, "left") - 1, 0, len(redshifts) - 1)
