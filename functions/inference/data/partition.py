"""Partition files: the galaxies that a rank reads block by block, checked before they are computed."""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from . import objects
from .missing import finite_rows
from .objects import Objects
from .pickled import Record
from .tensors import PLAIN_TENSORS
from .torchfile import Array, Buffer, Source, Tensor, TorchFileError, describe

Floats = NDArray[np.float32]

BLOCK_BYTES = 2 << 20  # of images in one read: large enough for S3's throughput, small enough to wait for
READS_AHEAD = 4  # blocks that are read while one is computed; S3 gives 85 to 90 MB/s for each


class PartitionError(ValueError):
    """A partition file is damaged, hostile or does not fit the model; the message names file and fault."""


@dataclass(frozen=True)
class Layout:
    """What a model expects: images (N, *image) and magnitudes (N, magnitudes), and facts about the truth.

    magnitudes: 0 where the model takes none; partitions may then have some or not. truth: what the last tensor
    is. labels: the numbers that it may hold besides NaN; None for any. columns: names that the model's
    predictions have, and which no column of a partition may have.
    """

    image: tuple[int, ...] = (5, 32, 32)
    magnitudes: int = 5
    truth: str = "redshift"
    labels: tuple[float, ...] | None = None
    columns: tuple[str, ...] = ()


@dataclass(frozen=True, repr=False, eq=False)
class Partition:
    """Galaxies of one file, in its order: images (N, C, S, S), magnitudes (N, M), redshift (N,) or None.

    For an imported network images have any shape (N, …), M may be 0, and redshift is whatever its true values
    are.
    """

    images: Floats
    magnitudes: Floats
    redshift: Floats | None

    def __len__(self) -> int:
        return len(self.images)

    def rows(self, start: int, stop: int) -> Partition:
        """A view of some of the galaxies."""
        redshift = None if self.redshift is None else self.redshift[start:stop]
        return Partition(self.images[start:stop], self.magnitudes[start:stop], redshift)

    def batches(self, size: int) -> Iterator[Partition]:
        """Consecutive views of at most `size` galaxies."""
        return (self.rows(start, start + size) for start in range(0, len(self), size))


def read(
    data: bytes | memoryview, name: str, layout: Layout = Layout(), *, only_finite: bool = True
) -> Partition:
    """The whole TensorDataset in `data`; its images are views if they are stored as float32.

    Raises PartitionError, which names `name` and the fault: not a .pt file, cut short, damaged, a pickle that
    asks for more than tensors, the wrong number or shape of tensors, or, with `only_finite`, values that are
    not finite.
    """
    file = PartitionFile.open(Buffer(data), name, layout)
    partition = file.block(0, file.count)
    if only_finite:
        _check_finite(partition.magnitudes, "magnitudes", name)
        _check_finite(partition.images, "images", name)
    return partition


@dataclass(repr=False, eq=False)
class PartitionFile:
    """An opened partition: its small columns are in memory, its images not yet.

    Blocks must be read in order from the first, so that the images' checksum can be computed on the way.
    """

    name: str
    count: int
    redshift: Floats | None
    objects: Objects | None
    _source: Source
    _magnitudes: Floats
    _images: Tensor
    _whole: Array | None = None  # all images, if they are stored out of order
    _crc: int = field(default=0, init=False)

    @classmethod
    def open(cls, source: Source, name: str, layout: Layout = Layout()) -> PartitionFile:
        """Reads everything except the images, and checks every shape. Raises PartitionError."""
        try:
            tensors = _tensors(source)
            images, magnitude_tensor, true = _roles(tensors, layout)
            count = _checked_count(images, magnitude_tensor, true, layout)
            magnitudes = (
                np.empty((count, 0), np.float32)
                if magnitude_tensor is None
                else _float32(magnitude_tensor.read(source))
            )
            redshift = None if true is None else _float32(true.read(source).reshape(count))
            if redshift is not None:
                _check_labels(redshift, layout)
            whole = None if images.is_whole_piece else images.read(source)
            columns = objects.read(source, count)
            _check_columns(columns, layout)
        except TorchFileError as error:
            raise PartitionError(f"{name}: {error}") from error
        return cls(name, count, redshift, columns, source, magnitudes, images, whole)

    def fetch(self, start: int, stop: int) -> bytes | memoryview:
        """The stored bytes of some rows of the images; may be called by another thread."""
        if self._whole is not None:
            return b""
        piece, row = self._images.piece, self._images.piece.size // max(self.count, 1)
        return self._source.read(piece.start + start * row, piece.start + stop * row)

    def block(self, start: int, stop: int, content: bytes | memoryview | None = None) -> Partition:
        """The next rows, from `start` to `stop`; content: what `fetch` has returned for them.

        Values may be NaN or infinite: see quality.py. Raises PartitionError at the last row if the checksum is
        wrong.
        """
        images = self._decoded(start, stop, self.fetch(start, stop) if content is None else content)
        redshift = None if self.redshift is None else self.redshift[start:stop]
        return Partition(images, self._magnitudes[start:stop], redshift)

    def _decoded(self, start: int, stop: int, content: bytes | memoryview) -> Floats:
        if self._whole is not None:
            return _float32(self._whole[start:stop])
        self._crc = zlib.crc32(content, self._crc)
        if stop == self.count:
            try:
                self._images.piece.check(self._crc)
            except TorchFileError as error:
                raise PartitionError(f"{self.name}: {error}") from error
        shape = (stop - start, *self._images.shape[1:])
        return _float32(np.frombuffer(content, self._images.dtype).reshape(shape))


@dataclass(frozen=True, repr=False, eq=False)
class Block:
    """Consecutive rows of one of several files."""

    file: PartitionFile
    rows: Partition


def stream(
    openers: Iterable[Callable[[], PartitionFile]], batch: int, pool: Executor, ahead: int = READS_AHEAD
) -> Iterator[Block]:
    """All rows of several files in order, while `pool` is still reading later ones.

    Blocks hold whole batches of `batch` rows (except the last of a file); an empty file gives one block without
    rows. Besides the current block, at most `ahead` blocks are in memory, and the small columns of the same
    number of files.
    """
    window: deque[tuple[PartitionFile, int, int, Future[bytes | memoryview]]] = deque()
    try:
        for file in _opened(openers, pool, ahead):
            for start, stop in _cuts(file, batch):
                window.append((file, start, stop, pool.submit(file.fetch, start, stop)))
                if len(window) > ahead:
                    yield _decoded_block(*window.popleft())
        while window:
            yield _decoded_block(*window.popleft())
    finally:
        for *_, future in window:
            future.cancel()


def _decoded_block(file: PartitionFile, start: int, stop: int, content: Future[bytes | memoryview]) -> Block:
    return Block(file, file.block(start, stop, content.result()))


def _cuts(file: PartitionFile, batch: int) -> Iterator[tuple[int, int]]:
    row = max(1, file._images.piece.size // max(file.count, 1))
    rows = max(1, BLOCK_BYTES // row // batch) * batch
    starts = range(0, file.count, rows) or [0]
    return ((start, min(start + rows, file.count)) for start in starts)


def _opened(
    openers: Iterable[Callable[[], PartitionFile]], pool: Executor, ahead: int
) -> Iterator[PartitionFile]:
    remaining = iter(openers)
    opening = deque(pool.submit(opener) for opener in islice(remaining, ahead))
    try:
        while opening:
            file = opening.popleft().result()
            opening.extend(pool.submit(opener) for opener in islice(remaining, 1))
            yield file
    finally:
        for future in opening:
            future.cancel()


_DATASET = "torch.utils.data.dataset.TensorDataset"
_OPCODES = 10_000  # of a partition's pickle; three tensors take a hundred


def tensors_of(data: bytes | memoryview) -> tuple[Array, ...]:
    """The tensors of a TensorDataset as views of `data`, whatever their shapes; checksums are not compared.

    Raises TorchFileError.
    """
    source = Buffer(data)
    return tuple(tensor.read(source, verify=False) for tensor in _tensors(source))


def _tensors(source: Source) -> tuple[Tensor, ...]:
    dataset = describe(source, PLAIN_TENSORS | {_DATASET}, _OPCODES)
    if not isinstance(dataset, Record) or dataset.dotted != _DATASET:
        name = dataset.name if isinstance(dataset, Record) else type(dataset).__name__
        raise TorchFileError(f"holds a {name}, not a torch TensorDataset")
    tensors = dataset.attributes.get("tensors")
    if not isinstance(tensors, tuple) or not all(isinstance(tensor, Tensor) for tensor in tensors):
        raise TorchFileError("its TensorDataset holds something other than tensors")
    return tensors


def _roles(tensors: tuple[Tensor, ...], layout: Layout) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Images, the magnitudes that the model takes, and the true values; None for what is not there."""
    count, truth = len(tensors), layout.truth
    if layout.magnitudes and count not in (2, 3):
        raise TorchFileError(f"has {count} tensors, expected images, magnitudes and {truth}")
    if not 1 <= count <= 3:
        raise TorchFileError(f"has {count} tensors, expected images, perhaps magnitudes, and perhaps {truth}")
    if layout.magnitudes or count == 3:
        magnitudes = tensors[1] if layout.magnitudes else None
        return tensors[0], magnitudes, tensors[2] if count == 3 else None
    second = tensors[1] if count == 2 else None
    if second is None or (len(second.shape) == 2 and second.shape[1] > 1):  # magnitudes, which it does not take
        return tensors[0], None, None
    if len(second.shape) == 2 and second.shape[1] == 1:
        raise TorchFileError(
            f"its second tensor has the shape {second.shape}: that is {truth}, or magnitudes of one "
            "band, which this "
            f"model does not take; give {truth} the shape (N,), or leave magnitudes out"
        )
    return tensors[0], None, second


def _checked_count(images: Tensor, magnitudes: Tensor | None, true: Tensor | None, layout: Layout) -> int:
    """The number of galaxies, by the images."""
    count = images.shape[0] if images.shape else 0
    _check_shape(images, (count, *layout.image), "images")
    if magnitudes is not None:
        _check_shape(magnitudes, (count, layout.magnitudes), "magnitudes")
    if true is not None:
        _check_shape(true, (count, 1) if len(true.shape) == 2 else (count,), layout.truth)
    return count


def _check_labels(true: Floats, layout: Layout) -> None:
    """Raises TorchFileError for a true class that the model does not have."""
    if layout.labels is None:
        return
    wrong = np.flatnonzero(~(np.isin(true, np.array(layout.labels, np.float32)) | np.isnan(true)))
    if len(wrong):
        known = ", ".join(f"{one:g}" for one in layout.labels)
        raise TorchFileError(
            f"{layout.truth}: {true[wrong[0]]:g} in row {wrong[0]} is not a class of the model ({len(wrong)} "
            f"of {len(true)} rows are wrong); the classes are {known}, and NaN where the class is not known. "
            "`cosmicai model import-onnx --labels` gives classes other numbers"
        )


def _check_columns(columns: Objects | None, layout: Layout) -> None:
    """Raises TorchFileError where a kept column has the name of one that the model predicts."""
    taken = {name.lower() for name in layout.columns}
    both = [name for name in columns or () if name.lower() in taken]
    if both:
        raise TorchFileError(
            f"its column {both[0]} has the name of one that the model predicts; prepare the partition "
            "without it, or "
            "import the model with another name for its output"
        )


def _check_shape(tensor: Tensor, expected: tuple[int, ...], what: str) -> None:
    if tensor.shape != expected:
        allowed = "(" + ", ".join(["N", *map(str, expected[1:])]) + ("," if len(expected) == 1 else "") + ")"
        count = f" with N = {expected[0]}, the number of images" if what != "images" else ""
        raise TorchFileError(f"{what} have shape {tensor.shape}, expected {allowed}{count}")


def _float32(array: Array) -> Floats:
    return np.ascontiguousarray(array, np.float32)


def _check_finite(array: Floats, what: str, name: str) -> None:
    bad = np.flatnonzero(~finite_rows(array))
    if len(bad):
        raise PartitionError(
            f"{name}: the {what} of {len(bad)} of {len(array)} galaxies hold NaN or infinity, the first in row "
            f"{bad[0]}"
        )
