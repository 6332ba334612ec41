"""The accuracy of a network's numbers other than redshifts, as a state that ranks can add up.

Sums are whole numbers of UNIT, so that they do not depend on the order in which ranks are added. Uses only
the standard library.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from .mapping import REGRESSION
from .packing import MOST_GALAXIES, required, whole

_BITS = 50
UNIT = 2.0**-_BITS  # of the sums
DEFINITIONS = {
    "MAE": "mean |predicted - true|",
    "RMSE": "square root of the mean of (predicted - true)^2",
    "bias": "mean of predicted - true, in the unit of the column",
    "R2": "share of the variance of the true values that the predictions explain; 1 is perfect",
}
NAMES = tuple(DEFINITIONS)
_LARGEST_SUM = 10**120  # in UNITs: of 2**53 objects with float32 values
_SUMS = ("count", "absolute", "squared", "error", "true", "true_squared")


@dataclass
class Regression:
    """Sums over objects with a known true value, in UNITs."""

    column: str
    count: int = 0
    absolute: int = 0  # sum of |predicted - true|
    squared: int = 0  # sum of (predicted - true)^2
    error: int = 0  # sum of predicted - true
    true: int = 0
    true_squared: int = 0

    @classmethod
    def of(cls, column: str, predicted: Iterable[float], true: Iterable[float]) -> Regression:
        """Of objects whose predicted and true values are finite."""
        state = cls(column)
        for guess, value in zip(predicted, true, strict=True):
            error = guess - value
            state.count += 1
            state.absolute += int(abs(error) / UNIT)
            state.squared += int(error * error / UNIT)
            state.error += int(error / UNIT)
            state.true += int(value / UNIT)
            state.true_squared += int(value * value / UNIT)
        return state

    def add(self, other: Regression) -> None:
        """Raises ValueError for another column."""
        if other.column != self.column:
            raise ValueError(f"regression: the column {other.column} is not {self.column}")
        for name in _SUMS:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def measures(self) -> dict[str, float | None]:
        """The measures of NAMES; None where one is undefined, for which `undefined` gives the reason."""
        if not self.count:
            return dict.fromkeys(NAMES)
        values = (
            self.absolute * UNIT / self.count,
            math.sqrt(self.squared * UNIT / self.count),
            self.error * UNIT / self.count,
            1.0 - self.squared * UNIT / self._spread() if self._has_spread() else None,
        )
        return dict(zip(NAMES, values, strict=True))

    def undefined(self) -> dict[str, str]:
        """Why a measure is None, for each that is."""
        if not self.count:
            return dict.fromkeys(NAMES, "no object with a known true value")
        return {} if self._has_spread() else {"R2": "all true values are the same"}

    def _spread(self) -> float:
        """Sum of squared deviations of the true values from their mean."""
        return (self.count * self.true_squared - (self.true * self.true >> _BITS)) * UNIT / self.count

    def _has_spread(self) -> bool:
        return self._spread() > 1e-12 * self.true_squared * UNIT

    def report(self) -> dict[str, Any]:
        """The measures with their count and definitions, and why one is undefined."""
        return {
            "kind": REGRESSION,
            "column": self.column,
            "count": self.count,
            **self.measures(),
            "undefined": self.undefined(),
            "definitions": DEFINITIONS,
        }

    def to_json(self) -> dict[str, Any]:
        sums = {name: getattr(self, name) for name in _SUMS}
        return {"kind": REGRESSION, "column": self.column, "unit": UNIT, **sums}

    @classmethod
    def from_json(cls, content: Any) -> Regression:
        """Raises ValueError for anything that `to_json` would not write."""
        if required(content, "unit") != UNIT or not isinstance(required(content, "column"), str):
            raise ValueError(f"regression: unit is not {UNIT}, or column is not a string")
        sums = {name: whole(content, name, _LARGEST_SUM) for name in _SUMS}
        state = cls(content["column"], **sums)
        if not 0 <= state.count <= MOST_GALAXIES or min(state.absolute, state.squared, state.true_squared) < 0:
            raise ValueError("regression: its counts and sums are out of bounds")
        return state
