"""What the charts of report.html draw, from a run's summary and rank infos."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from .contract.accuracy import (
    BIN_WIDTH,
    DENSITY_BINS,
    DENSITY_WIDTH,
    OUTLIER_LIMIT,
    PREDICTED_WIDTH,
    Metrics,
    Predicted,
)
from .contract.limits import PHASES
from .contract.mapping import REDSHIFT
from .contract.metrics import kind_of
from .contract.rank_info import RankInfo
from .contract.run_records import Summary

Json = dict[str, Any]

LAST_CELL = (DENSITY_BINS - 1) * DENSITY_WIDTH  # the redshift at which the last cell of the density plot begins
FEWEST = 10  # galaxies of a bin whose accuracy is drawn: of fewer it is mostly chance
_MOST_RANKS = 5000  # that charts of ranks draw: more would be slow to open, and narrower than a pixel
_ERROR_BIN = 0.005  # of the histogram of scaled errors
_ERROR_RANGE = 0.3
_MOST_BARS = 90  # of the histogram of predicted redshifts
_LEFT_OUT = 0.002  # of the galaxies, at either end of that histogram
_COARSER = (1, 2, 5, 10, 20, 50, 100, 200)  # bins of PREDICTED_WIDTH in one bar


def chart_data(summary: Summary, infos: list[RankInfo]) -> Json:
    """Everything that the page's script draws, as JSON."""
    metrics = _metrics(summary)
    return {
        "accuracy": None if metrics is None else summary.accuracy,
        "outlier": OUTLIER_LIMIT,
        "fewest": FEWEST,
        "density": {
            "width": DENSITY_WIDTH,
            "bins": DENSITY_BINS,
            "cells": [] if metrics is None else metrics.density.cells(),
        },
        "errors": [] if metrics is None else _errors(metrics.total.histogram),
        "predicted": predicted_histogram(summary).bars,
        "ranks": _timeline(summary, infos[:: rank_step(infos)]),
    }


def _metrics(summary: Summary) -> Metrics | None:
    """Of redshifts; None for a run that has none, or measures something else."""
    state = summary.accuracy_state
    return None if state is None or kind_of(state) != REDSHIFT else Metrics.from_json(state)


def _errors(histogram: Counter[int]) -> list[tuple[float, int]]:
    """(middle of a bin, galaxies) of the scaled errors within ±_ERROR_RANGE."""
    per_bin, last = round(_ERROR_BIN / BIN_WIDTH), round(_ERROR_RANGE / _ERROR_BIN)
    coarse: Counter[int] = Counter()
    for index, galaxies in histogram.items():
        coarse[index // per_bin] += galaxies
    return [(round((index + 0.5) * _ERROR_BIN, 4), coarse[index]) for index in range(-last, last)]


def errors_beyond(summary: Summary) -> int:
    """Galaxies whose scaled error is outside the histogram."""
    metrics = _metrics(summary)
    return (
        0
        if metrics is None
        else metrics.total.count - sum(count for _, count in _errors(metrics.total.histogram))
    )


def drawn_at_the_edge(summary: Summary) -> int:
    """Galaxies in the last cells of the density plot, which also hold redshifts beyond it."""
    metrics, last = _metrics(summary), DENSITY_BINS - 1
    cells = [] if metrics is None else metrics.density.cells()
    return sum(count for true, predicted, count in cells if last in (true, predicted))


@dataclass(frozen=True)
class Histogram:
    """Bars (from, to, galaxies) of one width, and how many galaxies are below and above them."""

    bars: list[tuple[float, float, int]] = field(default_factory=list)
    below: int = 0
    above: int = 0

    @property
    def count(self) -> int:
        """All galaxies, drawn or not."""
        return self.below + self.above + sum(galaxies for _, _, galaxies in self.bars)


def predicted_histogram(summary: Summary) -> Histogram:
    """The predicted redshifts in at most _MOST_BARS bars, without the few outliers at either end."""
    state = summary.predicted_redshifts
    counts = Counter[int]() if state is None else Predicted.from_json(state).counts
    if not counts:
        return Histogram()
    first, last = _inner(counts)
    size = next((size for size in _COARSER if last // size - first // size < _MOST_BARS), _COARSER[-1])
    groups: Counter[int] = Counter()
    for index, galaxies in counts.items():
        groups[index // size] += galaxies
    width, drawn = size * PREDICTED_WIDTH, range(first // size, last // size + 1)
    return Histogram(
        [(round(group * width, 4), round((group + 1) * width, 4), groups[group]) for group in drawn],
        sum(galaxies for group, galaxies in groups.items() if group < drawn.start),
        sum(galaxies for group, galaxies in groups.items() if group >= drawn.stop),
    )


def _inner(counts: Counter[int]) -> tuple[int, int]:
    """The first and the last bin with at most _LEFT_OUT of all galaxies below and above them."""
    most, bins = int(_LEFT_OUT * counts.total()), sorted(counts)

    def beyond(order: list[int]) -> int:
        seen = 0
        for index in order:
            seen += counts[index]
            if seen > most:
                return index
        return order[-1]

    return beyond(bins), beyond(bins[::-1])


def rank_step(infos: list[RankInfo]) -> int:
    """1 if the charts of ranks draw every rank, 2 if every second one, and so on."""
    return max(1, math.ceil(len(infos) / _MOST_RANKS))


def _timeline(summary: Summary, infos: list[RankInfo]) -> list[list[Any]]:
    """[rank, seconds from the run's start, cold, seconds of each phase…, images/s, MB] of each rank."""
    rows = []
    for info in infos:
        if info.ended is None or info.duration is None:
            continue
        phases = [round(info.figure(f"{phase} (seconds)") or 0.0, 4) for phase in PHASES]
        start = round(max(info.ended - info.duration - summary.began, 0.0), 3)
        rows.append(
            [info.rank, start, bool(info.cold_start), *phases, info.sample_persec, info.total_process_memory]
        )
    return rows
