"""What an imported network predicts besides redshifts, from its graph's outputs to columns and metrics."""

from __future__ import annotations

import json
from collections.abc import Mapping as Named
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .contract.classification import Classification
from .contract.mapping import CLASSIFICATION, REDSHIFT, Mapping, Output
from .contract.names import METADATA
from .contract.regression import Regression

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]

SUM_TOLERANCE = 1e-3  # by which the probabilities of an object may miss a sum of 1


@dataclass(repr=False, eq=False)
class ImportedOutputs:
    """Outputs (N, …) by column, collected batch by batch; probabilities in place of logits."""

    mapping: Mapping | None = None
    _parts: dict[str, list[Floats]] = field(default_factory=dict)

    @property
    def outputs(self) -> list[Output]:
        return [one for one in self.mapping.outputs if one.kind != REDSHIFT] if self.mapping is not None else []

    def keep(self, outputs: Named[str, Floats]) -> None:
        """What the engine has computed for the next objects."""
        for one in self.outputs:
            raw = outputs[one.column]
            self._parts.setdefault(one.column, []).append(
                probabilities(one, raw) if one.kind == CLASSIFICATION else raw
            )

    def _values(self, output: Output) -> Floats:
        width = (len(output.classes),) if output.kind == CLASSIFICATION else tuple(output.shape)
        return np.concatenate([*self._parts.get(output.column, []), np.empty((0, *width), np.float32)])

    def finite(self, count: int) -> Mask:
        """Which of the `count` objects have a finite value in every output."""
        finite = np.ones(count, bool)
        for one in self.outputs:
            finite &= np.isfinite(self._values(one).reshape(count, -1)).all(1)
        return finite

    def without(self, objects: Mask) -> None:
        """Some objects (N,) have no prediction."""
        for one in self.outputs:
            values = self._values(one)
            values[objects] = np.nan
            self._parts[one.column] = [values]

    def columns(self) -> dict[str, NDArray[Any]]:
        """By name. Of classes their name ('' for none) and the probability of each; of other outputs the
        values, NaN for none."""
        columns: dict[str, NDArray[Any]] = {}
        for one in self.outputs:
            values = self._values(one)
            if one.kind == CLASSIFICATION:
                columns[one.column] = _named(one, _most_probable(values))
                columns |= dict(zip(one.columns[1:], values.T, strict=True))
            else:
                scalar = one.shape in ([], [1])
                columns[one.column] = values.reshape(len(values), -1)[:, 0] if scalar else values
        return columns

    def metadata(self) -> dict[str, NDArray[Any]]:
        """Units, UCDs and descriptions as an array that holds JSON; {} where nothing is imported."""
        if self.mapping is None:
            return {}
        metadata = {name: column.metadata() for name, column in self.mapping.catalogue_columns.items()}
        return {METADATA: np.array(json.dumps(metadata))}

    def true_column(self, true: Floats) -> dict[str, NDArray[Any]]:
        """The true values (N,), of classes their names; {} where the mapping compares none of its own."""
        compared = self._compared
        if compared is None:
            return {}
        classes = compared.kind == CLASSIFICATION
        return {compared.true_column: _named(compared, _numbers(compared, true)) if classes else true}

    @property
    def _compared(self) -> Output | None:
        compared = None if self.mapping is None else self.mapping.compared
        return None if compared is None or compared.kind == REDSHIFT else compared

    def metrics(self, true: Floats) -> Classification | Regression | None:
        """Of the objects that have a prediction and a true value (N,)."""
        compared = self._compared
        if compared is None:
            return None
        values = self._values(compared)
        known = np.isfinite(true) & np.isfinite(values.reshape(len(true), -1)).all(1)
        values, true = values[known], true[known]
        if compared.kind != CLASSIFICATION:
            return Regression.of(compared.column, values.reshape(-1).tolist(), true.tolist())
        numbers = _numbers(compared, true)
        exact = np.asarray(values, np.float64)
        hits = np.asarray(np.arange(len(compared.classes)) == numbers[:, None])
        return Classification.of(
            compared.column,
            compared.classes,
            numbers.tolist(),
            _most_probable(values).tolist(),
            exact[hits].tolist(),
            ((exact - hits) ** 2).sum(1).tolist(),
        )


def probabilities(output: Output, raw: Floats) -> Floats:
    """(N, K) of a graph's output; NaN for an object whose values are not probabilities."""
    with np.errstate(over="ignore", invalid="ignore"):
        values = raw.astype(np.float64)
        if tuple(output.shape) in ((), (1,)):  # of the second of two classes
            second = values.reshape(-1, 1)
            second = 1 / (1 + np.exp(-second)) if output.logits else second
            values = np.concatenate([1 - second, second], axis=1)
        elif output.logits:
            values = np.exp(values - values.max(1, keepdims=True))
            values /= values.sum(1, keepdims=True)
        fits = (values >= 0).all(1) & (values <= 1 + SUM_TOLERANCE).all(1)
        fits &= np.abs(values.sum(1) - 1) <= SUM_TOLERANCE
    return np.where(fits[:, None], values, np.nan).astype(np.float32)


def _most_probable(values: Floats) -> NDArray[np.intp]:
    """(N,): the number of the class, the first of equals; -1 if there is none."""
    known = np.asarray(np.isfinite(values).all(1))
    return np.where(known, np.where(known[:, None], values, 0).argmax(1), -1)


def _numbers(output: Output, true: Floats) -> NDArray[np.intp]:
    """The number of the class of each label (N,); -1 where it is not known."""
    numbers = np.full(len(true), -1)
    for number, label in enumerate(output.labels):
        numbers[np.equal(true, np.float32(label))] = number
    return numbers


def _named(output: Output, numbers: NDArray[np.intp]) -> NDArray[Any]:
    return np.array([*output.classes, ""])[numbers]
