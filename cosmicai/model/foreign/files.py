"""A checkpoint file's content, whatever wrote it: torch.save of any version, or safetensors."""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import struct
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cosmicai.model.foreign.errors import CheckpointError, shown
from inference.data.pickled import Pairs, Record, TorchFileError
from inference.data.tensors import Piece, Tensor
from inference.data.torchfile import Buffer, describe

Floats = NDArray[np.float32]

_HEADER_LIMIT = 16 << 20  # bytes of a safetensors header
_LENGTH = struct.Struct("<Q")
_SAFETENSORS = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}
_FLOATS = ("float32", "float64", "float16", "bfloat16")


@dataclass
class File:
    """An opened checkpoint. `content` is made of inert objects (inference.data.pickled) and `Tensor`s."""

    path: Path
    content: object
    format: str
    source: Buffer
    numbers: set[str] = field(default_factory=set)  # types of the values that were read
    _checked: set[str] = field(default_factory=set)
    _left: int = field(init=False)

    def __post_init__(self) -> None:
        self._left = self.source.size

    @classmethod
    def open(cls, path: Path) -> File:
        """Raises CheckpointError, which names the file and what it is instead."""
        try:
            with path.open("rb") as file:
                empty = not path.stat().st_size
                source = Buffer(
                    b"" if empty else memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
                )
        except OSError as error:
            raise CheckpointError(f"cannot be opened ({error.strerror})") from error
        if empty:
            raise CheckpointError("is empty")
        header = _safetensors_header(source)
        if header is not None:
            return cls(path, _safetensors(source, header), "safetensors", source)
        try:
            return cls(path, describe(source), "torch.save", source)
        except TorchFileError as error:
            raise CheckpointError(str(error)) from error

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.source.data).hexdigest()

    def floats(self, tensor: object, name: str) -> Floats:
        """A tensor's values. Raises CheckpointError if they are not floating-point numbers."""
        if not isinstance(tensor, Tensor) or tensor.number not in _FLOATS:
            kind = f"numbers of type {tensor.number}" if isinstance(tensor, Tensor) else shown(tensor)
            raise CheckpointError(f"{name} holds {kind}, not floating-point numbers")
        if not math.prod(tensor.shape):
            raise CheckpointError(f"{name} has shape {tensor.shape}: it holds nothing")
        self._left -= math.prod(tensor.shape)
        if self._left < 0:
            raise CheckpointError("its tensors have more values than the file has bytes")
        try:
            values = tensor.read(self.source, tensor.piece.name not in self._checked)
        except TorchFileError as error:
            raise CheckpointError(str(error)) from error
        self._checked.add(tensor.piece.name)
        self.numbers.add(tensor.number)
        with np.errstate(over="ignore"):
            floats = np.array(values, np.float32)
        if not np.isfinite(floats).all():
            raise CheckpointError(f"{name} holds values that are not finite: such a network gives no redshifts")
        return floats


def _safetensors_header(source: Buffer) -> bytes | None:
    """The JSON header of a safetensors file (https://github.com/huggingface/safetensors#format), or None."""
    start = bytes(source.read(0, min(9, source.size)))
    if len(start) < 9 or start[8:] != b"{":
        return None
    length = _LENGTH.unpack(start[:8])[0]
    if length > _HEADER_LIMIT or 8 + length > source.size:
        raise CheckpointError("is cut short or damaged inside the header of a safetensors file")
    return bytes(source.read(8, 8 + length))


def _safetensors(source: Buffer, header: bytes) -> Pairs:
    try:
        entries = json.loads(header)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"its safetensors header is damaged ({error})") from error
    tensors = Pairs()
    for name, entry in entries.items():
        if name != "__metadata__":
            tensors.add(name, _safetensor(name, entry, 8 + len(header), source.size))
    return tensors


def _safetensor(name: str, entry: object, data: int, size: int) -> Tensor | Record:
    match entry:
        case {"dtype": str(kind), "shape": list(shape), "data_offsets": [int(start), int(stop)]}:
            pass
        case _:
            raise CheckpointError(f"{shown(name)} is not described as safetensors describe a tensor")
    if (
        not all(type(n) is int and n >= 0 for n in shape)
        or len(shape) > 8
        or not 0 <= start <= stop <= size - data
    ):
        raise CheckpointError(f"{shown(name)} reaches beyond the file")
    if kind not in _SAFETENSORS:
        return Record(f"safetensors.{kind}")
    strides = tuple(accumulate(shape[:0:-1], int.__mul__, initial=1))[::-1] if shape else ()
    tensor = Tensor(Piece(name, data + start, stop - start), _SAFETENSORS[kind], 0, tuple(shape), strides)
    if math.prod(shape) * tensor.dtype.itemsize != stop - start:
        raise CheckpointError(
            f"{shown(name)} has {stop - start} bytes, which are not those of its shape {shape}"
        )
    return tensor
