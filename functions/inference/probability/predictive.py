"""p(z) of galaxies from their predicted redshifts and magnitudes, by a Calibration; needs only numpy.

The base distribution of a galaxy is F(z | z_pred, magnitudes), a mixture fitted to some galaxies that the
network was not trained on. The calibrator G comes from the values of F at the true redshifts of n others:
G(F) is a split-conformal predictive distribution (Vovk et al. 2020, Neurocomputing 397, 292) with F as its
conformity measure (Chernozhukov et al. 2021, PNAS 118, e2107794118; Vovk et al. 2020, PMLR 128, 84).

The guarantee: if a galaxy and those n are exchangeable, its redshift is below its quantile of level a with a
probability from a to a + 1 / (n + 1), for each level of the calibrator, whatever the network and F are (Lei et
al. 2018, JASA 113, 1094). This is an average over galaxies and calibrations; for one kind of galaxy it is only
as good as F describes that kind. Dey et al. 2022 (arXiv:2205.14568, Cal-PIT) calibrate each kind by a
regression of PIT values, without a guarantee for finite samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..contract.columns import CONFIDENCE_RANGE, LEVELS, quantile_name
from ..data.missing import known_redshifts
from ..engine.interface import Floats
from .calibration import Calibration, CalibrationError, Doubles, Layer

_CHUNK = 128  # galaxies at once: what they need stays in the processor's cache
_ROWS = 64  # of a matrix product: BLAS would start threads for more, which cost more than they save
WIDTHS = (-4.0, 5.0)  # log of a component's width, in units
_SMALLEST = 1e-9  # probability between 0 and the end of the grid


@dataclass(frozen=True, repr=False, eq=False)
class Densities:
    """The probabilities of N galaxies as arrays; `redshifts` (R,) is the grid of `pdf` (N, R).

    pdf: the mean density in a cell of one step around each point of the grid, so that the trapezoidal rule
    gives 1; in half precision, to 1 in 2,000. z_mode: the point with the highest. z_confidence: the probability
    within CONFIDENCE_RANGE (1 + z) of the median.
    """

    redshifts: Doubles
    pdf: NDArray[np.float16]
    z_mode: Floats
    z_mean: Floats
    z_std: Floats
    z_median: Floats
    z_quantiles: Floats  # (N, len(LEVELS))
    z_confidence: Floats
    pit: Doubles | None = None  # the probability below the true redshift, NaN if that is unknown

    def arrays(self) -> dict[str, NDArray[np.floating]]:
        """The arrays under their names in predictions/{rank}.npz."""
        quantiles = zip(LEVELS, self.z_quantiles.T, strict=True)
        return {
            "z_mode": self.z_mode,
            "z_mean": self.z_mean,
            "z_median": self.z_median,
            "z_std": self.z_std,
            **{quantile_name(level): values for level, values in quantiles},
            "z_conf": self.z_confidence,
            "z_grid": self.redshifts,
            "pdf": self.pdf,
            **({} if self.pit is None else {"pit": self.pit.astype(np.float32)}),
        }


@dataclass(frozen=True, repr=False, eq=False)
class Distributions:
    """Cumulative probabilities (N, J) of some galaxies, from 0 to 1, linear between redshifts (N, J).

    base: before the calibrator; cumulative: after it.
    """

    redshifts: Doubles
    base: Doubles
    cumulative: Doubles

    def at(self, redshifts: Doubles) -> Doubles:
        """Calibrated probabilities (N, Q) below redshifts (N, Q), which rise in each row."""
        return _interpolated(redshifts, self.redshifts, self.cumulative)


def densities(
    calibration: Calibration,
    z_pred: NDArray[np.floating],
    magnitudes: NDArray[np.floating],
    redshift: NDArray[np.floating] | None = None,
    bins: Floats | None = None,
) -> Densities:
    """z_pred (N,), magnitudes (N, M); redshift: the true ones (N,), for `pit`; bins: the network's p(z) (N, K).

    A galaxy whose z_pred is not finite has only NaN.
    """
    known, start = np.isfinite(z_pred), 0
    if bins is not None:
        bins = np.where(known[:, None], bins, np.float32(1.0))
    columns: dict[str, NDArray[Any]] = {}
    for part in _chunks(calibration, np.where(known, z_pred, 0.0).astype(np.float32), magnitudes, bins):
        rows = slice(start, start + len(part.base))
        for name, values in _densities(calibration, part, None if redshift is None else redshift[rows]).items():
            if name not in columns:  # joining parts at the end would need twice the memory
                columns[name] = np.empty((len(z_pred), *values.shape[1:]), values.dtype)
            columns[name][rows] = values
        start = rows.stop
    for column in columns.values():
        column[~known] = np.nan
    return Densities(calibration.redshifts, **columns)


def pit(
    calibration: Calibration,
    z_pred: NDArray[np.floating],
    magnitudes: NDArray[np.floating],
    redshift: NDArray[np.floating],
    calibrated: bool = True,
    bins: Floats | None = None,
) -> Doubles:
    """The probability (N,) below the true redshifts (N,): uniform from 0 to 1 for calibrated densities.

    calibrated: False for the PIT of the base distribution.
    """
    parts, start = [], 0
    for part in _chunks(calibration, z_pred, magnitudes, bins):
        true = np.asarray(redshift[start : start + len(part.base)], np.float64)[:, None]
        values = part.cumulative if calibrated else part.base
        parts.append(_interpolated(true, part.redshifts, values)[:, 0])
        start += len(part.base)
    return np.concatenate([*parts, np.empty(0)])


def _chunks(
    calibration: Calibration,
    z_pred: NDArray[np.floating],
    magnitudes: NDArray[np.floating],
    bins: Floats | None,
) -> Iterator[Distributions]:
    for start in range(0, max(len(z_pred), 1), _CHUNK):
        rows = slice(start, start + _CHUNK)
        if calibration.edges is None:
            yield _distributions(calibration, z_pred[rows], magnitudes[rows])
        elif bins is None:
            raise CalibrationError(
                "model: calibration.json needs the network's own p(z), which the engine did not give"
            )
        else:
            yield _binned(calibration, calibration.edges, bins[rows])


def _binned(calibration: Calibration, edges: Doubles, bins: Floats) -> Distributions:
    """The distributions from the network's own probabilities of bins, uniform within each bin."""
    base = np.cumsum(bins, axis=1, dtype=np.float64)
    base = np.concatenate([np.zeros((len(bins), 1)), base / np.maximum(base[:, -1:], _SMALLEST)], axis=1)
    cumulative = np.interp(base.ravel(), calibration.base, calibration.level).reshape(base.shape)
    return Distributions(np.broadcast_to(edges, base.shape), base, cumulative)


def _distributions(
    calibration: Calibration, z_pred: NDArray[np.floating], magnitudes: NDArray[np.floating]
) -> Distributions:
    """The mixtures, restricted to redshifts from 0 to the end of the grid and normalised there."""
    knots = calibration.residuals
    mixture = _mixture(calibration, calibration.features(z_pred, magnitudes)).astype(np.float64)
    predicted = np.clip(np.asarray(z_pred, np.float64), 0.0, calibration.redshift_to)[:, None]
    ends = np.concatenate([-predicted, calibration.redshift_to - predicted], axis=1) / (1.0 + predicted)
    below, above = _interpolated(ends, np.broadcast_to(knots, mixture.shape), mixture).T[:, :, None]
    base = (mixture - below) / np.maximum(above - below, _SMALLEST)
    base = np.clip(base, 0.0, 1.0)
    base[:, 0], base[:, -1] = 0.0, 1.0
    redshifts = np.clip(predicted + (1.0 + predicted) * knots, 0.0, calibration.redshift_to)
    cumulative = np.interp(base.ravel(), calibration.base, calibration.level).reshape(base.shape)
    return Distributions(redshifts, base, cumulative)


@np.errstate(over="ignore")  # exp may be infinite: the probability is 0 then
def _mixture(calibration: Calibration, inputs: Floats) -> Floats:
    """The mean of the members' cumulative distributions of the residual, at its knots: (N, J)."""
    knots = calibration.residuals.astype(np.float32)
    total = np.zeros((len(inputs), len(knots)), np.float32)
    for member in calibration.members:
        pieces = [_perceptron(member, inputs[row : row + _ROWS]) for row in range(0, len(inputs), _ROWS)]
        outputs = np.concatenate([*pieces, np.empty((0, len(member[-1].biases)), np.float32)])
        logits, centres, widths = np.split(outputs, 3, axis=1)
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        weights /= weights.sum(axis=1, keepdims=True) * len(calibration.members)
        centres = centres * calibration.unit
        rates = np.exp(-np.clip(widths, *WIDTHS)) / calibration.unit
        for k in range(weights.shape[1]):
            logistic = centres[:, k, None] - knots
            logistic *= rates[:, k, None]
            np.exp(logistic, out=logistic)
            logistic += 1.0
            total += np.divide(weights[:, k, None], logistic, out=logistic)
    return total


def _perceptron(layers: tuple[Layer, ...], values: Floats) -> Floats:
    for layer in layers[:-1]:
        values = np.tanh(values @ layer.weights.T + layer.biases)
    last = layers[-1]
    return values @ last.weights.T + last.biases


def _densities(
    calibration: Calibration, part: Distributions, redshift: NDArray[np.floating] | None
) -> dict[str, NDArray[Any]]:
    """The arrays of Densities."""
    grid = calibration.redshifts
    rows = len(part.base)
    edges = np.concatenate([grid[:1], (grid[1:] + grid[:-1]) / 2, grid[-1:]])
    mass = np.diff(part.at(np.broadcast_to(edges, (rows, len(edges)))), axis=1)
    pdf = mass / np.diff(edges)
    share, middle = np.diff(part.cumulative, axis=1), (part.redshifts[:, 1:] + part.redshifts[:, :-1]) / 2
    width = np.diff(part.redshifts, axis=1)
    mean = (share * middle).sum(axis=1)
    variance = (share * ((middle - mean[:, None]) ** 2 + width**2 / 12)).sum(axis=1)
    levels = np.interp((*LEVELS[:2], 0.5, *LEVELS[2:]), calibration.level, calibration.base)
    quantiles = _interpolated(np.broadcast_to(levels, (rows, len(levels))), part.base, part.redshifts)
    median = quantiles[:, 2]
    reach = CONFIDENCE_RANGE * (1.0 + median)
    within = part.at(np.stack([median - reach, median + reach], axis=1))
    columns = {
        "z_mode": grid[pdf.argmax(axis=1)],
        "z_mean": mean,
        "z_std": np.sqrt(variance),
        "z_median": median,
        "z_quantiles": np.delete(quantiles, 2, axis=1),
        "z_confidence": within[:, 1] - within[:, 0],
    }
    arrays: dict[str, NDArray[Any]] = {name: values.astype(np.float32) for name, values in columns.items()}
    arrays["pdf"] = half_precision(pdf)
    if redshift is not None:
        true = np.where(known_redshifts(redshift), redshift, np.nan).astype(np.float64)
        below = part.at(np.nan_to_num(true)[:, None])[:, 0]
        arrays["pit"] = np.where(np.isnan(true), np.nan, below)
    return arrays


def half_precision(values: Doubles) -> NDArray[np.float16]:
    """The same as `astype` for numbers of at least 0, in less than half the time; changes `values`.

    numpy reports each underflow, which takes most of its time. So the numbers that would underflow are first
    rounded to multiples of 2**-24, the step of such half-precision numbers, and of doubles from 2**28 up.
    """
    rounded = values + 2.0**28
    rounded -= 2.0**28
    np.copyto(values, rounded, where=values < 2.0**-14)
    return values.astype(np.float16)


def _interpolated(points: Doubles, known: NDArray[np.floating], values: NDArray[np.floating]) -> Doubles:
    """Row by row, `values` (N, J) at `points` (N, Q), linear between `known` (N, J), which rise in each row.

    One call for all rows: each row is shifted to begin after the one before.
    """
    span = 1.0 + max(float(known[:, -1].max(initial=1.0)) - float(known[:, 0].min(initial=0.0)), 0.0)
    offset = span * np.arange(len(known))[:, None]
    if not points.size:
        return np.empty(points.shape)
    first, last = known[:, :1], known[:, -1:]
    inside = np.clip(points, first, last)
    return np.interp((inside + offset).ravel(), (known + offset).ravel(), values.ravel()).reshape(points.shape)
