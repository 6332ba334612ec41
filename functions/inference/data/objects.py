"""What a partition has besides the tensors: identifiers, positions, and columns that users keep.

It is an entry of the .pt file's zip, which torch.load does not look at: a structured numpy array (.npy) with a
row for each galaxy. It is read as data: no pickles, few types, nothing larger than its bounds.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..contract.names import is_name
from .tensors import Source
from .torchfile import TorchFileError, record

Array = NDArray[Any]
Objects = dict[str, Array]
"""Columns (N,) by name: `id` (int64, uint64 or text), perhaps `ra` and `dec` (degrees, float64), and others."""

RECORD = "cosmicai/objects.npy"
MOST_BYTES = 64 << 20
MOST_COLUMNS = 64
MOST_CHARACTERS = 1024  # of a text
NUMBERS = ("<i8", "<u8", "<f8", "<f4", "|b1")
_HEADER_BYTES = 16_384


def read(source: Source, count: int) -> Objects | None:
    """The columns of a partition of `count` galaxies; None if it has none. Raises TorchFileError."""
    content = record(source, RECORD, MOST_BYTES)
    if content is None:
        return None
    try:
        return _parsed(content, count)
    except (ValueError, SyntaxError, TypeError, EOFError, RecursionError, MemoryError) as error:
        raise TorchFileError(
            f"its record {RECORD} is not one that `cosmicai data prepare` writes: {str(error)[:200]}"
        ) from error


def _parsed(content: bytes, count: int) -> Objects:
    stream = io.BytesIO(content)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError("its version of the .npy format is not 1.0")
    header: Any = np.lib.format.read_array_header_1_0(stream, max_header_size=_HEADER_BYTES)
    shape, _, dtype = header
    if shape != (count,):
        raise ValueError(f"it has the shape {shape}, but the images have {count} rows")
    _check_type(dtype)
    body = content[stream.tell() :]
    if len(body) != count * dtype.itemsize:
        raise ValueError(f"it has {len(body)} bytes of rows, expected {count * dtype.itemsize}")
    table = np.frombuffer(body, dtype)
    columns: Objects = {name: np.ascontiguousarray(table[name]) for name in dtype.names or ()}
    for name, column in columns.items():
        _check_values(name, column)
    return columns


def _check_type(dtype: np.dtype[Any]) -> None:
    """Raises ValueError unless it is a plain table of the few types that `cosmicai data prepare` writes."""
    names = dtype.names or ()
    fields = [(name, dtype[name]) for name in names]
    if not fields or len(fields) > MOST_COLUMNS or dtype != np.dtype(fields):
        raise ValueError(f"it is not a table of 1 to {MOST_COLUMNS} columns")
    for name, kind in fields:
        if not is_name(name):
            raise ValueError(f"{name[:80]!r} is not allowed as the name of a column")
        text = kind.kind == "U" and kind.str[0] == "<" and 4 <= kind.itemsize <= 4 * MOST_CHARACTERS
        allowed = {"id": ("<i8", "<u8"), "ra": ("<f8",), "dec": ("<f8",)}.get(name, NUMBERS)
        if not (text and name not in ("ra", "dec")) and kind.str not in allowed:
            raise ValueError(f"{name} has the type {kind.str[:20]}, which is not allowed there")
    if len({name.lower() for name in names}) < len(names) or "id" not in names:
        raise ValueError("it has no column id, or two columns of one name")


def _check_values(name: str, column: Array) -> None:
    """Raises ValueError for bytes that are not Unicode text, or neither true nor false."""
    if column.dtype.kind == "U":
        code = column.view(np.uint32)
        if ((code > 0x10FFFF) | ((code >= 0xD800) & (code <= 0xDFFF))).any():
            raise ValueError(f"{name} holds bytes that are not text")
    if column.dtype.kind == "b" and (column.view(np.uint8) > 1).any():
        raise ValueError(f"{name} holds bytes that are neither true nor false")


def joined(parts: Sequence[tuple[Objects | None, int]]) -> Objects:
    """Concatenates the columns of several partitions, each with its number of galaxies.

    Values stay exact: if partitions differ in a column's type, it becomes text. A partition without a column
    gets NaN there, or '' in text.
    """
    names = dict.fromkeys(name for columns, _ in parts for name in columns or ())
    return {name: _column([((columns or {}).get(name), count) for columns, count in parts]) for name in names}


def _column(parts: Iterable[tuple[Array | None, int]]) -> Array:
    parts = [(column, count) for column, count in parts if count]
    known = [column for column, _ in parts if column is not None]
    kinds = {column.dtype.kind for column in known}
    if len(known) == len(parts) and len(kinds) <= 1:
        return np.concatenate(known) if known else np.empty(0, np.int64)
    if kinds == {"f"}:
        return np.concatenate([np.full(n, np.nan) if one is None else one for one, n in parts])
    return np.concatenate([np.full(n, "", "<U1") if one is None else one.astype(np.str_) for one, n in parts])
