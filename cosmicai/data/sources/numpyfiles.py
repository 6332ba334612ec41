"""numpy: .npz, compressed or not, .npy with named fields, and a folder of .npy files."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np

from cosmicai.data.sources.base import Array, Column, SourceError, Table
from cosmicai.data.sources.kinds import Kind

KIND = Kind(
    "numpy (`.npz`, `.npy`, a folder of `.npy`)",
    "each array of an .npz, and each .npy of a folder, is a column, as is each field of a structured .npy; "
    "numbers, booleans and text of fixed width",
    "pickled objects; arrays in Fortran order; a single plain .npy, unless `--catalogue` has the magnitudes",
)
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def read_npz(path: Path, stack: ExitStack) -> Table:
    """Its arrays, read from front to back without holding one. Raises SourceError."""
    archive = stack.enter_context(zipfile.ZipFile(path))
    names = [name for name in archive.namelist() if name.endswith(".npy")]
    columns = []
    for name in names:
        array = _Stream(path, name.removesuffix(".npy"), partial(archive.open, name), stack)
        columns += array.columns()
    return Table(path, tuple(columns))


def read_npy(path: Path, stack: ExitStack) -> Table:
    """The fields of one file, or its one array by the file's name."""
    return Table(path, tuple(_Stream(path, path.stem, partial(path.open, "rb"), stack).columns()))


def read_folder(path: Path, stack: ExitStack) -> Table:
    """All .npy files of a folder as columns."""
    columns = []
    for file in sorted(path.glob("*.npy")):
        columns += _Stream(file, file.stem, partial(file.open, "rb"), stack).columns()
    return Table(path, tuple(columns))


class _Stream:
    """Rows of one array in the .npy format."""

    def __init__(self, path: Path, name: str, opener: Callable[[], Any], stack: ExitStack) -> None:
        self._path, self._name, self._opener, self._stack = path, name, opener, stack
        with self._open() as file:
            shape, fortran, self._dtype = _header(path, name, file)
        if self._dtype.hasobject:
            raise SourceError(f"{path}: {name} holds pickled objects, which are not read: save it as numbers")
        if fortran and len(shape) > 1:
            raise SourceError(
                f"{path}: {name} is in Fortran order: save it with np.ascontiguousarray, and it can be read"
            )
        self._shape = shape

    def _open(self) -> IO[bytes]:
        return self._opener()

    def columns(self) -> list[Column]:
        """One, or one for each field; none for a single value."""
        if not self._shape:
            return []
        if self._dtype.names is None:
            reader = _Reader(self, self._dtype)
            return [Column(self._name, self._shape[0], self._shape[1:], reader.read, str(self._dtype))]
        columns = []
        for field in self._dtype.names:
            kind = self._dtype[field]
            read = _Reader(self, self._dtype, field).read
            columns.append(Column(field, self._shape[0], kind.shape, read, str(kind.base)))
        return columns

    def start(self) -> IO[bytes]:
        """The file, at the first row; it is closed with the source."""
        file = self._stack.enter_context(self._open())
        _header(self._path, self._name, file)
        return file

    def row_bytes(self) -> int:
        return int(np.prod(self._shape[1:], dtype=int)) * self._dtype.itemsize

    def rows(self, content: bytes, count: int) -> Array:
        return np.frombuffer(content, self._dtype).reshape(count, *self._shape[1:])

    def fault(self, fault: str) -> SourceError:
        return SourceError(f"{self._path}: {self._name} {fault}")


def _header(path: Path, name: str, file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    try:
        version = np.lib.format.read_magic(file)
        if version not in _HEADERS:
            raise SourceError(f"{path}: {name} has the unknown .npy version {version}")
        return _HEADERS[version](file)
    except (ValueError, EOFError) as error:
        raise SourceError(f"{path}: {name} is not a whole .npy file ({error})") from error


class _Reader:
    """Adjacent rows of a stream, which is opened at the first call."""

    def __init__(self, stream: _Stream, dtype: np.dtype[Any], field: str | None = None) -> None:
        self._stream, self._field = stream, field
        self._file: IO[bytes] | None = None
        self._place = 0

    def read(self, start: int, stop: int) -> Array:
        if self._file is None or start < self._place:
            self._file, self._place = self._stream.start(), 0
        width = self._stream.row_bytes()
        if start > self._place:
            self._file.seek((start - self._place) * width, io.SEEK_CUR)
        content = self._file.read((stop - start) * width)
        if len(content) < (stop - start) * width:
            raise self._stream.fault("is cut short")
        self._place = stop
        rows = self._stream.rows(content, stop - start)
        return rows if self._field is None else rows[self._field]
