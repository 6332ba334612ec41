"""Parquet: columns of numbers, text and images, read by row groups; Hugging Face's and LSDB's files too."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cosmicai.data.sources import multimodal
from cosmicai.data.sources.base import Array, Column, SourceError, Table
from cosmicai.data.sources.kinds import Kind

KIND = Kind(
    "Parquet (`.parquet`, `.pq`)",
    "columns of numbers and text; images as lists of lists of numbers, fixed-size lists, Hugging Face's "
    "Array2D to Array5D; fields of structs (`image.flux`); null is a missing value; a folder of files "
    "with one layout",
    "images whose rows differ in shape; flat lists and bytes, because they have no shape; timestamps, maps",
)
_BUFFER = 1 << 20  # bytes of a column that are read at once
_IMAGES, _VALUES = 64, 1 << 16  # rows decoded at once of a column of lists, and of others


def read(path: Path, stack: ExitStack) -> Table:
    """All columns. Raises SourceError; needs pyarrow."""
    import pyarrow as arrow
    from pyarrow import parquet

    try:
        file = stack.enter_context(parquet.ParquetFile(path))
    except (arrow.ArrowException, OSError) as error:
        raise SourceError(f"{path}: cannot be read ({error})") from error
    columns: list[Column] = []
    notes: list[str] = []
    for field in file.schema_arrow:
        _add(_File(path, file.metadata, stack), field, columns, notes)
    return multimodal.understood(Table(path, tuple(columns), tuple(notes)))


@dataclass(frozen=True)
class _File:
    """A file, opened anew for each column, because the columns of one opening share their batch size."""

    path: Path
    metadata: Any
    stack: ExitStack

    def opened(self) -> Any:
        from pyarrow import parquet

        file = parquet.ParquetFile(
            self.path,
            metadata=self.metadata,
            buffer_size=_BUFFER,
            pre_buffer=False,
            page_checksum_verification=True,
        )
        return self.stack.enter_context(file)


def _add(file: _File, field: Any, columns: list[Column], notes: list[str]) -> None:
    import pyarrow as arrow

    structs: list[tuple[str, Any, Callable[[Any], Any]]] = [(field.name, field.type, lambda array: array)]
    kind = _storage(field.type)
    if arrow.types.is_list(kind) or arrow.types.is_large_list(kind):
        kind = kind.value_type  # a list of structs: one for each band, as Multimodal Universe has them
    if arrow.types.is_struct(kind):
        structs = [
            (f"{field.name}.{kind.field(index).name}", kind.field(index).type, _member(kind.field(index).name))
            for index in range(kind.num_fields)
        ]
    for name, inner, pick in structs:
        reader = _Reader(file, field.name, name, pick)
        shape = reader.shape()
        if shape is None:
            notes.append(f"column {name} ({inner}) is not read")
        else:
            columns.append(Column(name, file.metadata.num_rows, shape, reader.read, str(inner)))


def _storage(kind: Any) -> Any:
    return getattr(kind, "storage_type", kind)


def _member(name: str) -> Callable[[Any], Any]:
    def pick(array: Any) -> Any:
        import pyarrow as arrow

        if arrow.types.is_struct(array.type):
            return array.field(name)
        return arrow.LargeListArray.from_arrays(
            np.asarray(array.offsets, np.int64), array.values.field(name)
        )  # the field of every band, still a list for each row

    return pick


class _Reader:
    """Adjacent rows of one column, decoded a batch at a time."""

    def __init__(self, file: _File, column: str, name: str, pick: Callable[[Any], Any]) -> None:
        self._file, self._column, self._name, self._pick = file, column, name, pick
        self._path = file.path
        self._opened: Any = None
        self._batches: Iterator[Array] = iter(())
        self._held: list[Array] = []
        self._place = 0
        self._shape = self.shape()

    def shape(self) -> tuple[int, ...] | None:
        """Of a row, by the first one; None if the column is of a kind that is not read."""
        if not self._file.metadata.num_rows:
            return ()
        try:
            first = next(self._decoded(1))
        except (SourceError, TypeError):
            return None
        return tuple(first.shape[1:])

    def read(self, start: int, stop: int) -> Array:
        if start != self._place or not start:
            rows = _IMAGES if len(self._shape or ()) > 1 else _VALUES
            self._batches, self._held, self._place = self._decoded(rows), [], 0
            self._next_rows(start)
        return self._next_rows(stop - start)

    def _next_rows(self, rows: int) -> Array:
        while sum(map(len, self._held)) < rows:
            self._held.append(next(self._batches))
        whole = _joined(self._path, self._name, self._held) if self._held else np.empty(0)
        self._held = [whole[rows:]] if len(whole) > rows else []
        self._place += rows
        return whole[:rows]

    def _decoded(self, rows: int) -> Iterator[Array]:
        import pyarrow as arrow

        try:
            self._opened = self._opened or self._file.opened()
            for batch in self._opened.iter_batches(rows, columns=[self._column]):
                yield _array(self._path, self._name, self._pick(batch.column(0)))
        except (arrow.ArrowException, OSError) as error:
            raise SourceError(f"{self._path}: column {self._name} cannot be read ({error})") from error


def _joined(path: Path, name: str, parts: list[Array]) -> Array:
    if len({part.shape[1:] for part in parts}) > 1:
        raise SourceError(f"{path}: rows of column {name} differ in shape")
    return (
        np.ma.concatenate(parts) if any(np.ma.isMaskedArray(part) for part in parts) else np.concatenate(parts)
    )


def _array(path: Path, name: str, array: Any) -> Array:
    """An Arrow array as numpy: lists as further axes, null as masked. Raises SourceError, TypeError."""
    import pyarrow as arrow

    array = getattr(array, "storage", array)
    kind = array.type
    if arrow.types.is_list(kind) or arrow.types.is_large_list(kind) or arrow.types.is_fixed_size_list(kind):
        inner = array.flatten()
        lengths = np.unique(np.asarray(array.value_lengths().fill_null(-1)))
        if len(lengths) != 1 or lengths[0] < 0:
            raise SourceError(f"{path}: rows of column {name} differ in shape or are null")
        values = _array(path, name, inner)
        return values.reshape(len(array), int(lengths[0]), *values.shape[1:])
    if arrow.types.is_dictionary(kind):
        array = array.dictionary_decode()
        kind = array.type
    if arrow.types.is_string(kind) or arrow.types.is_large_string(kind) or arrow.types.is_string_view(kind):
        return np.array(["" if one is None else one for one in array.to_pylist()], dtype=np.str_)
    if not (arrow.types.is_integer(kind) or arrow.types.is_floating(kind) or arrow.types.is_boolean(kind)):
        raise TypeError(str(kind))
    if not array.null_count:
        return np.asarray(array.to_numpy(zero_copy_only=False))
    zero = arrow.scalar(False if arrow.types.is_boolean(kind) else 0, kind)
    return np.ma.MaskedArray(
        array.fill_null(zero).to_numpy(zero_copy_only=False),
        mask=array.is_null().to_numpy(zero_copy_only=False),
    )
