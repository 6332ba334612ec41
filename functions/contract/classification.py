"""How good the classes of a network are, as a state that ranks can add up, and the usual measures from it.

Counts and sums are whole numbers, the sums of UNIT, so that they do not depend on the order in which ranks are
added. Uses only the standard library.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from .mapping import CLASSIFICATION, MOST_CLASSES
from .packing import MOST_GALAXIES, packed, required, unpacked, whole

UNIT = 2.0**-50  # of the sums: far below what float32 probabilities resolve
LEAST_PROBABILITY = 2.0**-23  # that the log loss counts with: float32's resolution, as scikit-learn's log_loss
DEFINITIONS = {
    "accuracy": "share of the objects whose most probable class is the true one",
    "balanced accuracy": "mean recall of the classes that have an object",
    "log loss": "mean of -ln(probability of the true class), which counts as 2^-23 at least",
    "Brier score": "mean sum over the classes of (probability - [it is the true one])^2 (Brier 1950), 0 to 2",
    "precision": "share of the objects predicted to be of a class that are of it",
    "recall": "share of the objects of a class that are predicted to be of it",
    "F1": "harmonic mean of precision and recall",
}
NAMES = ("accuracy", "balanced accuracy", "log loss", "Brier score")
_LARGEST_SUM = 10**40  # in UNITs


@dataclass
class Classification:
    """Objects by true and most probable class, {K * true + predicted: objects}, and sums in UNITs."""

    column: str
    classes: tuple[str, ...]
    confusion: Counter[int] = field(default_factory=Counter)
    log_loss: int = 0
    brier: int = 0

    @classmethod
    def of(
        cls,
        column: str,
        classes: Sequence[str],
        true: Iterable[int],
        predicted: Iterable[int],
        of_true: Iterable[float],
        brier: Iterable[float],
    ) -> Classification:
        """Of objects whose class is known. true, predicted: numbers of classes; of_true: the probability of the
        true class; brier: the sum of an object's squared differences."""
        state = cls(column, tuple(classes))
        for is_class, predicted_class, probability, square in zip(true, predicted, of_true, brier, strict=True):
            state.confusion[len(classes) * is_class + predicted_class] += 1
            state.log_loss += int(-math.log(min(1.0, max(probability, LEAST_PROBABILITY))) / UNIT)
            state.brier += int(square / UNIT)
        return state

    @property
    def count(self) -> int:
        return self.confusion.total()

    def add(self, other: Classification) -> None:
        """Raises ValueError for other classes."""
        if (other.column, other.classes) != (self.column, self.classes):
            raise ValueError(f"classification: the classes {other.classes} are not {self.classes}")
        self.confusion.update(other.confusion)
        self.log_loss += other.log_loss
        self.brier += other.brier

    def measures(self) -> dict[str, float | None]:
        """The measures of NAMES; None without objects."""
        count = self.count
        if not count:
            return dict.fromkeys(NAMES)
        recalls = [one["recall"] for one in self.table() if one["recall"] is not None]
        values = (
            sum(self._cell(one, one) for one in range(len(self.classes))) / count,
            sum(recalls) / len(recalls),
            self.log_loss * UNIT / count,
            self.brier * UNIT / count,
        )
        return dict(zip(NAMES, values, strict=True))

    def undefined(self) -> dict[str, str]:
        """Why a measure is None, for each that is."""
        return {} if self.count else dict.fromkeys(NAMES, "no object with a known class")

    def table(self) -> list[dict[str, Any]]:
        """A row for each class: its objects, those that were given it, precision, recall and F1 (None: 0/0)."""
        rows, every = [], range(len(self.classes))
        for number, name in enumerate(self.classes):
            hits = self._cell(number, number)
            count = sum(self._cell(number, one) for one in every)
            predicted = sum(self._cell(one, number) for one in every)
            rows.append(
                {
                    "class": name,
                    "count": count,
                    "predicted": predicted,
                    "precision": hits / predicted if predicted else None,
                    "recall": hits / count if count else None,
                    "F1": 2 * hits / (count + predicted) if count + predicted else None,
                }
            )
        return rows

    def _cell(self, true: int, predicted: int) -> int:
        return self.confusion[len(self.classes) * true + predicted]

    def report(self) -> dict[str, Any]:
        """The measures with their counts and definitions; confusion: a row of objects for each true class."""
        every = range(len(self.classes))
        return {
            "kind": CLASSIFICATION,
            "column": self.column,
            "count": self.count,
            **self.measures(),
            "undefined": self.undefined(),
            "classes": self.table(),
            "confusion": [[self._cell(true, predicted) for predicted in every] for true in every],
            "definitions": DEFINITIONS,
        }

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": CLASSIFICATION,
            "column": self.column,
            "classes": list(self.classes),
            "unit": UNIT,
            "confusion": packed(self.confusion),
            "log_loss": self.log_loss,
            "brier": self.brier,
        }

    @classmethod
    def from_json(cls, content: Any) -> Classification:
        """Raises ValueError for anything that `to_json` would not write."""
        if required(content, "unit") != UNIT:
            raise ValueError(f"classification: unit is not {UNIT}")
        column, classes = required(content, "column"), required(content, "classes")
        texts = isinstance(classes, list) and all(isinstance(one, str) for one in classes)
        if not isinstance(column, str) or not texts or not 2 <= len(classes) <= MOST_CLASSES:
            raise ValueError("classification: column and classes are not those of a network")
        confusion = unpacked(required(content, "confusion"), 0, len(classes) ** 2 - 1)
        sums = [whole(content, name, _LARGEST_SUM) for name in ("log_loss", "brier")]
        if confusion.total() > MOST_GALAXIES or min(sums) < 0:
            raise ValueError("classification: its counts and sums are out of bounds")
        return cls(column, tuple(classes), confusion, *sums)
