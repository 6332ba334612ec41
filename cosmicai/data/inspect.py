"""Looking into a source: figures of its columns, and what `data prepare` would make of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from cosmicai.data import layout as layouts
from cosmicai.data import values
from cosmicai.data.choice import Choice, choose
from cosmicai.data.galaxies import Galaxies
from cosmicai.data.layout import ModelLayout
from cosmicai.data.reading import Reading
from cosmicai.data.sources import Array, Column, SourceError, Table, opened_source
from cosmicai.data.summary import SHEET, Sample, Summary

_ROWS = 512  # read at once
_LOOKED_AT = 2048  # galaxies in the summary of an inspection


class _Figures:
    """Range of one column, gathered block by block; the median is that of the first block."""

    def __init__(self) -> None:
        self.bad = 0
        self.least, self.greatest, self.median = np.inf, -np.inf, np.nan

    def add(self, array: Array) -> None:
        finite = array[np.isfinite(array)]
        if np.isnan(self.median) and finite.size:
            self.median = float(np.median(finite))
        self.bad += array.size - finite.size
        if finite.size:
            self.least = min(self.least, float(finite.min()))
            self.greatest = max(self.greatest, float(finite.max()))


def describe(source: Path, reading: Reading, model: Path = layouts.BUNDLED) -> Iterator[tuple[str, ...]]:
    """A row per column: name, shape, type, least, median, greatest, how many values are missing.

    Figures are those of the chosen columns, or of all if the choice is ambiguous.
    Raises SourceError.
    """
    layout = layouts.read(model)
    with opened_source(source, reading, layout) as table:
        chosen = _chosen(table, reading, layout)
        for column in table.columns:
            shape = f"({', '.join(map(str, (column.rows, *column.shape)))})"
            figures = _figures(column) if chosen is None or column.label in chosen else None
            if figures is None:
                yield column.label, shape, column.dtype, "", "", "", ""
                continue
            numbers = (f"{value:.4g}" for value in (figures.least, figures.median, figures.greatest))
            yield column.label, shape, column.dtype, *numbers, str(figures.bad)


def _chosen(table: Table, reading: Reading, layout: ModelLayout) -> set[str] | None:
    """Labels of the columns that `data prepare` would read; None if it would refuse."""
    try:
        choice: Choice = choose(table, reading, layout)
    except SourceError:
        return None
    columns = [*choice.images, *choice.magnitudes, *choice.mask, *choice.ivar, choice.redshift]
    return {column.label for column in columns if column is not None}


def _figures(column: Column) -> _Figures | None:
    """None for text that is not a number."""
    figures = _Figures()
    try:
        for start in range(0, column.rows, _ROWS):
            rows = column.read(start, min(start + _ROWS, column.rows))
            if np.ma.isMaskedArray(rows) or rows.dtype.kind not in "fiub":
                rows = values.numbers(rows)[0]
            figures.add(rows)
    except values.ValueFault:
        return None
    return figures


def look(source: Path, reading: Reading, model: Path = layouts.BUNDLED) -> Summary:
    """What `data prepare` would report for the first 2,048 galaxies. Raises SourceError if it refuses them."""
    layout = layouts.read(model)
    with opened_source(source, reading, layout) as table:
        galaxies = Galaxies(table, reading, layout)
        sample = Sample(galaxies)
        seen = 0
        for block in galaxies.blocks(_ROWS // SHEET):
            sample.add(block)
            seen += len(block)
            if seen >= _LOOKED_AT:
                break
        return sample.summary()
