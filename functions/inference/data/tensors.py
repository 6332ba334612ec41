"""Tensors of torch's files: their descriptions in pickles, and their values.

A pickle refers to storages, and calls a few functions of torch to make tensors from them. This module does what
those functions do, and checks shape, offset and strides against the storage.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .pickled import Global, Maker, Pairs, Record, Rules, TorchFileError, printable

Array = NDArray[Any]

_DIMENSIONS = 8  # of a tensor, at most
_NUMBERS: dict[str, np.dtype[Any]] = {
    "float32": np.dtype("<f4"),
    "float64": np.dtype("<f8"),
    "float16": np.dtype("<f2"),
    "bfloat16": np.dtype("<u2"),  # numpy has no such number: the upper half of a float32
    "int64": np.dtype("<i8"),
    "int32": np.dtype("<i4"),
    "int16": np.dtype("<i2"),
    "int8": np.dtype("i1"),
    "uint8": np.dtype("u1"),
    "bool": np.dtype("?"),
}
_STORAGES = {
    "torch.FloatStorage": "float32",
    "torch.DoubleStorage": "float64",
    "torch.HalfStorage": "float16",
    "torch.BFloat16Storage": "bfloat16",
    "torch.LongStorage": "int64",
    "torch.IntStorage": "int32",
    "torch.ShortStorage": "int16",
    "torch.CharStorage": "int8",
    "torch.ByteStorage": "uint8",
    "torch.BoolStorage": "bool",
}
_UNREAD_STORAGES = {  # bytes per number of storages whose tensors are not read
    "torch.ComplexFloatStorage": 8,
    "torch.ComplexDoubleStorage": 16,
    "torch.QInt8Storage": 1,
    "torch.QUInt8Storage": 1,
    "torch.QInt32Storage": 4,
    "torch.storage.UntypedStorage": 1,
}


class Source(Protocol):
    """A file's bytes, wherever they are. `read` may be called by several threads at once."""

    @property
    def size(self) -> int: ...

    def read(self, start: int, stop: int) -> bytes | memoryview:
        """The bytes from `start` to `stop`, which must be inside the file."""


@dataclass(repr=False, eq=False)
class Piece:
    """The bytes of one storage: `size` bytes from `start`; crc is 0 if torch wrote none.

    In a file written by torch before 1.6, `start` is known only after the pickle that describes the tensors has
    been read; until then it is 0.
    """

    name: str
    start: int
    size: int
    crc: int = 0

    def check(self, crc: int) -> None:
        """Raises TorchFileError if `crc`, that of all its bytes, is not the stored one.

        After `set_crc32_options(False)` torch stores 0.
        """
        if self.crc and crc != self.crc:
            raise TorchFileError(
                f"is damaged: the checksum of {self.name} is not the one that was written with it"
            )


@dataclass(frozen=True, repr=False, eq=False)
class Tensor:
    """A tensor as its pickle describes it; offset and strides count values of its piece.

    number: torch's name for the type of its values.
    negative: torch has stored the values with the opposite sign (lazy negation).
    """

    piece: Piece
    number: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    negative: bool = False

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the values as they are stored."""
        return _NUMBERS[self.number]

    @property
    def is_whole_piece(self) -> bool:
        """Whether its values are exactly those of the piece, in order, so that single rows can be read."""
        steps = [math.prod(self.shape[axis + 1 :]) for axis in range(len(self.shape))]
        in_order = all(n == 1 or a == b for n, a, b in zip(self.shape, self.strides, steps, strict=True))
        as_stored = not self.negative and self.number != "bfloat16"
        fills = math.prod(self.shape) * self.dtype.itemsize == self.piece.size
        return in_order and as_stored and self.offset == 0 and fills

    def read(self, source: Source, verify: bool = True) -> Array:
        """All its values, read-only; a view of the file if the source gives views. bfloat16 as float32.

        Raises TorchFileError if shape and strides reach beyond the piece, and for a wrong checksum.
        """
        content = source.read(self.piece.start, self.piece.start + self.piece.size)
        if verify:
            self.piece.check(zlib.crc32(content))
        stored = np.frombuffer(content, self.dtype, len(content) // self.dtype.itemsize)
        _check_reach(self.offset, self.shape, self.strides, len(stored))
        if not math.prod(self.shape):
            return np.empty(self.shape, np.float32 if self.number == "bfloat16" else self.dtype)
        # a single value is never stepped over, so its step may be anything
        strides = (step if n > 1 else 0 for n, step in zip(self.shape, self.strides, strict=True))
        steps = tuple(step * self.dtype.itemsize for step in strides)
        values = np.lib.stride_tricks.as_strided(stored[self.offset :], self.shape, steps, writeable=False)
        if self.number == "bfloat16":
            values = (values.astype(np.uint32) << 16).view(np.float32)
        if self.number == "bool":
            values = values.view(np.uint8) != 0  # numpy would count a stored 2 as 2
        return -values if self.negative else values


@dataclass(frozen=True, repr=False, eq=False)
class _Storage:
    """number: None if its tensors are not read. first: the position of its first value in the piece."""

    piece: Piece
    number: str | None
    count: int
    first: int = 0


Find = Callable[[str, int, int], Piece]
"""A storage's piece, from its key, the number of its values and their width in bytes. Raises TorchFileError."""


def with_tensors(rules: Rules, find: Find, size: int) -> Rules:
    """The rules for a pickle that refers to storages; size: of the file, in bytes."""
    makers: dict[str, Maker] = {
        "collections.OrderedDict": lambda arguments: (
            Record("collections.OrderedDict", arguments) if arguments else Pairs()
        ),
        "torch._utils._rebuild_tensor_v2": partial(_rebuilt, size),
        "torch._utils._rebuild_parameter": _parameter,
        "torch._utils._rebuild_parameter_with_state": _parameter,
        "torch._tensor._rebuild_from_type_v2": partial(_of_type, size),
        **dict.fromkeys((*_STORAGES, *_UNREAD_STORAGES), _no_call),
    }
    return replace(rules, makers=makers, persistent=_Storages(find))


def _no_call(arguments: object) -> object:
    raise TorchFileError("its pickle makes a storage in a way that torch does not")


@dataclass(repr=False, eq=False)
class _Storages:
    """Resolves a pickle's references to something outside it. Each storage is looked up only once."""

    find: Find
    _known: dict[str, _Storage] = field(default_factory=dict)
    _views: dict[str, tuple[str, int, int]] = field(default_factory=dict)

    def __call__(self, reference: object) -> object:
        match reference:
            case ("storage", Global(kind), str(key), _, int(count), *view) if type(count) is int and count >= 0:
                if kind not in _STORAGES and kind not in _UNREAD_STORAGES:
                    raise TorchFileError(f"refers to a storage of the unknown type {printable(kind)}")
                number = _STORAGES.get(kind)
                width = _UNREAD_STORAGES[kind] if number is None else _NUMBERS[number].itemsize
                storage = self._storage(key, number, count, width)
                return storage if view in ([], [None]) else self._view(key, storage, view)
            case ("module", Global() as kind, *_):
                return kind  # torch before 1.6 refers to classes of modules like this, with their source
        raise TorchFileError("refers to a storage in a way that torch does not")

    def _storage(self, key: str, number: str | None, count: int, width: int) -> _Storage:
        known = self._known.get(key)
        if known is None:
            piece = self.find(key, count, width)
            if piece.size != count * width:
                raise TorchFileError(
                    f"is damaged: {piece.name} has {piece.size} bytes, expected {count * width} for {count} "
                    "values"
                )
            known = self._known[key] = _Storage(piece, number, count)
        if (number, count) != (known.number, known.count) and count + known.count:
            raise TorchFileError(
                f"is damaged: one tensor uses {known.piece.name} as {known.count} values of type "
                f"{known.number or 'unknown'}, another as {count} of type {number or 'unknown'}"
            )
        return known if count else _Storage(known.piece, number, 0)

    def _view(self, whole: str, storage: _Storage, view: list[object]) -> _Storage:
        """A part of a storage, as torch before 0.4 wrote it: a key of its own, offset and size."""
        match view:
            case [(str(key), int(first), int(count))] if 0 <= first <= first + count <= storage.count:
                known = self._views.setdefault(key, (whole, first, count))
                if known == (whole, first, count) and key not in self._known:
                    return replace(storage, count=count, first=first)
        raise TorchFileError("refers to a storage in a way that torch does not")


def _rebuilt(file_size: int, arguments: tuple[Any, ...]) -> object:
    """The result of torch._utils._rebuild_tensor_v2(storage, offset, shape, strides, …, …, metadata)."""
    match arguments:
        case (_Storage() as storage, offset, tuple(shape), tuple(strides), _, _, *rest) if len(rest) <= 1:
            pass
        case _:
            raise TorchFileError("describes a tensor in a way that torch does not")
    if len(shape) != len(strides) or len(shape) > _DIMENSIONS:
        raise TorchFileError(f"describes a tensor of {len(shape)} dimensions by {len(strides)} strides")
    if not all(type(number) is int and number >= 0 for number in (offset, *shape, *strides)):
        raise TorchFileError("describes a tensor by something other than a storage and whole numbers")
    if storage.number is None:
        return Record("torch._utils._rebuild_tensor_v2", arguments)
    if math.prod(shape) > file_size:  # strides of zero can make a few bytes look like any number of them
        raise TorchFileError(f"describes a tensor of shape {shape}, more values than the file has bytes")
    _check_reach(offset, shape, strides, storage.count)
    negative = _negative(rest)
    if negative and storage.number == "bool":
        raise TorchFileError("describes a tensor of True and False as negated, which torch cannot do")
    return Tensor(storage.piece, storage.number, storage.first + offset, shape, strides, negative)


def _check_reach(offset: int, shape: tuple[int, ...], strides: tuple[int, ...], count: int) -> None:
    """Raises TorchFileError unless all of a tensor's values are among the `count` stored ones."""
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    if math.prod(shape) and not offset <= last < count:
        raise TorchFileError(f"a tensor of shape {shape} reaches beyond its {count} stored values")


def _negative(rest: list[Any]) -> bool:
    """Whether the flag "neg" is set, the only one that is supported; raises TorchFileError for others.

    torch writes a flag only if it is True, and regards any flag that is there as True, whatever its value.
    """
    flags = rest[0] if rest else None
    if flags is None:
        return False
    if not isinstance(flags, Pairs) or flags.others:
        raise TorchFileError("describes a tensor with metadata that is not known here")
    if "conj" in flags.named:
        raise TorchFileError("describes a tensor as conjugated: save it again after .resolve_conj()")
    if not set(flags.named) <= {"neg"} or any(value is not True for value in flags.named.values()):
        raise TorchFileError("describes a tensor with metadata that is not known here")
    return "neg" in flags.named


def _parameter(arguments: tuple[Any, ...]) -> object:
    """The tensor of a Parameter."""
    match arguments:
        case (Tensor() | Record() as tensor, _, _, *state) if len(state) <= 1:
            _check_attributes(*state)
            return tensor
    raise TorchFileError("describes a parameter in a way that torch does not")


PLAIN_TENSORS = frozenset({"torch.Tensor", "torch._tensor.Tensor", "torch.nn.parameter.Parameter"})


def _of_type(file_size: int, arguments: tuple[Any, ...]) -> object:
    """A tensor with attributes or of a subclass. arguments: function, class, its arguments, attributes."""
    match arguments:
        case (Global("torch._utils._rebuild_tensor_v2"), Global(kind), tuple(inner), state) if (
            kind in PLAIN_TENSORS
        ):
            _check_attributes(state)
            return _rebuilt(file_size, inner)
    return Record("torch._tensor._rebuild_from_type_v2", arguments)


def _check_attributes(state: object = None) -> None:
    """Ignores attributes that somebody set on a tensor; raises TorchFileError if one would change its values.

    torch sets each of them on the tensor that it has made (torch._utils._set_obj_state).
    """
    for part in state if isinstance(state, tuple) else (state,):
        if part is not None and not isinstance(part, Pairs):
            raise TorchFileError("describes a tensor's attributes in a way that torch does not")
        if isinstance(part, Pairs) and not _VALUES.isdisjoint(part.named):
            raise TorchFileError("sets a tensor's values by an attribute, which torch does not write")


_VALUES = frozenset({"data", "real", "imag", "__class__", "__dict__"})
