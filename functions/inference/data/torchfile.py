"""Reading files of torch.save without torch and without trust.

Such a file is an uncompressed zip: `data.pkl` describes the objects, `data/KEY` holds each tensor's bytes
(https://docs.pytorch.org/docs/stable/notes/serialization.html). Before torch 1.6 it was a sequence of pickles
followed by the tensors' bytes. The pickles are read as data (pickled.py), so nothing in a file is executed.
Tensors are described by the position of their bytes (tensors.py), for files that are read piece by piece. The
checksum of every piece is verified if torch has written one.
"""

from __future__ import annotations

import io
import os
import struct
import zipfile
import zlib
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..contract.seekable import Seekable
from . import pickled
from .filekinds import other_kind
from .pickled import Pairs, Rules, TorchFileError, printable
from .tensors import Array, Piece, Source, Tensor, with_tensors

__all__ = ["Array", "Buffer", "LocalFile", "Source", "Tensor", "TorchFileError", "describe", "is_legacy"]

_LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, name length, extra length (APPNOTE.TXT 4.3.7)
_DIRECTORY_LIMIT = 8 << 20  # bytes of a zip's list of entries; a checkpoint of 1,000 tensors has 0.1 MB
_PICKLE_LIMIT = 16 << 20  # bytes; a TensorDataset's pickle has a few hundred, a large module's a megabyte
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    ValueError,
    OverflowError,
    NotImplementedError,
    EOFError,
    struct.error,
)
_OPCODES = 150_000  # read in half a second at worst; the published module has 56,000
_FEW_OPCODES = 1_000  # of the small pickles in a file that torch before 1.6 wrote


@dataclass(frozen=True, repr=False, eq=False)
class Buffer:
    """A file in memory; reading gives views of it."""

    data: bytes | memoryview

    @property
    def size(self) -> int:
        return len(memoryview(self.data))

    def read(self, start: int, stop: int) -> memoryview:
        return memoryview(self.data)[start:stop]


class LocalFile:
    """A file on this machine, of which only the requested parts are read. Raises OSError."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self.size = os.fstat(self._file.fileno()).st_size

    def read(self, start: int, stop: int) -> bytes:
        return os.pread(self._file.fileno(), stop - start, start)


def describe(source: Source, known: Container[str] | None = None, opcodes: int = _OPCODES) -> object:
    """The pickled object, with a `Tensor` for each tensor; reads only the pickles and the end of the file.

    known: dotted names of the classes that it may hold, as `Record`; None: any. None of them is imported.
    Tensors of numbers that are not read here (complex, quantised, …) become Records. Raises TorchFileError.
    """
    rules = Rules(opcodes, known=known)
    return _legacy(source, rules) if is_legacy(source) else _zipped(source, rules)


def is_legacy(source: Source) -> bool:
    """Whether torch before 1.6 wrote it, which did not write a zip (torch.serialization.MAGIC_NUMBER)."""
    start = bytes(source.read(0, min(32, source.size)))
    return start[:1] == b"\x80" and bytes.fromhex("6cfc9c46f9206aa85019") in start


def record(source: Source, name: str, most_bytes: int) -> bytes | None:
    """The bytes of an additional entry of the zip, by its name below the zip's folder.

    None if there is none, as in every file that torch before 1.6 wrote. Raises TorchFileError.
    """
    if is_legacy(source):
        return None
    info = _entries(source).get(name)
    return None if info is None else _content(source, info, most_bytes)


# The zip


def _zipped(source: Source, rules: Rules) -> object:
    entries = _entries(source)
    if "byteorder" in entries and _content(source, entries["byteorder"]).strip() != b"little":
        raise TorchFileError("was written on a big-endian machine: save it again on a little-endian one")
    data = _content(source, entries["data.pkl"])

    def piece(key: str, _count: int, _width: int) -> Piece:
        if f"data/{key}" not in entries:
            raise TorchFileError(f"lacks the tensor bytes {printable(f'data/{key}')}")
        return _piece(source, entries[f"data/{key}"])

    return pickled.read(data, with_tensors(rules, piece, source.size))[0]


def _entries(source: Source) -> dict[str, zipfile.ZipInfo]:
    try:
        archive = zipfile.ZipFile(io.BufferedReader(_File(source), 1 << 16))
        infos = archive.infolist()
    except _ZIP_ERRORS as error:
        kind = other_kind(bytes(source.read(0, min(512, source.size))))
        if isinstance(error, TorchFileError) or kind:
            raise TorchFileError(kind or str(error)) from error
        raise TorchFileError(f"is cut short or not a .pt file of torch.save ({error})") from error
    entries = {info.filename.partition("/")[2]: info for info in infos}
    if "data.pkl" not in entries:
        names = ", ".join(printable(info.filename, 40) for info in infos[:3])
        raise TorchFileError(f"is a zip file without data.pkl (it begins with {names}), not a .pt file")
    if len(entries) < len(infos):
        raise TorchFileError("is damaged: it has two entries of one name")
    if "constants.pkl" in entries:
        raise TorchFileError(
            "is a TorchScript archive: give what torch.save writes, the module or its state dict"
        )
    return entries


class _File(Seekable):
    """A source as a file for zipfile, of which at most _DIRECTORY_LIMIT bytes can be read."""

    def __init__(self, source: Source) -> None:
        super().__init__(source.size)
        self._source, self._left = source, _DIRECTORY_LIMIT

    def readinto(self, buffer: Any) -> int:
        stop = min(self.place + len(buffer), self.size)
        part = self._source.read(self.place, stop) if stop > self.place else b""
        self._left -= len(part)
        if self._left < 0:
            raise TorchFileError(f"its list of entries has more than {_DIRECTORY_LIMIT >> 20} MB")
        buffer[: len(part)] = part
        self.place += len(part)
        return len(part)


def _content(source: Source, info: zipfile.ZipInfo, most_bytes: int = _PICKLE_LIMIT) -> bytes:
    """The checked bytes of a small entry."""
    piece = _piece(source, info)
    if piece.size > most_bytes:
        raise TorchFileError(f"its {piece.name} has {piece.size} bytes, more than {most_bytes}")
    content = bytes(source.read(piece.start, piece.start + piece.size))
    piece.check(zlib.crc32(content))
    return content


def _piece(source: Source, info: zipfile.ZipInfo) -> Piece:
    """The position of an uncompressed entry's bytes."""
    shown = printable(info.filename)
    if info.compress_type != zipfile.ZIP_STORED:
        raise TorchFileError(f"{shown} is compressed, which torch never writes")
    offset, name = info.header_offset, info.orig_filename.encode("utf-8", "surrogateescape")
    named = offset + _LOCAL_HEADER.size + len(name)
    header = bytes(source.read(offset, min(named, source.size))) if 0 <= offset < source.size else b""
    if len(header) < named - offset or header[:4] != b"PK\x03\x04":
        raise TorchFileError(f"{shown} has no local header: the file is damaged")
    _, name_length, extra_length = _LOCAL_HEADER.unpack_from(header)
    if name_length != len(name) or header[_LOCAL_HEADER.size :] != name:
        raise TorchFileError(f"is damaged: {shown} has another name in its local header")
    start = named + extra_length
    if start + info.file_size > source.size:
        raise TorchFileError(f"is cut short inside {shown}")
    return Piece(info.filename.partition("/")[2], start, info.file_size, info.CRC)


# Files that torch before 1.6 wrote: five pickles (magic number, version, machine, object, the keys),
# then the storages in the order of the keys, each after its number of values (torch.serialization._legacy_load)

_VERSION = 1001
_COUNT = struct.Struct("<Q")


def _legacy(source: Source, rules: Rules) -> object:
    head = bytes(source.read(0, min(source.size, _PICKLE_LIMIT)))
    place = 0
    preamble = []
    for _ in range(3):
        value, place = pickled.read(head, Rules(_FEW_OPCODES, known=rules.known), place)
        preamble.append(value)
    _, version, machine = preamble
    if version != _VERSION or not isinstance(machine, Pairs) or machine.named.get("little_endian") is not True:
        raise TorchFileError(
            "was written by a torch or on a machine whose files cannot be read here: save it again"
        )
    storages: dict[str, tuple[Piece, int]] = {}

    def noted(key: str, count: int, width: int) -> Piece:
        piece = Piece(f"storage {printable(key)}", 0, count * width)
        storages[key] = piece, count
        return piece

    content, place = pickled.read(head, with_tensors(rules, noted, source.size), place)
    keys, place = pickled.read(head, Rules(_FEW_OPCODES + 4 * len(storages), known=rules.known), place)
    _place_storages(source, keys, storages, place)
    return content


def _place_storages(source: Source, keys: object, storages: dict[str, tuple[Piece, int]], start: int) -> None:
    """Sets the positions of the storages, which follow each other in the order of `keys`, from `start`."""
    missing = dict(storages)
    for key in keys if isinstance(keys, list) else ():
        if type(key) is not str or key not in missing:
            raise TorchFileError("is damaged: it holds a storage that no tensor uses")
        piece, count = missing.pop(key)
        piece.start = start + _COUNT.size
        if piece.start + piece.size > source.size:
            raise TorchFileError(f"is cut short inside {piece.name}")
        if _COUNT.unpack(source.read(start, piece.start))[0] != count:
            raise TorchFileError(
                f"is damaged: the length of {piece.name} is not the one that its tensors state"
            )
        start = piece.start + piece.size
    if missing:
        raise TorchFileError("is damaged: it lacks the bytes of a tensor")
