"""Values that are no measurements: one table of the markers that surveys use, and what each becomes.

Not detected: the survey looked and saw nothing, so the band gets the model's limiting magnitude, as in
training.
Not observed: nothing is known, so the value is NaN, and the galaxy is flagged where redshifts are computed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
FAINTEST, BRIGHTEST = (
    36.0,
    8.0,
)  # AB magnitudes of galaxies: the deepest JWST fields end at 32, M31 alone is at 4


class Missing(StrEnum):
    """Why there is no value."""

    NOT_DETECTED = "not detected"
    NOT_OBSERVED = "not observed"
    UNUSABLE = "unusable"


class MissingError(ValueError):
    """A marker is not one that can be told; the message names it."""


# Of magnitudes. 99 and -99: BPZ (Benitez 2000, ApJ 536, 571) and SExtractor; -9999: SDSS; NaN and masked:
# either, so the one that claims less; +inf: a flux of zero; 0 and -1: columns that were never filled.
MAGNITUDE_MARKERS: dict[float, Missing] = {
    **dict.fromkeys((99.0, 99.9, 99.99, 99.999, 999.0, np.inf), Missing.NOT_DETECTED),
    **dict.fromkeys((-99.0, -99.9, -999.0, -9999.0, -99999.0, 9999.0, -9.0, -1.0, 0.0), Missing.NOT_OBSERVED),
    np.nan: Missing.NOT_OBSERVED,
    -np.inf: Missing.UNUSABLE,
}
# Of fluxes, where a negative value is a measurement without a detection, and exactly 0 one without an exposure.
FLUX_MARKERS: dict[float, Missing] = {
    **dict.fromkeys((-99.0, -999.0, -9999.0, -99999.0, 0.0), Missing.NOT_OBSERVED),
    np.nan: Missing.NOT_OBSERVED,
    np.inf: Missing.UNUSABLE,
    -np.inf: Missing.UNUSABLE,
}
REDSHIFT_MARKERS = (99.0, 99.9, 99.99, 999.0, 9999.0)  # and whatever is not finite or at most -1
LEAST_REDSHIFT = -1.0  # a redshift of -1 is an infinite blueshift, -9 and -9999 are markers


@dataclass
class Counts:
    """How many values of each column are missing, by marker and kind."""

    counts: Counter[tuple[str, str, str]] = field(default_factory=Counter)

    def add(self, column: str, marker: str, kind: str, count: int) -> None:
        if count:
            self.counts[column, marker, kind] += count

    def rows(self) -> list[tuple[str, str, str, int]]:
        return [(*key, count) for key, count in sorted(self.counts.items())]

    def total(self, kind: str) -> int:
        return sum(count for (_, _, one), count in self.counts.items() if one == kind)


def parse_markers(texts: Sequence[str]) -> dict[float, Missing]:
    """What the user says of markers, VALUE=not-detected or VALUE=not-observed. Raises MissingError."""
    markers = {}
    for text in texts:
        value, _, kind = text.partition("=")
        try:
            number = float("nan" if value.strip() == "masked" else value)
            markers[np.nan if np.isnan(number) else number] = Missing(kind.strip().replace("-", " "))
        except ValueError:
            raise MissingError(
                f"--missing {text}: give VALUE=not-detected or VALUE=not-observed, such as nan=not-detected"
            ) from None
    return markers


def magnitude_kinds(
    values: Floats, markers: Mapping[float, Missing]
) -> list[tuple[str, Missing, NDArray[np.bool_]]]:
    """(marker, kind, where) for all values that are no measurements, each in one of them.

    Text and float32 round a marker, so that one within a millionth of it is meant.
    """
    left = np.ones(values.shape, bool)
    hits = []
    for marker, kind in markers.items():
        with np.errstate(invalid="ignore"):
            same = np.isnan(values) if np.isnan(marker) else values == marker
            if np.isfinite(marker):
                same |= np.abs(values - marker) <= 1e-6 * abs(marker)
        hits.append((f"{marker:g}", kind, same & left))
        left &= ~same
    return [(marker, kind, where) for marker, kind, where in hits if where.any()]


def known_redshifts(values: Floats, column: str, counts: Counts) -> Floats:
    """Redshifts with NaN for all that are unknown, which are counted."""
    with np.errstate(invalid="ignore"):
        marked = np.isin(values, REDSHIFT_MARKERS) | np.isin(
            values.astype(np.float32), np.array(REDSHIFT_MARKERS, np.float32)
        )
        low = values <= LEAST_REDSHIFT
    absent = ~np.isfinite(values)
    for marker, where in (("not finite or masked", absent), ("-1 or less", low), ("99, 999, …", marked)):
        counts.add(column, marker, "unknown", int(where.sum()))
    return np.where(absent | low | marked, np.nan, values)
