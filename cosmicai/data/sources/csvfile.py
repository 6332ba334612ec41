"""CSV: every column as the text that it is, so that identifiers keep their digits."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from cosmicai.data.sources.base import Array, Column, SourceError, Table
from cosmicai.data.sources.kinds import Kind

KIND = Kind(
    "CSV (`.csv`, `.tsv`), as a catalogue or a table of paths",
    "a header line, then one line per galaxy; commas, semicolons or tabs; lines that begin with # before "
    "the header; a blank is a missing value",
    "lines of different lengths; a column name that occurs twice; text that is not UTF-8",
)


def read(path: Path, stack: ExitStack) -> Table:
    """All columns as text. Raises SourceError; needs pyarrow."""
    import pyarrow as arrow
    from pyarrow import csv

    comments, delimiter, names = _head(path)
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise SourceError(f"{path}: has two columns {twice}: rename one")
    try:
        table = csv.read_csv(
            path,
            csv.ReadOptions(skip_rows=comments),
            csv.ParseOptions(delimiter=delimiter),
            csv.ConvertOptions(column_types=dict.fromkeys(names, arrow.string()), strings_can_be_null=False),
        )
    except (arrow.ArrowException, OSError) as error:
        raise SourceError(f"{path}: cannot be read ({error})") from error
    return Table(path, tuple(_column(name, table.column(name)) for name in table.column_names))


def _head(path: Path) -> tuple[int, str, list[str]]:
    """How many lines of comments there are, the delimiter, and the names."""
    import csv

    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            comments = 0
            line = file.readline(1 << 20)
            while line.startswith("#"):
                comments, line = comments + 1, file.readline(1 << 20)
    except UnicodeDecodeError as error:
        raise SourceError(f"{path}: is not UTF-8 text ({error.reason})") from error
    delimiter = max(",;\t", key=line.count)
    return comments, delimiter, next(csv.reader([line], delimiter=delimiter), [])


def _column(name: str, values: Any) -> Column:
    def read(start: int, stop: int) -> Array:
        return np.array(values.slice(start, stop - start).to_pylist(), dtype=np.str_)

    return Column(name, len(values), (), read, "text")
