"""The columns that the galaxies of a partition will have: its head, read in a few ranged requests.

A partition is a zip (docs/data.md). Its list of entries is at the end, and the pickle of its tensors at the
beginning. Its identifiers and kept columns are in an .npy, whose header names them. Nothing in the file is
executed. Ranks read it again and check everything; what cannot be read here is left to them.
"""

from __future__ import annotations

import ast
import pickletools
import re
import struct
import zipfile
from dataclasses import dataclass
from typing import IO, Any

from .contract.columns import stored_type
from .contract.names import NAME
from .contract.s3 import repeated
from .contract.seekable import Seekable

_TAIL = 1 << 16  # bytes of the first request; a list of entries has a few hundred
_PART = 1 << 14  # bytes of a request
_MOST_REQUESTS = 8
_MOST_BYTES = 1 << 20  # of all requests
_MOST_PICKLE = 1 << 15
_OBJECTS = "cosmicai/objects.npy"
_FAULTS = (
    *(ValueError, KeyError, TypeError, SyntaxError, AttributeError, IndexError, OverflowError, EOFError),
    *(MemoryError, RecursionError, NotImplementedError, RuntimeError, OSError),
    *(struct.error, zipfile.BadZipFile),
)


class HeadError(ValueError):
    """The head of a file is not that of a partition; a rank will say what is wrong with it."""


@dataclass(frozen=True)
class Head:
    """columns: Delta Lake's types of identifiers, positions and kept columns. tensors: how many it has."""

    columns: dict[str, str]
    tensors: int


def read_head(s3: Any, bucket: str, key: str) -> Head | None:
    """None for a partition without galaxies. Raises HeadError, botocore's ClientError, or one of BROKEN."""
    try:
        with zipfile.ZipFile(_Remote(s3, bucket, key)) as archive:
            entries = {info.filename.partition("/")[2]: info for info in archive.infolist()}
            with _opened(archive, entries["data.pkl"]) as pickle:
                tensors = _tensors(pickle.read(_MOST_PICKLE))
            if _OBJECTS not in entries:
                return Head({}, tensors)
            with _opened(archive, entries[_OBJECTS]) as table:
                rows, columns = _header(table.read(_PART))
    except _FAULTS as error:
        raise HeadError(f"{type(error).__name__}: {error}") from error
    return Head(columns, tensors) if rows else None


def _opened(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> IO[bytes]:
    """An entry of the zip. torch.save never compresses one. Raises ValueError."""
    if entry.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"its {entry.filename[:80]!r} is compressed")
    return archive.open(entry)


def _tensors(pickle: bytes) -> int:
    """The number of tensors: each refers to its storage once."""
    return sum(opcode.name == "BINPERSID" for opcode, _, _ in pickletools.genops(pickle))


def _header(start: bytes) -> tuple[int, dict[str, str]]:
    """The rows of an .npy of version 1.0, and its columns with Delta Lake's types.

    https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
    """
    if start[:8] != b"\x93NUMPY\x01\x00":
        raise ValueError("is not an .npy of version 1.0")
    (size,) = struct.unpack_from("<H", start, 8)
    header = ast.literal_eval(start[10 : 10 + size].decode("latin-1"))
    (rows,) = header["shape"]
    columns = {name: stored_type(code.lstrip("<|")) for name, code in header["descr"]}
    if not all(re.fullmatch(NAME, name) for name in columns):
        raise ValueError("names a column that results cannot have")
    return rows, columns


class _Remote(Seekable):
    """An object of S3 as a file for zipfile, of which few bytes can be read."""

    def __init__(self, s3: Any, bucket: str, key: str) -> None:
        self._s3, self._bucket, self._key = s3, bucket, key
        self._parts: list[tuple[int, bytes]] = []  # where each begins
        self._left, self._requests = _MOST_BYTES, _MOST_REQUESTS
        super().__init__(self._fetch(f"bytes=-{_TAIL}"))

    def readinto(self, buffer: Any) -> int:
        stop = min(self.place + len(buffer), self.size)
        if stop <= self.place:
            return 0
        part = self._held(stop)
        if part is None:
            last = min(max(stop, self.place + _PART), self.size) - 1
            self._fetch(f"bytes={self.place}-{last}")
            part = self._held(stop) or b""
        buffer[: len(part)] = part
        self.place += len(part)
        return len(part)

    def _held(self, stop: int) -> bytes | None:
        for start, body in self._parts:
            if start <= self.place and stop <= start + len(body):
                return body[self.place - start : stop - start]
        return None

    def _fetch(self, requested: str) -> int:
        """Keeps a range of the object; returns the size of the whole."""
        self._requests -= 1
        if self._requests < 0:
            raise ValueError(f"its head takes more than {_MOST_REQUESTS} requests")

        def get() -> tuple[str, bytes]:
            answer = self._s3.get_object(Bucket=self._bucket, Key=self._key, Range=requested)
            return answer["ContentRange"], answer["Body"].read(_MOST_BYTES)

        content_range, body = repeated(get)
        self._left -= len(body)
        if self._left < 0:
            raise ValueError(f"its head has more than {_MOST_BYTES:,} bytes")
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", content_range)
        if match is None:
            raise ValueError(f"S3 does not state the range of its answer: {content_range[:80]!r}")
        self._parts.append((int(match[1]), body))
        return int(match[2])
