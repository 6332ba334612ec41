"""The interface of FMI's Python binding: numbers and lists, described by `types`."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .channel import Channel
from .direct import PORT, Direct
from .group import Combine, Group

Value = int | float | list[int] | list[float]


class datatypes(Enum):
    """int is C's, 32 bits; double is IEEE's, 64 bits."""

    int = "<i4"
    double = "<f8"
    int_list = "<i4 list"
    double_list = "<f8 list"


class op(Enum):
    sum = 0
    prod = 1
    max = 2
    min = 3
    custom = 4


class hints(Enum):
    fast = 0
    cheap = 1


@dataclass(frozen=True)
class types:
    """A datatype and, for lists, the number of elements."""

    datatype: datatypes
    count: int = 1

    @property
    def is_list(self) -> bool:
        return self.datatype in (datatypes.int_list, datatypes.double_list)

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.datatype.value.split()[0])

    def array(self, value: Value, rows: int | None = None) -> NDArray[Any]:
        """The value as an array; raises ValueError for another length, OverflowError beyond 32 bits."""
        count = self.count * (rows or 1)
        values = value if isinstance(value, Sequence) else [value]
        if len(values) != count:
            raise ValueError(f"got {len(values)} values, but the type says {count}")
        return np.array(values, self.dtype)

    def value(self, array: NDArray[Any], rows: int | None = None) -> Any:
        values = array.reshape(-1).tolist()
        return values if self.is_list or rows is not None else values[0]


_NUMPY: dict[op, Combine] = {op.sum: np.add, op.prod: np.multiply, op.max: np.maximum, op.min: np.minimum}


class func:
    """How two values become one. custom: f, of two numbers or two lists; ordered unless both flags are True."""

    def __init__(
        self,
        operation: op,
        f: Callable[[Any, Any], Any] | None = None,
        commutative: bool = False,
        associative: bool = False,
    ) -> None:
        if (operation is op.custom) != (f is not None):
            raise ValueError("func: give f with op.custom, and with it alone")
        self._operation, self._f = operation, f
        self.ordered = operation is op.custom and not (commutative and associative)

    def combine(self, kind: types) -> Combine:
        """The function over the arrays of a type."""
        if self._f is None:
            return _NUMPY[self._operation]
        f = self._f

        def custom(a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
            return kind.array(f(kind.value(a), kind.value(b))).reshape(a.shape)

        return custom


class Communicator:
    """One rank of `num_peers`. config_path: FMI's JSON, of which the Direct back end is used:

        {"backends": {"Direct": {"enabled": "true", "host": "…", "port": 10000, "max_timeout": 30000}}}

    max_timeout is in milliseconds. faas_memory: MB of this function, for the choice of back ends.
    """

    def __init__(
        self, peer_id: int, num_peers: int, config_path: str, comm_name: str, faas_memory: int = 128
    ) -> None:
        settings = _direct(Path(config_path))
        channel = Direct(peer_id, num_peers, comm_name, settings["host"], int(settings.get("port", PORT)))
        self._group = Group(channel, float(settings.get("max_timeout", 30_000)) / 1000)

    @classmethod
    def over(cls, channel: Channel, seconds: float = 30.0) -> Communicator:
        """This interface over any channel."""
        made = cls.__new__(cls)
        made._group = Group(channel, seconds)
        return made

    def close(self) -> None:
        self._group.close()

    def hint(self, hint: hints) -> None:
        """Speed or price; there is one back end to choose from, so both mean it."""

    def send(self, value: Value, to: int, kind: types) -> None:
        self._group.send(kind.array(value), to)

    def recv(self, source: int, kind: types) -> Any:
        return kind.value(self._group.receive(np.empty(kind.count, kind.dtype), source))

    def bcast(self, value: Value | None, root: int, kind: types) -> Any:
        mine = np.empty(kind.count, kind.dtype)
        if self._group.rank == root and value is not None:
            mine = kind.array(value)
        return kind.value(self._group.bcast(mine, root))

    def barrier(self) -> None:
        self._group.barrier()

    def gather(self, value: Value, root: int, kind: types) -> Any:
        """At the root, all ranks' values in one list; None elsewhere."""
        rows = self._group.gather(kind.array(value), root)
        return None if rows is None else kind.value(rows, self._group.size)

    def scatter(self, values: Value | None, root: int, kind: types) -> Any:
        """values: at the root, all ranks' values in one list."""
        size = self._group.size
        rows = np.empty((size, kind.count), kind.dtype)
        if self._group.rank == root and values is not None:
            rows = kind.array(values, size).reshape(size, kind.count)
        return kind.value(self._group.scatter(rows, root))

    def reduce(self, value: Value, function: func, root: int, kind: types) -> Any:
        """At the root; None elsewhere."""
        done = self._group.reduce(kind.array(value), function.combine(kind), root, function.ordered)
        return None if done is None else kind.value(done)

    def allreduce(self, value: Value, function: func, kind: types) -> Any:
        return kind.value(self._group.allreduce(kind.array(value), function.combine(kind), function.ordered))

    def scan(self, value: Value, function: func, kind: types) -> Any:
        return kind.value(self._group.scan(kind.array(value), function.combine(kind), function.ordered))


def _direct(path: Path) -> dict[str, Any]:
    settings = json.loads(path.read_text()).get("backends", {}).get("Direct", {})
    if str(settings.get("enabled", "false")).lower() != "true" or not settings.get("host"):
        raise ValueError(f"{path}: backends.Direct must be enabled and name its host; others are not built")
    return dict(settings)
