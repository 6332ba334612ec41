"""What a source does not hold: counts of missing values, the user's own markers, unknown redshifts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from inference.contract.missing import LEAST_REDSHIFT, Missing
from inference.data.missing import known_redshifts as known

Floats = NDArray[np.float64]


class MissingError(ValueError):
    """A marker of missing values is not valid; the message names it."""


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
    """What the user says about markers, VALUE=not-detected or VALUE=not-observed. Raises MissingError."""
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


def known_redshifts(values: Floats, column: str, counts: Counts) -> Floats:
    """Redshifts with NaN for all that are unknown, which are counted."""
    absent = ~np.isfinite(values)
    with np.errstate(invalid="ignore"):
        low = ~absent & (values <= LEAST_REDSHIFT)
    unknown = ~known(values)
    reasons = (
        ("not finite or masked", absent),
        ("-1 or less", low),
        ("99, 999, …", unknown & ~absent & ~low),
    )
    for marker, where in reasons:
        counts.add(column, marker, "unknown", int(where.sum()))
    return np.where(unknown, np.nan, values)
