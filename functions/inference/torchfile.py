"""Reading files of torch.save without torch and without trust.

Such a file is an uncompressed zip: `data.pkl` describes the objects, `data/KEY` holds each tensor's bytes
(https://docs.pytorch.org/docs/stable/notes/serialization.html). The pickle is read by an unpickler that knows
tensor rebuilding and what its caller adds to it, so nothing in a file is ever executed, and tensors are numpy
views of the file's own buffer.
"""

from __future__ import annotations

import io
import math
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Find = Callable[[str, str], object]
"""What a pickle's global `module, name` stands for; raises LookupError for what the file may not ask for."""

_LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, name length, extra length (APPNOTE.TXT 4.3.7)
_TENSOR_LIMIT = 1 << 36  # bytes; strides of zero can make a few bytes look like any number of them
_PICKLE_LIMIT = 16 << 20  # bytes; a TensorDataset's pickle has some hundred, a large module's a megabyte
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


class TorchFileError(ValueError):
    """A file is broken, hostile or not one of torch's; the message names the fault."""


def load(data: bytes | memoryview, find: Find) -> object:
    """The pickled object of a .pt file, its tensors as read-only numpy views. Raises TorchFileError."""
    try:
        archive = zipfile.ZipFile(_File(data))
    except (zipfile.BadZipFile, ValueError, OverflowError, NotImplementedError, OSError) as error:
        raise TorchFileError(
            f"is cut short or not a .pt file written by torch 1.6 or newer ({error})"
        ) from None
    entries = {info.filename.partition("/")[2]: info for info in archive.infolist()}
    if "data.pkl" not in entries:
        raise TorchFileError("is a zip file without data.pkl, not a .pt file")
    _check_byte_order(data, entries)
    pickled = _stored(data, entries["data.pkl"])
    if len(pickled) > _PICKLE_LIMIT:
        raise TorchFileError(f"its pickle has {len(pickled)} bytes, more than {_PICKLE_LIMIT}")
    try:
        return _Unpickler(bytes(pickled), lambda key: _storage(data, entries, key), find).load()
    except TorchFileError:
        raise
    except Exception as error:  # a damaged pickle can raise almost anything
        raise TorchFileError(f"its pickle is damaged ({type(error).__name__}: {error})") from None


class _File(io.RawIOBase):
    """A buffer as a file, without a copy of it (io.BytesIO copies all but bytes)."""

    def __init__(self, data: bytes | memoryview) -> None:
        self._view, self._place = memoryview(data), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: len(self._view)}[whence]
        if base + offset < 0:
            raise OSError("seek before the beginning")
        self._place = base + offset
        return self._place

    def readinto(self, buffer: Any) -> int:
        part = self._view[self._place : self._place + len(buffer)]
        buffer[: len(part)] = part
        self._place += len(part)
        return len(part)


def _check_byte_order(data: bytes | memoryview, entries: dict[str, zipfile.ZipInfo]) -> None:
    if "byteorder" in entries and bytes(_stored(data, entries["byteorder"])).strip() != b"little":
        raise TorchFileError("was written on a big-endian machine: save it again on a little-endian one")


def _storage(data: bytes | memoryview, entries: dict[str, zipfile.ZipInfo], key: str) -> memoryview:
    if f"data/{key}" not in entries:
        raise TorchFileError(f"lacks the tensor bytes data/{key}")
    return _stored(data, entries[f"data/{key}"])


def _stored(data: bytes | memoryview, info: zipfile.ZipInfo) -> memoryview:
    """The bytes of an uncompressed entry, without a copy."""
    view = memoryview(data)
    if info.compress_type != zipfile.ZIP_STORED:
        raise TorchFileError(f"{info.filename} is compressed, which torch never writes")
    header = view[info.header_offset : info.header_offset + _LOCAL_HEADER.size]
    if len(header) < _LOCAL_HEADER.size or bytes(header[:4]) != b"PK\x03\x04":
        raise TorchFileError(f"{info.filename} has no local header: the file is damaged")
    _, name_length, extra_length = _LOCAL_HEADER.unpack(header)
    start = info.header_offset + _LOCAL_HEADER.size + name_length + extra_length
    content = view[start : start + info.file_size]
    if len(content) < info.file_size:
        raise TorchFileError(f"is cut short inside {info.filename}")
    return content


@dataclass(frozen=True)
class _StorageType:
    dtype: np.dtype[Any]


def _rebuild_tensor(
    storage: Array, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object
) -> Array:
    """A view of `storage`, as torch._utils._rebuild_tensor_v2; everything stays inside its bounds."""
    numbers = [offset, *size, *stride]
    if not isinstance(storage, np.ndarray) or not all(type(n) is int and n >= 0 for n in numbers):
        raise TorchFileError("describes a tensor by something other than a storage and whole numbers")
    if len(size) != len(stride):
        raise TorchFileError(f"describes a tensor of shape {size} by strides {stride}")
    if math.prod(size) * storage.itemsize > _TENSOR_LIMIT:
        raise TorchFileError(f"describes a tensor of shape {size}, larger than {_TENSOR_LIMIT >> 30} GiB")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if math.prod(size) and last >= len(storage):
        raise TorchFileError(f"a tensor of shape {size} reaches beyond its {len(storage)} stored values")
    if not math.prod(size):
        return np.empty(size, storage.dtype)
    steps = tuple(step * storage.itemsize for step in stride)
    return np.lib.stride_tricks.as_strided(storage[offset:], size, steps, writeable=False)


_KNOWN_GLOBALS: dict[tuple[str, str], object] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    **{("torch", name): _StorageType(dtype) for name, dtype in _STORAGE_TYPES.items()},
}


class _Unpickler(pickle._Unpickler):  # the Python one: the C one can be made to reserve gigabytes by one opcode
    def __init__(self, pickled: bytes, storage: Callable[[str], memoryview], find: Find) -> None:
        super().__init__(io.BytesIO(pickled))
        self._load_storage = storage
        self._find = find

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _KNOWN_GLOBALS:
            return _KNOWN_GLOBALS[module, name]
        try:
            return self._find(module, name)
        except LookupError:
            raise TorchFileError(
                f"its pickle asks for {module}.{name}, which is not allowed; nothing of it was run"
            ) from None

    def persistent_load(self, pid: Any) -> Array:
        match pid:
            case ("storage", _StorageType() as kind, str() as key, str(), int() as count):
                content = self._load_storage(key)
                if count < 0 or len(content) < count * kind.dtype.itemsize:
                    raise TorchFileError(f"data/{key} has {len(content)} bytes, too few for {count} values")
                return np.frombuffer(content, kind.dtype, count)
        raise TorchFileError("refers to a storage in a way that torch does not")
