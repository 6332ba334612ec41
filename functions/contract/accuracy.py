"""Accuracy of photometric redshifts as a state that ranks can add up, and the field's measures from it.

With dz = (z_pred - z) / (1 + z): bias is the mean of dz, precision (NMAD) 1.48 median|dz - median dz|, the
outlier fraction the share of |dz| > 0.15 (Hildebrandt et al. 2010, A&A 523, A31; NMAD after Ilbert et al.
2006, A&A 457, 841). Sums are whole numbers of UNIT, so that they do not depend on the order in which ranks are
added; the medians come from a histogram of dz with bins of BIN_WIDTH, which
bounds the error of NMAD by 1.48 BIN_WIDTH as long as half of all |dz| are below RANGE.

Standard library only, since both the ranks and Summarize use it.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from .field_measures import DEFINITIONS, field_measures
from .missing import is_known
from .packing import MOST_GALAXIES, add_counts, packed, required, unpacked, whole
from .probabilities import MAGNITUDE_EDGES, REDSHIFT_EDGES, Probabilities

NMAD_FACTOR = 1.48  # the historic one, with which "precision" was published for AstroMAE
NORMAL_NMAD_FACTOR = 1.4826  # 1 / (sqrt(2) erfinv(1/2)): NMAD is then the standard deviation of a normal dz
OUTLIER_LIMIT = 0.15
BIN_WIDTH = 1e-4
UNIT = 2.0**-50  # of the sums: far below what float32 redshifts resolve
RANGE = 1.0  # |dz| beyond it counts in the last bin
NMAD_ERROR = NMAD_FACTOR * BIN_WIDTH
NAMES = ("MAE", "MSE", "bias", "precision (NMAD)", "R2", "outlier fraction")
DENSITY_WIDTH = 0.05  # of a bin of the density of predicted against true redshifts, 0 to 3
DENSITY_BINS = 60
PREDICTED_WIDTH = 0.01  # of a bin of predicted redshifts
PREDICTED_RANGE = (-1.0, 20.0)  # values outside count in the first or the last bin

_LAST_BIN = round(RANGE / BIN_WIDTH)
_LARGEST_SUM = 10**120  # in UNITs: of 2**53 galaxies with float32 redshifts


_SUMS = ("count", "absolute", "squared", "scaled", "true", "true_squared", "outliers")


@dataclass
class Accuracy:
    """Sums over galaxies with a known redshift, in UNITs, and the histogram {bin: galaxies} of dz."""

    count: int = 0
    absolute: int = 0  # sum of |z_pred - z|
    squared: int = 0  # sum of (z_pred - z)^2
    scaled: int = 0  # sum of dz
    true: int = 0  # sum of z
    true_squared: int = 0  # sum of z^2
    outliers: int = 0
    histogram: Counter[int] = field(default_factory=Counter)

    def add(self, other: Accuracy) -> None:
        for name in _SUMS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        add_counts(self.histogram, other.histogram)

    @classmethod
    def of(cls, predicted: Iterable[float], true: Iterable[float]) -> Accuracy:
        """The state of some galaxies; those without a known redshift are left out."""
        state = cls()
        for guess, z in zip(predicted, true, strict=True):
            if is_known(z):
                state._add_one(float(guess), float(z))
        return state

    def _add_one(self, guess: float, z: float) -> None:
        error = guess - z
        scaled = error / (1.0 + z)
        self.count += 1
        self.absolute += int(abs(error) / UNIT)
        self.squared += int(error * error / UNIT)
        self.scaled += int(scaled / UNIT)
        self.true += int(z / UNIT)
        self.true_squared += int(z * z / UNIT)
        self.outliers += abs(scaled) > OUTLIER_LIMIT
        self.histogram[max(-_LAST_BIN, min(_LAST_BIN, round(scaled / BIN_WIDTH)))] += 1

    def measures(self, nmad_factor: float = NMAD_FACTOR) -> dict[str, float | None]:
        """The measures of NAMES; an undefined one is None, and `undefined` gives the reason."""
        if not self.count:
            return dict.fromkeys(NAMES)
        values = (
            self.absolute * UNIT / self.count,
            self.squared * UNIT / self.count,
            self.scaled * UNIT / self.count,
            nmad_factor * self._median_deviation(),
            1.0 - self.squared * UNIT / self._spread() if self._has_spread() else None,
            self.outliers / self.count,
        )
        return dict(zip(NAMES, values, strict=True))

    def undefined(self) -> dict[str, str]:
        """{measure: why it is None}."""
        if not self.count:
            return dict.fromkeys(NAMES, "no galaxy with a known redshift")
        return {} if self._has_spread() else {"R2": "all known redshifts are the same"}

    def _spread(self) -> float:
        """Sum of squared deviations of z from its mean."""
        return self.true_squared * UNIT - (self.true * UNIT) ** 2 / self.count

    def _has_spread(self) -> bool:
        return self._spread() > 1e-12 * self.true_squared * UNIT

    def _median_deviation(self) -> float:
        median = _median(self.histogram)
        deviations: Counter[float] = Counter()
        for index, galaxies in self.histogram.items():
            deviations[abs(index - median)] += galaxies
        return _median(deviations) * BIN_WIDTH

    def to_json(self) -> dict[str, Any]:
        """Compact: some kilobytes at most, whatever the number of galaxies."""
        sums = {k: v for k, v in vars(self).items() if k != "histogram"}
        return {**sums, "unit": UNIT, "bin_width": BIN_WIDTH, "histogram": packed(self.histogram)}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Accuracy:
        """Raises ValueError for another unit or bin width, and for counts that contradict each other."""
        for name, ours in (("unit", UNIT), ("bin_width", BIN_WIDTH)):
            if required(content, name) != ours:
                raise ValueError(f"accuracy state: {name} is not {ours}")
        sums = {name: whole(content, name, _LARGEST_SUM) for name in _SUMS}
        histogram = unpacked(required(content, "histogram"), -_LAST_BIN, _LAST_BIN)
        state = cls(histogram=histogram, **sums)
        if not 0 <= state.outliers <= state.count <= MOST_GALAXIES or histogram.total() != state.count:
            raise ValueError("accuracy state: its counts of galaxies contradict each other")
        return state


@dataclass
class BinnedAccuracy:
    """Accuracy in bins of some quantity: `states[i]` covers edges[i] <= value < edges[i + 1]."""

    edges: tuple[float, ...]
    states: list[Accuracy]

    @classmethod
    def of(
        cls,
        edges: tuple[float, ...],
        values: Iterable[float],
        predicted: Iterable[float],
        true: Iterable[float],
    ) -> BinnedAccuracy:
        binned = cls(edges, [Accuracy() for _ in edges[1:]])
        for value, guess, z in zip(values, predicted, true, strict=True):
            index = bisect_right(edges, value) - 1
            if 0 <= index < len(binned.states) and is_known(z):
                binned.states[index]._add_one(float(guess), float(z))
        return binned

    def add(self, other: BinnedAccuracy) -> None:
        """Raises ValueError for other edges."""
        if other.edges != self.edges:
            raise ValueError(f"accuracy bins: edges {other.edges} are not {self.edges}")
        for state, more in zip(self.states, other.states, strict=True):
            state.add(more)

    def table(self) -> list[dict[str, Any]]:
        """A row for each bin that holds a galaxy: from, to, count and the measures."""
        bins = zip(pairwise(self.edges), self.states, strict=True)
        return [
            {"from": low, "to": high, "count": state.count, **state.measures()}
            for (low, high), state in bins
            if state.count
        ]

    def to_json(self) -> dict[str, Any]:
        return {"edges": self.edges, "states": [state.to_json() for state in self.states]}

    @classmethod
    def from_json(cls, content: dict[str, Any], edges: tuple[float, ...]) -> BinnedAccuracy:
        """Raises ValueError for a state of other edges."""
        states = required(content, "states")
        if required(content, "edges") != list(edges) or not isinstance(states, list):
            raise ValueError(f"accuracy bins: the edges are not {edges}")
        if len(states) != len(edges) - 1:
            raise ValueError(f"accuracy bins: {len(states)} states for {len(edges) - 1} bins")
        return cls(edges, [Accuracy.from_json(state) for state in states])


@dataclass
class Density:
    """Galaxies by true and predicted redshift, {DENSITY_BINS * true bin + predicted bin: galaxies}."""

    counts: Counter[int] = field(default_factory=Counter)

    @classmethod
    def of(cls, predicted: Iterable[float], true: Iterable[float]) -> Density:
        density = cls()
        for guess, z in zip(predicted, true, strict=True):
            if is_known(z):
                density.counts[DENSITY_BINS * _density_bin(z) + _density_bin(guess)] += 1
        return density

    def add(self, other: Density) -> None:
        add_counts(self.counts, other.counts)

    def cells(self) -> list[tuple[int, int, int]]:
        """(true bin, predicted bin, galaxies) of every bin that holds one."""
        return [(*divmod(index, DENSITY_BINS), count) for index, count in sorted(self.counts.items())]

    def to_json(self) -> dict[str, Any]:
        return {"width": DENSITY_WIDTH, "counts": packed(self.counts)}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Density:
        """Raises ValueError for a state of another bin width."""
        if required(content, "width") != DENSITY_WIDTH:
            raise ValueError(f"density state: width is not {DENSITY_WIDTH}")
        return cls(unpacked(required(content, "counts"), 0, DENSITY_BINS**2 - 1))


_PREDICTED_BINS = tuple(round(edge / PREDICTED_WIDTH) for edge in PREDICTED_RANGE)


@dataclass
class Predicted:
    """Galaxies by predicted redshift, {bin: galaxies}; bin i begins at i PREDICTED_WIDTH."""

    counts: Counter[int] = field(default_factory=Counter)

    @classmethod
    def of(cls, predicted: Iterable[float]) -> Predicted:
        """The histogram of finite redshifts."""
        first, last = _PREDICTED_BINS[0], _PREDICTED_BINS[1] - 1
        return cls(Counter(max(first, min(last, math.floor(z / PREDICTED_WIDTH))) for z in predicted))

    def add(self, other: Predicted) -> None:
        add_counts(self.counts, other.counts)

    def to_json(self) -> dict[str, Any]:
        return {"width": PREDICTED_WIDTH, "counts": packed(self.counts)}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Predicted:
        """Raises ValueError for a state of another bin width."""
        if required(content, "width") != PREDICTED_WIDTH:
            raise ValueError(f"predicted redshifts: width is not {PREDICTED_WIDTH}")
        return cls(unpacked(required(content, "counts"), _PREDICTED_BINS[0], _PREDICTED_BINS[1] - 1))


def _density_bin(redshift: float) -> int:
    return max(0, min(DENSITY_BINS - 1, int(redshift / DENSITY_WIDTH)))


@dataclass
class Metrics:
    """The accuracy of a run: overall, by true redshift and by reference magnitude."""

    total: Accuracy
    by_redshift: BinnedAccuracy
    by_magnitude: BinnedAccuracy
    density: Density = field(default_factory=lambda: Density())
    probabilities: Probabilities | None = None  # of a calibrated model

    @classmethod
    def of(cls, predicted: Iterable[float], true: Iterable[float], magnitude: Iterable[float]) -> Metrics:
        predicted, true = list(predicted), list(true)
        return cls(
            Accuracy.of(predicted, true),
            BinnedAccuracy.of(REDSHIFT_EDGES, true, predicted, true),
            BinnedAccuracy.of(MAGNITUDE_EDGES, magnitude, predicted, true),
            Density.of(predicted, true),
        )

    def add(self, other: Metrics) -> None:
        self.total.add(other.total)
        self.by_redshift.add(other.by_redshift)
        self.by_magnitude.add(other.by_magnitude)
        self.density.add(other.density)
        if self.probabilities is None:
            self.probabilities = other.probabilities
        elif other.probabilities is not None:
            self.probabilities.add(other.probabilities)

    def report(self) -> dict[str, Any]:
        """The measures with their counts, bounds on their errors, and the reasons for undefined ones."""
        return {
            "count": self.total.count,
            **self.total.measures(),
            "precision (NMAD) error at most": NMAD_ERROR,
            "NMAD with factor 1.4826": self.total.measures(NORMAL_NMAD_FACTOR)["precision (NMAD)"],
            "undefined": self.total.undefined(),
            "RAIL's measures": {**field_measures(self.total.histogram, BIN_WIDTH), "definitions": DEFINITIONS},
            "probabilities": None if self.probabilities is None else self.probabilities.report(),
            "by redshift": self.by_redshift.table(),
            "by magnitude": self.by_magnitude.table(),
        }

    def to_json(self) -> dict[str, Any]:
        return {name: part.to_json() for name, part in vars(self).items() if part is not None}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Metrics:
        """Raises ValueError for anything that `to_json` would not write."""
        return cls(
            Accuracy.from_json(required(content, "total")),
            BinnedAccuracy.from_json(required(content, "by_redshift"), REDSHIFT_EDGES),
            BinnedAccuracy.from_json(required(content, "by_magnitude"), MAGNITUDE_EDGES),
            Density.from_json(required(content, "density")),
            Probabilities.from_json(content["probabilities"]) if "probabilities" in content else None,
        )


def exact_nmad(predicted: Iterable[float], true: Iterable[float], factor: float = NMAD_FACTOR) -> float | None:
    """NMAD from the galaxies themselves, without the histogram's error; None if no redshift is known."""
    scaled = [(guess - z) / (1.0 + z) for guess, z in zip(predicted, true, strict=True) if is_known(z)]
    if not scaled:
        return None
    middle = _middle(scaled)
    return factor * _middle(abs(value - middle) for value in scaled)


def _middle(values: Iterable[float]) -> float:
    """The median, without the module statistics, which takes 2 ms to import."""
    ordered = sorted(values)
    half = len(ordered) // 2
    return (ordered[half] + ordered[~half]) / 2


def _median(histogram: Counter[Any]) -> float:
    """The median bin, or the mean of two bins if half of the galaxies are on either side."""
    total, seen = sum(histogram.values()), 0
    halves = []  # the bins of the lower and the upper middle galaxy
    for index in sorted(histogram):
        before, seen = seen, seen + histogram[index]
        halves += [index for middle in ((total - 1) // 2, total // 2) if before <= middle < seen]
    return sum(halves) / 2
