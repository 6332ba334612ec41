"""torch: a TensorDataset, a dict, list or tuple of tensors, or one tensor, in files of any torch."""

from __future__ import annotations

import mmap
import zlib
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from cosmicai.data.sources.base import Array, Column, SourceError, Table, array_column
from cosmicai.data.sources.kinds import Kind
from inference.data import objects
from inference.data.pickled import Pairs, Record
from inference.data.tensors import Tensor
from inference.data.torchfile import Buffer, TorchFileError, describe

KIND = Kind(
    "torch (`.pt`, `.pth`, also in the format from before torch 1.6)",
    "a TensorDataset, list or tuple of two or three tensors (images, magnitudes, redshift), a dict of tensors "
    "by their names; the identifiers that `data prepare` adds to partitions; nothing in the file is executed",
    "modules and other pickled objects; TorchScript; more than three unnamed tensors",
)
_DATASET = "torch.utils.data.dataset.TensorDataset"
_NAMES = ("images", "magnitudes", "redshift")


def read(path: Path, stack: ExitStack) -> Table:
    """Its tensors, mapped; pages are given back as rows are read, or they would count as memory in use."""
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)  # closed with the last view of it
    source = Buffer(memoryview(mapped))
    try:
        content = describe(source, frozenset({_DATASET}))
        tensors, bands = _named(path, content), _bands(content)
        columns = tuple(
            _column(path, name, tensor, source, mapped, bands) for name, tensor in tensors if tensor.shape
        )
        extra = objects.read(source, columns[0].rows if columns else 0) or {}
    except TorchFileError as error:
        raise SourceError(f"{path}: {error}") from error
    return Table(path, (*columns, *(array_column(name, array) for name, array in extra.items())))


def _named(path: Path, content: object) -> list[tuple[str, Tensor]]:
    if isinstance(content, Record) and content.dotted == _DATASET:
        content = content.attributes.get("tensors")
    if isinstance(content, Pairs):
        pairs = [(str(name), value) for name, value in content.named.items() if isinstance(value, Tensor)]
        if pairs:
            return pairs
    if isinstance(content, Tensor):
        content = (content,)
    if not isinstance(content, list | tuple) or not all(isinstance(one, Tensor) for one in content):
        kind = content.name if isinstance(content, Record) else type(content).__name__
        raise SourceError(f"{path}: holds a {kind}, not a TensorDataset or a dict, list or tuple of tensors")
    if len(content) > len(_NAMES):
        raise SourceError(
            f"{path}: has {len(content)} tensors without names, expected images, magnitudes and redshift: "
            "save a dict of tensors by their names"
        )
    return list(zip(_NAMES, content, strict=False))


def _bands(content: object) -> tuple[str, ...] | None:
    """The names of the channels that a dict has next to its tensors."""
    named = content.named if isinstance(content, Pairs) else {}
    for key in ("bands", "filters"):
        names = named.get(key)
        if isinstance(names, list | tuple) and names and all(isinstance(name, str) for name in names):
            return tuple(str(name) for name in names)
    return None


def _column(
    path: Path, name: str, tensor: Tensor, source: Buffer, mapped: mmap.mmap, bands: tuple[str, ...] | None
) -> Column:
    """bands: of images, if they have as many channels."""
    array = tensor.read(source, verify=not tensor.is_whole_piece)
    mapped.madvise(mmap.MADV_DONTNEED)
    checksum = _Checksum(path, tensor, source)

    def read(start: int, stop: int) -> Array:
        rows = np.array(array[start:stop])
        checksum.add(start, stop)
        mapped.madvise(mmap.MADV_DONTNEED)
        return rows

    shape = tuple(array.shape[1:])
    named = bands if bands and len(shape) == 3 and len(bands) in (shape[0], shape[-1]) else None
    return Column(name, len(array), shape, read, str(array.dtype), bands=named)


class _Checksum:
    """Compares a tensor's checksum with the file's as its rows are read in order, so the file is read once.

    A tensor that is a view of more than its own values was compared when it was opened.
    """

    def __init__(self, path: Path, tensor: Tensor, source: Buffer) -> None:
        self._path, self._tensor, self._source = path, tensor, source
        self._rows, self._crc = 0, 0  # of the rows from the first one on

    def add(self, start: int, stop: int) -> None:
        """Raises SourceError at the last row if the bytes of all are not those that were written."""
        count, piece = self._tensor.shape[0], self._tensor.piece
        if start == 0:
            self._rows, self._crc = 0, 0
        if not piece.crc or not self._tensor.is_whole_piece or start != self._rows or stop <= start:
            return
        row = piece.size // count
        self._rows = min(stop, count)
        content = self._source.read(piece.start + start * row, piece.start + self._rows * row)
        self._crc = zlib.crc32(content, self._crc)
        if self._rows == count:
            try:
                piece.check(self._crc)
            except TorchFileError as error:
                raise SourceError(f"{self._path}: {error}") from error


def is_torch(names: list[str]) -> bool:
    """Whether a zip file with these entries is one of torch.save."""
    return any(name.endswith(("/data.pkl", "constants.pkl")) or name == "data.pkl" for name in names)
