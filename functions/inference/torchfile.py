"""Reading files of torch.save without torch and without trust.

Such a file is an uncompressed zip: `data.pkl` describes the objects, `data/KEY` holds each tensor's bytes
(https://docs.pytorch.org/docs/stable/notes/serialization.html). The pickle is read by an unpickler that knows
tensor rebuilding and what its caller adds to it, so nothing in a file is ever executed. Tensors are numpy
views of the file's own buffer (`load`), or descriptions of where their bytes lie (`describe`), for files that
are read piece by piece. The checksum of every piece is compared where torch has written one.
"""

from __future__ import annotations

import io
import math
import os
import pickle
import struct
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

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


class Source(Protocol):
    """A file's bytes, wherever they are. `read` may be called by several threads at once."""

    @property
    def size(self) -> int: ...

    def read(self, start: int, stop: int) -> bytes | memoryview:
        """The bytes from `start` to `stop`, which lie inside the file."""


@dataclass(frozen=True)
class Buffer:
    """A file that is in memory; what is read of it is a view."""

    data: bytes | memoryview

    @property
    def size(self) -> int:
        return len(memoryview(self.data))

    def read(self, start: int, stop: int) -> memoryview:
        return memoryview(self.data)[start:stop]


class LocalFile:
    """A file of this machine, read where it is asked for. Raises OSError."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self.size = os.fstat(self._file.fileno()).st_size

    def read(self, start: int, stop: int) -> bytes:
        return os.pread(self._file.fileno(), stop - start, start)


@dataclass(frozen=True)
class Record:
    """The bytes of one entry of the zip: from `start`, `size` of them; crc 0 where torch wrote none."""

    name: str
    start: int
    size: int
    crc: int

    def check(self, crc: int) -> None:
        """Raises TorchFileError if `crc` of all its bytes is not the stored one.

        torch leaves 0 where `set_crc32_options(False)` was asked for.
        """
        if self.crc and crc != self.crc:
            raise TorchFileError(f"is damaged: {self.name} has another checksum than when it was written")


@dataclass(frozen=True)
class Tensor:
    """A tensor as its pickle describes it; offset and strides count values of its record."""

    record: Record
    dtype: np.dtype[Any]
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def is_whole_record(self) -> bool:
        """Whether its values are those of the record, in order: then any rows can be read by themselves."""
        steps = [math.prod(self.shape[axis + 1 :]) for axis in range(len(self.shape))]
        in_order = all(n == 1 or a == b for n, a, b in zip(self.shape, self.strides, steps, strict=True))
        return in_order and self.offset == 0 and math.prod(self.shape) * self.dtype.itemsize == self.record.size

    def read(self, source: Source, verify: bool = True) -> Array:
        """All its values, read-only: a view of the file where the source gives views."""
        content = source.read(self.record.start, self.record.start + self.record.size)
        if verify:
            self.record.check(zlib.crc32(content))
        if not math.prod(self.shape):
            return np.empty(self.shape, self.dtype)
        steps = tuple(step * self.dtype.itemsize for step in self.strides)
        stored = np.frombuffer(content, self.dtype, len(content) // self.dtype.itemsize)
        return np.lib.stride_tricks.as_strided(stored[self.offset :], self.shape, steps, writeable=False)


def load(data: bytes | memoryview, find: Find, verify: bool = True) -> object:
    """The pickled object of a .pt file, its tensors as read-only numpy views. Raises TorchFileError.

    verify: compare checksums, which reads every byte once.
    """
    source = Buffer(data)
    return _unpickled(source, find, lambda tensor: tensor.read(source, verify))


def describe(source: Source, find: Find) -> object:
    """The pickled object, with a `Tensor` for each tensor; reads the end of the file and its pickle alone."""
    return _unpickled(source, find, lambda tensor: tensor)


def is_legacy(source: Source) -> bool:
    """Whether it is a file of torch before 1.6, which is no zip (torch.serialization.MAGIC_NUMBER)."""
    start = bytes(source.read(0, min(16, source.size)))
    return start[:2] == b"\x80\x02" and bytes.fromhex("6cfc9c46f9206aa85019") in start


def _unpickled(source: Source, find: Find, tensor: Callable[[Tensor], object]) -> object:
    try:
        archive = zipfile.ZipFile(io.BufferedReader(_File(source), 1 << 16))
        infos = archive.infolist()
    except (
        zipfile.BadZipFile,
        ValueError,
        OverflowError,
        NotImplementedError,
        EOFError,
        struct.error,
    ) as error:
        raise TorchFileError(
            f"is cut short or not a .pt file written by torch 1.6 or newer ({error})"
        ) from None
    entries = {info.filename.partition("/")[2]: info for info in infos}
    if len(entries) < len(infos):
        raise TorchFileError("is damaged: it has two entries of one name")
    if "data.pkl" not in entries:
        raise TorchFileError("is a zip file without data.pkl, not a .pt file")
    if "byteorder" in entries and _content(source, entries["byteorder"]).strip() != b"little":
        raise TorchFileError("was written on a big-endian machine: save it again on a little-endian one")
    pickled = _content(source, entries["data.pkl"])
    try:
        return _Unpickler(pickled, lambda key: _record_of(source, entries, key), find, tensor).load()
    except (TorchFileError, OSError):
        raise
    except Exception as error:  # a damaged pickle can raise almost anything
        if type(error).__module__ not in ("builtins", "pickle", "_pickle", "struct"):
            raise  # the source's own: its storage cannot be read
        raise TorchFileError(f"its pickle is damaged ({type(error).__name__}: {error})") from None


class _File(io.RawIOBase):
    """A source as a file, for zipfile."""

    def __init__(self, source: Source) -> None:
        self._source, self._place = source, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._source.size}[whence]
        if base + offset < 0:
            raise ValueError("seek before the beginning")
        self._place = base + offset
        return self._place

    def readinto(self, buffer: Any) -> int:
        stop = min(self._place + len(buffer), self._source.size)
        part = self._source.read(self._place, stop) if stop > self._place else b""
        buffer[: len(part)] = part
        self._place += len(part)
        return len(part)


def _record_of(source: Source, entries: dict[str, zipfile.ZipInfo], key: str) -> Record:
    if f"data/{key}" not in entries:
        raise TorchFileError(f"lacks the tensor bytes data/{key}")
    return _record(source, entries[f"data/{key}"])


def _content(source: Source, info: zipfile.ZipInfo) -> bytes:
    """The checked bytes of a small entry."""
    record = _record(source, info)
    if record.size > _PICKLE_LIMIT:
        raise TorchFileError(f"its {record.name} has {record.size} bytes, more than {_PICKLE_LIMIT}")
    content = bytes(source.read(record.start, record.start + record.size))
    record.check(zlib.crc32(content))
    return content


def _record(source: Source, info: zipfile.ZipInfo) -> Record:
    """Where an uncompressed entry's bytes lie."""
    if info.compress_type != zipfile.ZIP_STORED:
        raise TorchFileError(f"{info.filename} is compressed, which torch never writes")
    offset, name = info.header_offset, info.orig_filename.encode("utf-8", "surrogateescape")
    named = offset + _LOCAL_HEADER.size + len(name)
    header = bytes(source.read(offset, min(named, source.size))) if 0 <= offset < source.size else b""
    if len(header) < named - offset or header[:4] != b"PK\x03\x04":
        raise TorchFileError(f"{info.filename} has no local header: the file is damaged")
    _, name_length, extra_length = _LOCAL_HEADER.unpack_from(header)
    if name_length != len(name) or header[_LOCAL_HEADER.size :] != name:
        raise TorchFileError(f"is damaged: {info.filename} goes by another name in its own header")
    start = named + extra_length
    if start + info.file_size > source.size:
        raise TorchFileError(f"is cut short inside {info.filename}")
    return Record(info.filename.partition("/")[2], start, info.file_size, info.CRC)


@dataclass(frozen=True)
class _StorageType:
    dtype: np.dtype[Any]


@dataclass(frozen=True)
class _Storage:
    record: Record
    dtype: np.dtype[Any]
    count: int


@dataclass(frozen=True)
class _Rebuilt:
    """What torch._utils._rebuild_tensor_v2 is asked for, as the pickle's stack holds it until it is checked."""

    tensor: Callable[[Tensor], object]

    def __call__(
        self, storage: object, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object
    ) -> object:
        """Everything stays inside the storage's bounds."""
        numbers = [offset, *size, *stride]
        if not isinstance(storage, _Storage) or not all(type(n) is int and n >= 0 for n in numbers):
            raise TorchFileError("describes a tensor by something other than a storage and whole numbers")
        if len(size) != len(stride):
            raise TorchFileError(f"describes a tensor of shape {size} by strides {stride}")
        if math.prod(size) * storage.dtype.itemsize > _TENSOR_LIMIT:
            raise TorchFileError(f"describes a tensor of shape {size}, larger than {_TENSOR_LIMIT >> 30} GiB")
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if math.prod(size) and last >= storage.count:
            raise TorchFileError(f"a tensor of shape {size} reaches beyond its {storage.count} stored values")
        return self.tensor(Tensor(storage.record, storage.dtype, offset, tuple(size), tuple(stride)))


_KNOWN_GLOBALS: dict[tuple[str, str], object] = {
    ("collections", "OrderedDict"): OrderedDict,
    **{("torch", name): _StorageType(dtype) for name, dtype in _STORAGE_TYPES.items()},
}


# Python's unpickler reserves whatever length BYTEARRAY8 says; the others need what a file cannot bring.
_BUFFERS = (pickle.BYTEARRAY8, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER)


def _refuse_buffer(unpickler: pickle._Unpickler) -> None:
    raise TorchFileError("its pickle holds a buffer, which torch never writes")


class _Unpickler(pickle._Unpickler):  # the Python one: the C one can be made to reserve gigabytes by one opcode
    dispatch: ClassVar[dict[int, Any]] = {
        **pickle._Unpickler.dispatch,
        **dict.fromkeys((opcode[0] for opcode in _BUFFERS), _refuse_buffer),
    }

    def __init__(
        self,
        pickled: bytes,
        record: Callable[[str], Record],
        find: Find,
        tensor: Callable[[Tensor], object],
    ) -> None:
        super().__init__(io.BytesIO(pickled))
        self._record = record
        self._find = find
        self._known = {**_KNOWN_GLOBALS, ("torch._utils", "_rebuild_tensor_v2"): _Rebuilt(tensor)}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in self._known:
            return self._known[module, name]
        try:
            return self._find(module, name)
        except LookupError:
            raise TorchFileError(
                f"its pickle asks for {module}.{name}, which is not allowed; nothing of it was run"
            ) from None

    def persistent_load(self, pid: Any) -> _Storage:
        match pid:
            case ("storage", _StorageType() as kind, str() as key, str(), int() as count):
                record = self._record(key)
                if count < 0 or record.size < count * kind.dtype.itemsize:
                    raise TorchFileError(f"data/{key} has {record.size} bytes, too few for {count} values")
                return _Storage(record, kind.dtype, count)
        raise TorchFileError("refers to a storage in a way that torch does not")
