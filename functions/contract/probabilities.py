"""How good the densities p(z) of calibrated ranks are, as a state that ranks can add up.

Like those of `accuracy`, sums are whole numbers of a unit and so do not depend on the order in which ranks are
added. PIT is the probability that a galaxy's density puts below its true redshift. Standard library only.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from .packing import MOST_GALAXIES, add_counts, packed, required, unpacked, whole

UNIT = 2.0**-40  # of the sums of scores
STACK_UNIT = 2.0**-30  # of the sums of densities
PIT_BINS = 10_000
REDSHIFT_EDGES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0)
MAGNITUDE_EDGES = (16.0, 18.0, 20.0, 21.0, 22.0, 23.0, 24.0, 25.0, 26.0)
INTERVALS = {"68 %": (0.16, 0.84), "95 %": (0.025, 0.975)}
DEFINITIONS = {
    "PIT KS": "Kolmogorov-Smirnov statistic of PIT against the uniform distribution: 0 is perfect",
    "PIT CvM": "Cramér-von Mises statistic of PIT against the uniform distribution",
    "CDE loss": "mean of the integral of p(z)^2, minus 2 p at the grid point nearest to the true redshift "
    "(Izbicki & Lee 2017): smaller is better",
    "CRPS": "mean of the integral of (P(z) - [z >= true redshift])^2 (Gneiting & Raftery 2007): smaller is "
    "better",
    "Brier": "mean sum over the grid's cells of (probability - [it holds the true redshift])^2 (Brier 1950), 0 "
    "to 2: smaller is better",
    "coverage 68 %": "share of galaxies between their quantiles of 16 and 84 %",
    "coverage 95 %": "share of galaxies between their quantiles of 2.5 and 97.5 %",
}

_SCORES = ("cde", "crps", "brier")
_LARGEST_SUM = 10**40  # in UNITs
_LARGEST_STACK = 10**30
_MOST_POINTS = 5001


@dataclass(frozen=True, repr=False, eq=False)
class Scored:
    """Scores of galaxies with a density and a true redshift, each with one value per galaxy.

    cde, crps, brier: the terms of the means in DEFINITIONS; within: for each of INTERVALS, whether it contains
    the true redshift.
    """

    pit: Sequence[float]
    cde: Sequence[float]
    crps: Sequence[float]
    brier: Sequence[float]
    within: Sequence[Sequence[bool]]


@dataclass
class Coverage:
    """By bin of some quantity: the number of galaxies, and how many true redshifts each interval contains."""

    edges: tuple[float, ...]
    counts: list[list[int]]

    @classmethod
    def of(
        cls, edges: tuple[float, ...], values: Iterable[float], within: Sequence[Sequence[bool]]
    ) -> Coverage:
        made = cls(edges, [[0] * (1 + len(INTERVALS)) for _ in edges[1:]])
        for value, *inside in zip(values, *within, strict=True):
            index = bisect_right(edges, value) - 1
            if 0 <= index < len(made.counts):
                for place, counted in enumerate((True, *inside)):
                    made.counts[index][place] += bool(counted)
        return made

    def add(self, other: Coverage) -> None:
        for row, more in zip(self.counts, other.counts, strict=True):
            row[:] = [mine + theirs for mine, theirs in zip(row, more, strict=True)]

    def table(self) -> list[dict[str, Any]]:
        """A row for each bin with a galaxy: from, to, count and the share in each interval."""
        rows = zip(pairwise(self.edges), self.counts, strict=True)
        return [
            {"from": low, "to": high, "count": count, **_shares(inside, count)}
            for (low, high), (count, *inside) in rows
            if count
        ]

    @classmethod
    def from_json(cls, content: Any, edges: tuple[float, ...]) -> Coverage:
        """Raises ValueError."""
        if not isinstance(content, list) or len(content) != len(edges) - 1:
            raise ValueError(f"coverage: it is not a list of {len(edges) - 1} bins")
        counts = [_counts(row, 1 + len(INTERVALS)) for row in content]
        if any(inside > count for count, *insides in counts for inside in insides):
            raise ValueError("coverage: an interval holds more galaxies than there are")
        return cls(edges, counts)


@dataclass
class Stack:
    """The sum of densities on a grid from 0 in steps, in STACK_UNITs: n(z) of the galaxies."""

    step: float
    sums: list[int]

    def add(self, other: Stack) -> None:
        self.sums = [mine + theirs for mine, theirs in zip(self.sums, other.sums, strict=True)]

    def densities(self, count: int) -> list[float]:
        """The mean density at each point of the grid; count: of the galaxies."""
        return [total * STACK_UNIT / max(count, 1) for total in self.sums]

    @classmethod
    def from_json(cls, content: Any) -> Stack:
        """Raises ValueError."""
        step, sums = required(content, "step"), required(content, "sums")
        if type(step) not in (int, float) or not 0 < step < math.inf:
            raise ValueError("stack: step is not a positive number")
        if not isinstance(sums, list) or not 2 <= len(sums) <= _MOST_POINTS:
            raise ValueError(f"stack: sums is not a list of 2 to {_MOST_POINTS} numbers")
        return cls(step, _counts(sums, len(sums), _LARGEST_STACK))


@dataclass
class Probabilities:
    """Sums over galaxies with a density and a known redshift; `stacked` counts all that have a density.

    stack: None after ranks with different grids were added.
    """

    stack: Stack | None
    by_magnitude: Coverage
    by_redshift: Coverage
    stacked: int = 0
    count: int = 0
    cde: int = 0
    crps: int = 0
    brier: int = 0
    within: list[int] = field(default_factory=lambda: [0] * len(INTERVALS))
    pit: Counter[int] = field(default_factory=Counter)

    @classmethod
    def of(
        cls, stack: Stack, stacked: int, scored: Scored, magnitude: Sequence[float], predicted: Sequence[float]
    ) -> Probabilities:
        """magnitude, predicted: those of the scored galaxies."""
        return cls(
            stack=stack,
            stacked=stacked,
            by_magnitude=Coverage.of(MAGNITUDE_EDGES, magnitude, scored.within),
            by_redshift=Coverage.of(REDSHIFT_EDGES, predicted, scored.within),
            count=len(scored.pit),
            **{name: sum(math.floor(value / UNIT) for value in getattr(scored, name)) for name in _SCORES},
            within=[sum(map(bool, inside)) for inside in scored.within],
            pit=Counter(max(0, min(PIT_BINS - 1, int(value * PIT_BINS))) for value in scored.pit),
        )

    def add(self, other: Probabilities) -> None:
        for name in ("stacked", "count", *_SCORES):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.within = [mine + theirs for mine, theirs in zip(self.within, other.within, strict=True)]
        add_counts(self.pit, other.pit)
        self.by_magnitude.add(other.by_magnitude)
        self.by_redshift.add(other.by_redshift)
        mine, theirs = self.stack, other.stack
        if mine is None or theirs is None or (mine.step, len(mine.sums)) != (theirs.step, len(theirs.sums)):
            self.stack = None
        else:
            mine.add(theirs)

    def report(self) -> dict[str, Any]:
        """The measures of DEFINITIONS, None without a known redshift; PIT by tenth; coverage by bin; n(z)."""
        tenths = [0] * 10
        for index, galaxies in self.pit.items():
            tenths[index * 10 // PIT_BINS] += galaxies
        return {
            "count": self.count,
            **self.measures(),
            "PIT KS error at most": 1.0 / PIT_BINS,
            "PIT by tenth": tenths,
            "coverage by magnitude": self.by_magnitude.table(),
            "coverage by predicted redshift": self.by_redshift.table(),
            "n(z)": None
            if self.stack is None
            else {"step": self.stack.step, "density": self.stack.densities(self.stacked)},
            "definitions": DEFINITIONS,
        }

    def measures(self) -> dict[str, float | None]:
        if not self.count:
            return dict.fromkeys(DEFINITIONS)
        return {
            "PIT KS": self._kolmogorov_smirnov(),
            "PIT CvM": self._cramer_von_mises(),
            "CDE loss": self.cde * UNIT / self.count,
            "CRPS": self.crps * UNIT / self.count,
            "Brier": self.brier * UNIT / self.count,
            **{f"coverage {name}": share for name, share in _shares(self.within, self.count).items()},
        }

    def _kolmogorov_smirnov(self) -> float:
        """The statistic at the edges of the bins; within a bin it differs by at most a bin's width."""
        largest, below = 0.0, 0
        for index in sorted(self.pit):
            largest = max(largest, abs(below / self.count - index / PIT_BINS))
            below += self.pit[index]
            largest = max(largest, abs(below / self.count - (index + 1) / PIT_BINS))
        return largest

    def _cramer_von_mises(self) -> float:
        """1 / 12 n + the sum of ((2 i + 1) / 2 n - PIT of galaxy i)^2, each in the middle of its bin.

        The sums of (2 i + 1) and of (2 i + 1)^2 for i below k are k^2 and k (4 k^2 - 1) / 3.
        """
        count = self.count
        total, before = 1.0 / (12 * count), 0
        for index, galaxies in sorted(self.pit.items()):
            middle, after = (index + 0.5) / PIT_BINS, before + galaxies
            odd, squares = (
                after**2 - before**2,
                (after * (4 * after**2 - 1) - before * (4 * before**2 - 1)) // 3,
            )
            total += squares / (4 * count**2) - middle * odd / count + galaxies * middle**2
            before = after
        return total

    def to_json(self) -> dict[str, Any]:
        sums = {name: getattr(self, name) for name in ("stacked", "count", *_SCORES, "within")}
        return {
            **sums,
            "unit": UNIT,
            "pit": packed(self.pit),
            "by_magnitude": self.by_magnitude.counts,
            "by_redshift": self.by_redshift.counts,
            "stack": None if self.stack is None else {"step": self.stack.step, "sums": self.stack.sums},
        }

    @classmethod
    def from_json(cls, content: Any) -> Probabilities:
        """Raises ValueError for anything that `to_json` would not write."""
        if required(content, "unit") != UNIT:
            raise ValueError(f"probabilities: unit is not {UNIT}")
        stack = required(content, "stack")
        made = cls(
            stack=None if stack is None else Stack.from_json(stack),
            by_magnitude=Coverage.from_json(required(content, "by_magnitude"), MAGNITUDE_EDGES),
            by_redshift=Coverage.from_json(required(content, "by_redshift"), REDSHIFT_EDGES),
            stacked=whole(content, "stacked", MOST_GALAXIES),
            count=whole(content, "count", MOST_GALAXIES),
            **{name: whole(content, name, _LARGEST_SUM) for name in _SCORES},
            within=_counts(required(content, "within"), len(INTERVALS)),
            pit=unpacked(required(content, "pit"), 0, PIT_BINS - 1),
        )
        if not 0 <= max(made.within) <= made.count <= made.stacked or made.pit.total() != made.count:
            raise ValueError("probabilities: its counts of galaxies contradict each other")
        return made


def _shares(inside: Iterable[int], count: int) -> dict[str, float]:
    return {name: number / count for name, number in zip(INTERVALS, inside, strict=True)}


def _counts(content: Any, length: int, largest: int = MOST_GALAXIES) -> list[int]:
    """A list of whole numbers from 0. Raises ValueError."""
    good = isinstance(content, list) and len(content) == length
    if not good or not all(type(value) is int and 0 <= value <= largest for value in content):
        raise ValueError(f"probabilities: expected a list of {length} whole numbers within bounds")
    return list(content)
