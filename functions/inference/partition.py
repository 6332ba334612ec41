"""Reading partition files without torch and without trust.

A `.pt` file is an uncompressed zip: `data.pkl` describes the objects, `data/KEY` holds each tensor's bytes
(https://docs.pytorch.org/docs/stable/notes/serialization.html). The pickle is read by an unpickler that
knows tensor rebuilding and TensorDataset alone, so nothing in a file is ever executed, and tensors are numpy
views of the file's own buffer.
"""

from __future__ import annotations

import io
import math
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Array = NDArray[Any]

_LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, name length, extra length (APPNOTE.TXT 4.3.7)
_PICKLE_LIMIT = 1 << 20  # bytes; a TensorDataset's pickle has some hundred
_STORAGE_TYPES: dict[str, np.dtype[Any]] = {
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
    "HalfStorage": np.dtype("<f2"),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}


class PartitionError(ValueError):
    """A partition file is broken, hostile or not what the model takes; the message names file and fault."""


@dataclass(frozen=True)
class Layout:
    """What a model takes: images (N, channels, size, size) and magnitudes (N, magnitudes)."""

    channels: int = 5
    size: int = 32
    magnitudes: int = 5


@dataclass(frozen=True)
class Partition:
    """The galaxies of one file, in its order: images (N, C, S, S), magnitudes (N, M), redshift (N,) or None."""

    images: Floats
    magnitudes: Floats
    redshift: Floats | None

    def __len__(self) -> int:
        return len(self.images)

    def batches(self, size: int) -> Iterator[Partition]:
        """Consecutive views of at most `size` galaxies."""
        for start in range(0, len(self), size):
            rows = slice(start, start + size)
            redshift = None if self.redshift is None else self.redshift[rows]
            yield Partition(self.images[rows], self.magnitudes[rows], redshift)


def read(data: bytes | memoryview, name: str, layout: Layout = Layout()) -> Partition:
    """The TensorDataset in `data`, checked against `layout`.

    Raises PartitionError, which names `name` and the fault: not a .pt file, cut short, a pickle that asks for
    anything but tensors, the wrong number or shape of tensors, or values that are not finite.
    """
    try:
        tensors = _tensors(data)
    except PartitionError as error:
        raise PartitionError(f"{name}: {error}") from None
    return _checked(tensors, name, layout)


def _tensors(data: bytes | memoryview) -> tuple[Array, ...]:
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    except (zipfile.BadZipFile, ValueError, OverflowError, NotImplementedError) as error:
        raise PartitionError(
            f"is cut short or not a .pt file written by torch 1.6 or newer ({error})"
        ) from None
    entries = {info.filename.partition("/")[2]: info for info in archive.infolist()}
    if "data.pkl" not in entries:
        raise PartitionError("is a zip file without data.pkl, not a .pt file")
    _check_byte_order(data, entries)
    pickled = _stored(data, entries["data.pkl"])
    if len(pickled) > _PICKLE_LIMIT:
        raise PartitionError(f"its pickle has {len(pickled)} bytes: a TensorDataset's has some hundred")
    return _unpickle(bytes(pickled), lambda key: _storage(data, entries, key))


def _check_byte_order(data: bytes | memoryview, entries: dict[str, zipfile.ZipInfo]) -> None:
    if "byteorder" in entries and bytes(_stored(data, entries["byteorder"])).strip() != b"little":
        raise PartitionError("was written on a big-endian machine: save it again on a little-endian one")


def _storage(data: bytes | memoryview, entries: dict[str, zipfile.ZipInfo], key: str) -> memoryview:
    if f"data/{key}" not in entries:
        raise PartitionError(f"lacks the tensor bytes data/{key}")
    return _stored(data, entries[f"data/{key}"])


def _stored(data: bytes | memoryview, info: zipfile.ZipInfo) -> memoryview:
    """The bytes of an uncompressed entry, without a copy."""
    view = memoryview(data)
    if info.compress_type != zipfile.ZIP_STORED:
        raise PartitionError(f"{info.filename} is compressed, which torch never writes")
    header = view[info.header_offset : info.header_offset + _LOCAL_HEADER.size]
    if len(header) < _LOCAL_HEADER.size or bytes(header[:4]) != b"PK\x03\x04":
        raise PartitionError(f"{info.filename} has no local header: the file is damaged")
    _, name_length, extra_length = _LOCAL_HEADER.unpack(header)
    start = info.header_offset + _LOCAL_HEADER.size + name_length + extra_length
    content = view[start : start + info.file_size]
    if len(content) < info.file_size:
        raise PartitionError(f"is cut short inside {info.filename}")
    return content


class _TensorDataset:
    """Stands in for torch.utils.data.TensorDataset; holds what its pickle sets."""

    tensors: object = None


@dataclass(frozen=True)
class _StorageType:
    dtype: np.dtype[Any]


def _rebuild_tensor(
    storage: Array, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object
) -> Array:
    """A view of `storage`, as torch._utils._rebuild_tensor_v2; everything stays inside its bounds."""
    numbers = [offset, *size, *stride]
    if not isinstance(storage, np.ndarray) or not all(type(n) is int and n >= 0 for n in numbers):
        raise PartitionError("describes a tensor by something other than a storage and whole numbers")
    if len(size) != len(stride):
        raise PartitionError(f"describes a tensor of shape {size} by strides {stride}")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if math.prod(size) and last >= len(storage):
        raise PartitionError(f"a tensor of shape {size} reaches beyond its {len(storage)} stored values")
    if not math.prod(size):
        return np.empty(size, storage.dtype)
    steps = tuple(step * storage.itemsize for step in stride)
    return np.lib.stride_tricks.as_strided(storage[offset:], size, steps, writeable=False)


_KNOWN_GLOBALS: dict[tuple[str, str], object] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch.utils.data.dataset", "TensorDataset"): _TensorDataset,
    **{("torch", name): _StorageType(dtype) for name, dtype in _STORAGE_TYPES.items()},
}


class _Unpickler(pickle._Unpickler):  # the Python one: the C one can be made to reserve gigabytes by one opcode
    def __init__(self, pickled: bytes, storage: Callable[[str], memoryview]) -> None:
        super().__init__(io.BytesIO(pickled))
        self._load_storage = storage

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _KNOWN_GLOBALS[module, name]
        except KeyError:
            raise PartitionError(
                f"its pickle asks for {module}.{name}, which no partition needs; nothing of it was run"
            ) from None

    def persistent_load(self, pid: Any) -> Array:
        match pid:
            case ("storage", _StorageType() as kind, str() as key, str(), int() as count):
                content = self._load_storage(key)
                if count < 0 or len(content) < count * kind.dtype.itemsize:
                    raise PartitionError(f"data/{key} has {len(content)} bytes, too few for {count} values")
                return np.frombuffer(content, kind.dtype, count)
        raise PartitionError("refers to a storage in a way that torch does not")


def _unpickle(pickled: bytes, storage: Callable[[str], memoryview]) -> tuple[Array, ...]:
    try:
        dataset = _Unpickler(pickled, storage).load()
    except PartitionError:
        raise
    except Exception as error:  # a damaged pickle can raise almost anything
        raise PartitionError(f"its pickle is damaged ({type(error).__name__}: {error})") from None
    if not isinstance(dataset, _TensorDataset):
        raise PartitionError(f"holds a {type(dataset).__name__}, not a torch TensorDataset")
    tensors = dataset.tensors
    if not isinstance(tensors, tuple) or not all(isinstance(t, np.ndarray) for t in tensors):
        raise PartitionError("its TensorDataset holds something other than tensors")
    return tensors


def _checked(tensors: tuple[Array, ...], name: str, layout: Layout) -> Partition:
    if len(tensors) not in (2, 3):
        raise PartitionError(f"{name}: has {len(tensors)} tensors, expected images, magnitudes and redshift")
    images, magnitudes, *rest = tensors
    count = images.shape[0] if images.ndim else 0
    size = layout.size
    _check_shape(images, (count, layout.channels, size, size), "images", name)
    _check_shape(magnitudes, (count, layout.magnitudes), "magnitudes", name)
    redshift = rest[0] if rest else None
    if redshift is not None:
        _check_shape(redshift, (count, 1) if redshift.ndim == 2 else (count,), "redshift", name)
        redshift = _float32(redshift.reshape(count))
    partition = Partition(_float32(images), _float32(magnitudes), redshift)
    _check_finite(partition, name)
    return partition


def _check_shape(array: Array, expected: tuple[int, ...], what: str, name: str) -> None:
    if array.shape != expected:
        wanted = "(" + ", ".join(["N", *map(str, expected[1:])]) + ("," if len(expected) == 1 else "") + ")"
        count = f" with N = {expected[0]}, the number of images" if what != "images" else ""
        raise PartitionError(f"{name}: {what} have shape {array.shape}, expected {wanted}{count}")


def _float32(array: Array) -> Floats:
    return np.ascontiguousarray(array, np.float32)


def _check_finite(partition: Partition, name: str) -> None:
    for what, array in (("images", partition.images), ("magnitudes", partition.magnitudes)):
        with np.errstate(invalid="ignore", over="ignore"):
            rows = np.isfinite(array.sum(tuple(range(1, array.ndim)), dtype=np.float64))
        if not rows.all():
            bad = np.flatnonzero(~rows)
            raise PartitionError(
                f"{name}: {what} of {len(bad)} of {len(rows)} galaxies hold NaN or infinity, "
                f"the first in row {bad[0]}"
            )
