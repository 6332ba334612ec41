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
from .model import BackEnd, shape
from .stores import S3, Redis

_FAAS_PRICE = 0.0000166667  # USD a GiB-second, x86 (https://aws.amazon.com/lambda/pricing)

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
    """One rank of `num_peers`. config_path: FMI's JSON, of which the enabled back ends are used:

        {"backends": {"Direct": {"enabled": "true", "host": "…", "port": "10000", "max_timeout": "30000"},
                      "S3": {"enabled": "true", "bucket_name": "…", "s3_region": "…"},
                      "Redis": {"enabled": "true", "host": "…", "port": "6379"}},
         "model": {"faas_price": "0.0000166667"}}

    max_timeout is in milliseconds; beyond FMI's form, "secret" of Direct holds the run's key in hexadecimal
    digits. faas_memory: MB of this function. Each operation takes the back end that `hint` makes best: all
    ranks give the same configuration, memory and hints, so that they choose the same.
    """

    def __init__(
        self, peer_id: int, num_peers: int, config_path: str, comm_name: str, faas_memory: int = 128
    ) -> None:
        self._rank, self._size, self._name = peer_id, num_peers, comm_name
        self._back_ends = _back_ends(Path(config_path))
        price = json.loads(Path(config_path).read_text()).get("model", {}).get("faas_price", _FAAS_PRICE)
        self._memory, self._faas_price = faas_memory, float(price)
        self._hint = hints.fast
        self._groups: dict[str, Group] = {}
        self._only: Group | None = None
        if not 0 <= peer_id < num_peers:
            raise ValueError(f"rank {peer_id} is not in a group of {num_peers}")

    @classmethod
    def over(cls, channel: Channel, seconds: float = 30.0) -> Communicator:
        """This interface over any one channel."""
        made = cls.__new__(cls)
        made._only, made._groups, made._size = Group(channel, seconds), {}, channel.size
        return made

    def close(self) -> None:
        for group in [*self._groups.values(), *([self._only] if self._only else [])]:
            group.close()

    def hint(self, hint: hints) -> None:
        """What matters in the operations that follow: their latency or their price."""
        self._hint = hint

    def chosen(self, operation: str, size: int, ordered: bool = False) -> str:
        """The back end that an operation of `size` bytes a rank takes: Direct, Redis or S3."""
        found = shape(operation, size, self._size, ordered)

        def worth(item: tuple[BackEnd, dict[str, Any]]) -> tuple[float, str]:
            back_end = item[0]
            fast = self._hint is hints.fast
            price = back_end.price(found, self._size, self._memory, self._faas_price)
            return (back_end.seconds(found) if fast else price), back_end.name

        return min(self._back_ends, key=worth)[0].name

    def _group(self, operation: str, kind: types, ordered: bool = False) -> Group:
        if self._only is not None:
            return self._only
        name = self.chosen(operation, kind.count * kind.dtype.itemsize, ordered)
        if name not in self._groups:
            settings = next(settings for back_end, settings in self._back_ends if back_end.name == name)
            channel = _OPENERS[name](self._rank, self._size, self._name, settings)
            self._groups[name] = Group(channel, float(settings.get("max_timeout", 30_000)) / 1000)
        return self._groups[name]

    def send(self, value: Value, to: int, kind: types) -> None:
        self._group("send", kind).send(kind.array(value), to)

    def recv(self, source: int, kind: types) -> Any:
        return kind.value(self._group("recv", kind).receive(np.empty(kind.count, kind.dtype), source))

    def bcast(self, value: Value | None, root: int, kind: types) -> Any:
        mine, group = np.empty(kind.count, kind.dtype), self._group("bcast", kind)
        if group.rank == root and value is not None:
            mine = kind.array(value)
        return kind.value(group.bcast(mine, root))

    def barrier(self) -> None:
        self._group("barrier", types(datatypes.int)).barrier()

    def gather(self, value: Value, root: int, kind: types) -> Any:
        """At the root, all ranks' values in one list; None elsewhere."""
        rows = self._group("gather", kind).gather(kind.array(value), root)
        return None if rows is None else kind.value(rows, self._size)

    def scatter(self, values: Value | None, root: int, kind: types) -> Any:
        """values: at the root, all ranks' values in one list."""
        size, group = self._size, self._group("scatter", kind)
        rows = np.empty((size, kind.count), kind.dtype)
        if group.rank == root and values is not None:
            rows = kind.array(values, size).reshape(size, kind.count)
        return kind.value(group.scatter(rows, root))

    def reduce(self, value: Value, function: func, root: int, kind: types) -> Any:
        """At the root; None elsewhere."""
        group = self._group("reduce", kind, function.ordered)
        done = group.reduce(kind.array(value), function.combine(kind), root, function.ordered)
        return None if done is None else kind.value(done)

    def allreduce(self, value: Value, function: func, kind: types) -> Any:
        group = self._group("allreduce", kind, function.ordered)
        return kind.value(group.allreduce(kind.array(value), function.combine(kind), function.ordered))

    def scan(self, value: Value, function: func, kind: types) -> Any:
        group = self._group("scan", kind, function.ordered)
        return kind.value(group.scan(kind.array(value), function.combine(kind), function.ordered))


def _back_ends(path: Path) -> list[tuple[BackEnd, dict[str, Any]]]:
    """The enabled ones. Raises ValueError for an unknown name, a missing field, or where there is none."""
    found = []
    for name, settings in json.loads(path.read_text()).get("backends", {}).items():
        if str(settings.get("enabled", "false")).lower() != "true":
            continue
        if name not in _OPENERS:
            raise ValueError(f"{path}: backends.{name} is unknown; there are {', '.join(_OPENERS)}")
        needed = "bucket_name" if name == "S3" else "host"
        if not settings.get(needed):
            raise ValueError(f"{path}: backends.{name}.{needed} is missing")
        found.append((BackEnd.parse(name, settings), dict(settings)))
    if not found:
        raise ValueError(f"{path}: no back end is enabled; give backends.Direct with enabled and host")
    return found


def _direct(rank: int, size: int, name: str, settings: dict[str, Any]) -> Channel:
    secret = bytes.fromhex(settings["secret"]) if settings.get("secret") else None
    return Direct(rank, size, name, settings["host"], int(settings.get("port", PORT)), secret)


def _s3(rank: int, size: int, name: str, settings: dict[str, Any]) -> Channel:
    import boto3

    client = boto3.client("s3", region_name=settings.get("s3_region"))
    return S3(rank, size, name, client, settings["bucket_name"])


def _redis(rank: int, size: int, name: str, settings: dict[str, Any]) -> Channel:
    import redis

    client = redis.Redis(settings["host"], int(settings.get("port", 6379)))
    return Redis(rank, size, name, client)


_OPENERS: dict[str, Callable[[int, int, str, dict[str, Any]], Channel]] = {
    "Direct": _direct,
    "Redis": _redis,
    "S3": _s3,
}
