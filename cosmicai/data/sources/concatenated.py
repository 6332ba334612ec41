"""Several files of one layout as one source, one after the other."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

import numpy as np

from cosmicai.data.sources.base import (
    PIXEL_SCALE,
    ZERO_POINT,
    Array,
    Column,
    Read,
    SourceError,
    Table,
    agree,
    in_words,
)


def concatenated(path: Path, tables: Sequence[Table]) -> Table:
    """Columns that every file has in one shape. Raises SourceError if files differ."""
    first = tables[0]
    columns = []
    for column in first.columns:
        parts = [_same(one, column) for one in tables]
        conflicts: dict[str, str] = {}
        for table, part in zip(tables, parts, strict=True):
            conflicts.update(part.conflicts)
            conflicts.update(_conflicts(first, column, table, part))
        rows = sum(part.rows for part in parts)
        columns.append(replace(column, rows=rows, read=_reader(parts), conflicts=conflicts))
    notes = dict.fromkeys(note for one in tables for note in one.notes)
    return Table(path, tuple(columns), (f"{len(tables)} files, one after the other", *notes))


def _conflicts(first: Table, expected: Column, table: Table, column: Column) -> dict[str, str]:
    """Where a file states another zero point or pixel scale for a column than the first file."""
    pairs = (
        (ZERO_POINT, column.ab_zero_point, expected.ab_zero_point),
        (PIXEL_SCALE, column.pixel_scale, expected.pixel_scale),
    )
    return {
        what: f"the {what} of {column.label} is {in_words(here)} in {table.path.name}, "
        f"but {in_words(there)} in {first.path.name}"
        for what, here, there in pairs
        if not agree(what, here, there)
    }


def _same(table: Table, expected: Column) -> Column:
    for column in table.columns:
        if column.label == expected.label and column.shape == expected.shape and column.bands == expected.bands:
            return column
    has = next(
        (column.described for column in table.columns if column.label == expected.label), "no such column"
    )
    raise SourceError(f"{table.path}: has {has}, the first file has {expected.described}")


def _reader(parts: Sequence[Column]) -> Read:
    ends = list(accumulate((part.rows for part in parts), initial=0))

    def read(start: int, stop: int) -> Array:
        pieces = []
        place = start
        while place < stop:
            number = bisect_right(ends, place) - 1
            end = min(stop, ends[number + 1])
            pieces.append(parts[number].read(place - ends[number], end - ends[number]))
            place = end
        if any(np.ma.isMaskedArray(piece) for piece in pieces):
            return np.ma.concatenate(pieces)
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    return read
