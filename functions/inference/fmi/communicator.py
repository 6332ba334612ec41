"""The interface of FMI's Python binding (https://github.com/spcl/fmi): numbers and lists with their `types`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np

from .channel import Channel
from .config import Configuration
from .cost_model import Model, Operation
from .group import Group
from .values import Value, hints, types
from .values import func as Function

Choose = Callable[[Operation, hints], str]


class Communicator:
    """Rank `peer_id` of `num_peers`. Not thread-safe.

    config_path: FMI's JSON configuration, see the module config. comm_name: the name of this group of ranks;
    groups that exist at the same time need different names. faas_memory: MB of this function.

    Each operation uses the back end that is best by the configuration's model and the hint, at first
    hints.cheap. Therefore all ranks must give the same configuration, memory, hints, types and functions.
    Operations raise TypeError, ValueError or OverflowError for an invalid argument, before anything is sent,
    and FmiError if other ranks do not take part in time.
    """

    def __init__(
        self, peer_id: int, num_peers: int, config_path: str, comm_name: str, faas_memory: int = 128
    ) -> None:
        for name, value in (("peer_id", peer_id), ("num_peers", num_peers), ("faas_memory", faas_memory)):
            _whole(value, name)
        if not 0 <= peer_id < num_peers:
            raise ValueError(
                f"peer_id: rank {peer_id} is not in a group of {num_peers}; give 0 to num_peers - 1"
            )
        configuration = Configuration.read(Path(config_path))
        model = Model(configuration.back_ends, configuration.figures, faas_memory)

        def opened(name: str) -> Group:
            channel = configuration.open(name, peer_id, num_peers, comm_name)
            return Group(channel, configuration.seconds(name))

        self._begin(peer_id, num_peers, model.choose, opened)

    @classmethod
    def over(cls, channel: Channel, seconds: float = 30.0) -> Communicator:
        """This interface over one open channel; operations may take `seconds`."""
        communicator, name = cls.__new__(cls), type(channel).__name__
        communicator._begin(channel.rank, channel.size, lambda *_: name, lambda _: Group(channel, seconds))
        return communicator

    def _begin(self, rank: int, size: int, choose: Choose, opened: Callable[[str], Group]) -> None:
        """Sets every attribute, wherever the channels come from."""
        self._rank, self._size = int(rank), int(size)
        self._choose, self._opened = choose, opened
        self._hint = hints.cheap
        self._groups: dict[str, Group] = {}

    def close(self) -> None:
        """Ends the connections; other ranks that still wait for this one get an error.

        Raises MessageMismatch if this rank and another turn out to have been in different operations.
        """
        with ExitStack() as closing:  # all of them, even if one raises
            for group in self._groups.values():
                closing.callback(group.close)

    def hint(self, hint: hints) -> None:
        """What matters in the operations that follow: their latency or their price."""
        if not isinstance(hint, hints):
            raise TypeError(f"hint: {hint!r} is not a hint; give fmi.hints.fast or fmi.hints.cheap")
        self._hint = hint

    def chosen(self, operation: str, size: int, ordered: bool = False) -> str:
        """The back end that an operation uses: Direct, Redis or S3.

        size: bytes of one rank's value; ordered: whether its function is not commutative and associative.
        """
        name = "send" if operation == "recv" else operation
        if name not in _OPERATIONS:
            raise ValueError(f"operation: {operation!r} is unknown; give recv, {', '.join(_OPERATIONS)}")
        size = 1 if name == "barrier" else size
        return self._choose(Operation(name, size, self._size, ordered and name != "scan"), self._hint)

    def send(self, value: Value, dst: int, type: types) -> None:
        """Sends the value to rank `dst`, which calls recv with the same type."""
        dst, array = self._other(dst, "dst"), _kind(type).array(value)
        self._group("send", type.nbytes).send(array, dst)

    def recv(self, src: int, type: types) -> Any:
        """The value that rank `src` sends."""
        src, kind = self._other(src, "src"), _kind(type)
        return kind.value(self._group("recv", kind.nbytes).recv(np.empty(kind.length, kind.dtype), src))

    def bcast(self, value: Value | None, root: int, type: types) -> Any:
        """The root's value at every rank; the values of the other ranks are ignored."""
        root, kind = self._member(root, "root"), _kind(type)
        mine = self._at_root("bcast", value, root, kind)
        return kind.value(self._group("bcast", kind.nbytes).bcast(mine, root))

    def barrier(self) -> None:
        """Returns when every rank has called it."""
        self._group("barrier", 1).barrier()

    def gather(self, value: Value, root: int, type: types) -> list[Any]:
        """At the root, one flat list of all ranks' values in the order of ranks; elsewhere an empty list.

        type: of one rank's value; a list's count is the number of values that each rank gives.
        """
        root, array = self._member(root, "root"), _kind(type).array(value)
        rows = self._group("gather", type.nbytes).gather(array, root)
        values: list[Any] = [] if rows is None else rows.reshape(-1).tolist()
        return values

    def scatter(self, values: Value | None, root: int, type: types) -> list[Any]:
        """This rank's share of the root's list: count / num_peers values, as a list.

        type: of the whole list, so the number of ranks must divide its count. The values of ranks other than
        the root are ignored.
        """
        root, kind = self._member(root, "root"), _kind(type)
        if not kind.is_list:
            raise ValueError(f"scatter: a single {kind} cannot be scattered; give a list and its type")
        if kind.length % self._size:
            raise ValueError(
                f"scatter: a list of {kind.length} values cannot be shared evenly among {self._size} ranks; "
                f"the type's count is that of the whole list, so give a multiple of {self._size}"
            )
        rows = self._at_root("scatter", values, root, kind).reshape(self._size, kind.length // self._size)
        share = self._group("scatter", kind.nbytes // self._size).scatter(rows, root)
        mine: list[Any] = share.tolist()
        return mine

    def reduce(self, value: Value, root: int, func: Function, type: types) -> Any:
        """At the root, all ranks' values combined by func, lists element by element; None elsewhere."""
        if isinstance(root, Function):
            raise TypeError("reduce: root is a function; the order is reduce(value, root, func, type)")
        root, array = self._member(root, "root"), _kind(type).array(value)
        group = self._group("reduce", type.nbytes, _function(func).ordered)
        result = group.reduce(array, func.combine(type), root, func.ordered)
        return None if result is None else type.value(result)

    def allreduce(self, value: Value, func: Function, type: types) -> Any:
        """All ranks' values combined by func, at every rank."""
        array = _kind(type).array(value)
        group = self._group("allreduce", type.nbytes, _function(func).ordered)
        return type.value(group.allreduce(array, func.combine(type), func.ordered))

    def scan(self, value: Value, func: Function, type: types) -> Any:
        """The values of ranks 0 to this one, this one's included, combined by func."""
        array = _kind(type).array(value)
        group = self._group("scan", type.nbytes, _function(func).ordered)
        return type.value(group.scan(array, func.combine(type), func.ordered))

    def _group(self, operation: str, size: int, ordered: bool = False) -> Group:
        name = self.chosen(operation, size, ordered)
        if name not in self._groups:
            self._groups[name] = self._opened(name)
        return self._groups[name]

    def _at_root(self, operation: str, value: Value | None, root: int, kind: types) -> Any:
        """The root's value as an array; at other ranks, any array of that shape."""
        if self._rank != root:
            return np.zeros(kind.length, kind.dtype)
        if value is None:
            raise ValueError(
                f"{operation}: rank {root} is the root and its value is None; give one of the type {kind}"
            )
        return kind.array(value)

    def _member(self, rank: int, name: str) -> int:
        if not 0 <= _whole(rank, name) < self._size:
            raise ValueError(f"{name}: there is no rank {rank} of {self._size}; give 0 to {self._size - 1}")
        return int(rank)

    def _other(self, rank: int, name: str) -> int:
        if self._member(rank, name) == self._rank:
            raise ValueError(f"{name}: rank {rank} is this rank itself; give another one")
        return int(rank)


_OPERATIONS = ("send", "bcast", "barrier", "gather", "scatter", "reduce", "allreduce", "scan")


def _whole(value: Any, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name}: {value!r} is not a whole number; give an int")
    return int(value)


def _kind(type: Any) -> types:
    if not isinstance(type, types):
        raise TypeError(f"type: {type!r} is not a type; give one such as fmi.types(fmi.datatypes.double)")
    return type


def _function(func: Any) -> Function:
    if not isinstance(func, Function):
        raise TypeError(f"func: {func!r} is not a function; give one such as fmi.func(fmi.op.sum)")
    return func
