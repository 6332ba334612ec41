"""Which values of an array are measurements, by contract.missing: one rule for all readers of magnitudes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..contract.missing import BRIGHTEST, FAINTEST, LEAST_REDSHIFT, MARKED_REDSHIFTS, Missing

Numbers = NDArray[np.floating[Any]]
Mask = NDArray[np.bool_]
Float = TypeVar("Float", np.float32, np.float64)


class Hit(NamedTuple):
    """Values that are not measurements: their marker or the reason, the kind, and where they are."""

    marker: str
    kind: Missing
    where: Mask


def marked(values: Numbers, markers: Mapping[float, Missing]) -> list[Hit]:
    """The values that are markers, each in one of the hits.

    Text and float32 round a marker, so a value within a millionth of one counts as that marker.
    """
    left = np.ones(values.shape, bool)
    hits = []
    for marker, kind in markers.items():
        with np.errstate(invalid="ignore"):
            same = np.isnan(values) if np.isnan(marker) else values == marker
            if np.isfinite(marker):
                same |= np.abs(values - marker) <= 1e-6 * abs(marker)
        hits.append(Hit(f"{marker:g}", kind, same & left))
        left &= ~same
    return [hit for hit in hits if hit.where.any()]


def beyond(magnitudes: Numbers, hits: Sequence[Hit], limits: Numbers | np.floating[Any] | float) -> list[Hit]:
    """Where AB magnitudes are outside what surveys measure, and where they are fainter than the limit.

    A limit of NaN is no limit. Values that are among `hits` are ignored.
    """
    known = np.ones(magnitudes.shape, bool)
    for hit in hits:
        known &= ~hit.where
    with np.errstate(invalid="ignore"):
        odd = known & ((magnitudes > FAINTEST) | (magnitudes < BRIGHTEST))
        faint = known & ~odd & (magnitudes > limits)
    return [
        Hit(f"outside {BRIGHTEST:g} to {FAINTEST:g} mag", Missing.UNUSABLE, odd),
        Hit("fainter than the limit", Missing.NOT_DETECTED, faint),
    ]


def settled(
    magnitudes: NDArray[Float], hits: Sequence[Hit], limits: Numbers | np.floating[Any] | float
) -> NDArray[Float]:
    """A copy with the limit where nothing was detected, and NaN where nothing is known."""
    result = magnitudes.copy()
    all_limits = np.broadcast_to(np.asarray(limits, magnitudes.dtype), magnitudes.shape)
    for hit in hits:
        result[hit.where] = all_limits[hit.where] if hit.kind is Missing.NOT_DETECTED else np.nan
    return result


def known_redshifts(redshift: Numbers) -> Mask:
    """contract.missing.is_known of each (N,)."""
    plain = np.asarray(redshift)
    with np.errstate(invalid="ignore"):
        known = np.isfinite(plain) & (plain > LEAST_REDSHIFT)
        if (plain >= min(MARKED_REDSHIFTS)).any():
            known &= ~np.isin(plain.astype(np.float64), list(MARKED_REDSHIFTS))
    return np.asarray(known)


def row_sums(array: Numbers) -> NDArray[np.float32]:
    """The sum of each row (N,), in float32, which is fast. Not finite if a value is not, or if it overflows."""
    with np.errstate(invalid="ignore", over="ignore"):
        return np.asarray(_flat(array).sum(1, dtype=np.float32))


def finite_rows(array: Numbers, sums: NDArray[np.float32] | None = None) -> Mask:
    """(N,): which rows hold neither NaN nor infinity. sums: row_sums of the array, if already computed."""
    finite = np.isfinite(row_sums(array) if sums is None else sums)
    if not finite.all():
        suspects = np.flatnonzero(~finite)
        finite[suspects] = np.isfinite(_flat(array[suspects])).all(1)
    return np.asarray(finite)


def blank_rows(array: Numbers, sums: NDArray[np.float32]) -> Mask:
    """(N,): which rows are all zero. sums: row_sums of the array."""
    blank = sums == 0
    if blank.any():
        suspects = np.flatnonzero(blank)
        blank[suspects] = ~_flat(array[suspects]).any(1)
    return np.asarray(blank)


def _flat(array: Numbers) -> Numbers:
    """(N, values of a row), also for N = 0."""
    return array.reshape(len(array), math.prod(array.shape[1:]))
