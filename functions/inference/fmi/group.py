"""The collectives over numpy arrays, by FMI's algorithms (Copik et al. 2023, 'FMI: Fast and Cheap Message
Passing for Serverless Functions', ICS; partner orders as in the public implementation, so that both can meet).

There are N ranks; v is a rank's place counted from the root. Every operation takes `seconds`, the time after
which it raises PeerTimeout, however far it has come.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .channel import Channel, Deadline, Received
from .errors import FmiError, MessageMismatch
from .messages import OPERATIONS, Purpose

Array = NDArray[Any]
_CODES = {name: code for code, name in enumerate(OPERATIONS)} | {"recv": OPERATIONS.index("send")}
_SMALL = 1 << 14  # bytes of an array that takes less time to copy than to pass as memory
_ONE = np.ones(1, np.uint8)  # what ranks send in a barrier
Combine = Callable[[Array, Array], Array]


class Group:
    """All ranks that reduce together. Not thread-safe.

    The names of operations and arguments are mpi4py's (https://mpi4py.readthedocs.io). Arrays are numpy's.
    op: combines two arrays of the same shape and type into another. ordered: must be true unless `op` is
    commutative and associative; arrays are then combined in the order of the ranks, from the left.
    """

    def __init__(self, channel: Channel, seconds: float = 30.0) -> None:
        if channel.size < 1 or not 0 <= channel.rank < channel.size:
            raise ValueError(f"rank {channel.rank} is not in a group of {channel.size}")
        self._channel, self._seconds = channel, seconds
        self._current: Deadline | None = None  # of the current operation
        self._part = "a message", 0  # name and root of that operation
        self._purposes: dict[tuple[str, int, np.dtype[Any]], Purpose] = {}
        self._failed = False
        self.rank, self.size = channel.rank, channel.size

    def close(self) -> None:
        """Ends the connections. After an operation has failed, it raises nothing.

        Raises MessageMismatch if a peer has refused a message of this rank, or has sent one that this rank has
        not read: the two were in different operations, and their results cannot be trusted.
        """
        unread = [] if self._failed else self._channel.unread()
        self._channel.close()
        if unread:
            raise MessageMismatch("; ".join(unread))

    def send(self, obj: Array, dest: int, seconds: float | None = None) -> None:
        """Sends an array to rank `dest`, which calls recv."""
        with self._operation("send", seconds) as deadline:
            self._send(self._other(dest, "dest"), obj, deadline)

    def recv(self, like: Array, source: int, seconds: float | None = None) -> Array:
        """The array that rank `source` sends. It has the shape and type of `like`, which is not changed."""
        with self._operation("recv", seconds) as deadline:
            return self._recv(self._other(source, "source"), like, deadline)

    def bcast(self, obj: Array, root: int = 0, seconds: float | None = None) -> Array:
        """The root's array at every rank; the others give any array of its shape and type."""
        with self._operation("bcast", seconds, root) as deadline:
            v, array = self._place(root), np.asarray(obj)
            for distance in reversed(self._distances()):
                if v % (2 * distance) == 0 and v + distance < self.size:
                    self._send(self._at(v + distance, root), array, deadline)
                elif v % distance == 0 and v % (2 * distance):
                    array = self._recv(self._at(v - distance, root), array, deadline)
            return array

    def gather(self, sendobj: Array, root: int = 0, seconds: float | None = None) -> Array | None:
        """All ranks' arrays, (N, *shape), at the root; None elsewhere."""
        with self._operation("gather", seconds, root) as deadline:
            v, blocks = self._place(root), np.asarray(sendobj)[None]
            for distance in self._distances():
                if v % (2 * distance) == 0 and v + distance < self.size:
                    count = min(distance, self.size - (v + distance))
                    like = np.empty((count, *blocks.shape[1:]), blocks.dtype)
                    theirs = self._recv(self._at(v + distance, root), like, deadline)
                    blocks = np.concatenate([blocks, theirs])
                elif v % distance == 0 and v % (2 * distance):
                    self._send(self._at(v - distance, root), blocks, deadline)
            return np.roll(blocks, root, axis=0) if v == 0 else None

    def scatter(self, sendobj: Array, root: int = 0, seconds: float | None = None) -> Array:
        """This rank's row of the root's (N, *shape); the others give any array of that shape and type."""
        with self._operation("scatter", seconds, root) as deadline:
            arrays = np.asarray(sendobj)
            if arrays.shape[:1] != (self.size,):
                raise ValueError(
                    f"scatter: the first axis has {arrays.shape[0] if arrays.ndim else 0} rows, "
                    f"expected {self.size}, one for each rank"
                )
            v = self._place(root)
            blocks = np.roll(arrays, -root, axis=0) if v == 0 else arrays[:1]  # from place v up
            for distance in reversed(self._distances()):
                if v % (2 * distance) == 0 and v + distance < self.size:
                    count = min(distance, self.size - (v + distance))
                    self._send(self._at(v + distance, root), blocks[distance : distance + count], deadline)
                elif v % distance == 0 and v % (2 * distance):
                    like = np.empty((min(distance, self.size - v), *arrays.shape[1:]), arrays.dtype)
                    blocks = self._recv(self._at(v - distance, root), like, deadline)
            return blocks[0].copy()

    def reduce(
        self,
        sendobj: Array,
        op: Combine,
        root: int = 0,
        ordered: bool = False,
        seconds: float | None = None,
    ) -> Array | None:
        """All ranks' arrays combined, at the root; None elsewhere."""
        with self._operation("reduce", seconds, root) as deadline:
            mine = np.asarray(sendobj)
            if ordered:
                rows = self.gather(mine, root)
                return None if rows is None else _folded(rows, op)
            v = self._place(root)
            for distance in self._distances():
                if v % (2 * distance) == 0 and v + distance < self.size:
                    mine = _same(op(mine, self._recv(self._at(v + distance, root), mine, deadline)), mine)
                elif v % distance == 0 and v % (2 * distance):
                    self._send(self._at(v - distance, root), mine, deadline)
            return mine if v == 0 else None

    def allreduce(
        self, sendobj: Array, op: Combine, ordered: bool = False, seconds: float | None = None
    ) -> Array:
        """All ranks' arrays combined, at every rank: recursive doubling among the largest power of two."""
        with self._operation("allreduce", seconds) as deadline:
            mine = np.asarray(sendobj)
            if ordered:
                reduced = self.reduce(mine, op, 0, True)
                return self.bcast(mine if reduced is None else reduced, 0)
            return self._doubled(mine, op, deadline)

    def _doubled(self, mine: Array, op: Combine, deadline: Deadline) -> Array:
        """All ranks' arrays combined, in the smallest number of steps."""
        rank, power = self.rank, 1 << (self.size.bit_length() - 1)
        if rank >= power:
            self._send(rank - power, mine, deadline)
            return self._recv(rank - power, mine, deadline)
        if rank + power < self.size:
            mine = _same(op(mine, self._recv(rank + power, mine, deadline)), mine)
        distance = 1
        while distance < power:
            mine = _same(op(mine, self._exchange(rank ^ distance, mine, deadline)), mine)
            distance *= 2
        if rank + power < self.size:
            self._send(rank + power, mine, deadline)
        return mine

    def barrier(self, seconds: float | None = None) -> None:
        """Returns when every rank has called it."""
        with self._operation("barrier", seconds) as deadline:
            self._doubled(_ONE, lambda mine, theirs: mine, deadline)

    def scan(self, sendobj: Array, op: Combine, ordered: bool = False, seconds: float | None = None) -> Array:
        """The arrays of ranks 0 to this one combined (inclusive)."""
        with self._operation("scan", seconds) as deadline:
            mine, rank = np.asarray(sendobj), self.rank
            if ordered:
                if rank:
                    mine = _same(op(self._recv(rank - 1, mine, deadline), mine), mine)
                if rank + 1 < self.size:
                    self._send(rank + 1, mine, deadline)
                return mine
            steps = self.size.bit_length() - 1
            for i in range(steps):
                if (rank + 1) % (2 << i) == 0:
                    mine = _same(op(mine, self._recv(rank - (1 << i), mine, deadline)), mine)
                elif (rank + 1) % (1 << i) == 0 and rank + (1 << i) < self.size:
                    self._send(rank + (1 << i), mine, deadline)
                    break
            for i in range(steps, 0, -1):
                if (rank + 1) % (1 << i) == 0:
                    if rank + (1 << (i - 1)) < self.size:
                        self._send(rank + (1 << (i - 1)), mine, deadline)
                elif (rank + 1) % (1 << (i - 1)) == 0 and rank - (1 << (i - 1)) > 0:
                    mine = _same(op(mine, self._recv(rank - (1 << (i - 1)), mine, deadline)), mine)
            return mine

    def _operation(self, name: str, seconds: float | None, root: int = 0) -> _Operation:
        """The context of an operation, whose messages and errors name it."""
        if not 0 <= root < self.size:
            raise ValueError(f"root: {root} is not in a group of {self.size}; give 0 to {self.size - 1}")
        return _Operation(self, name, self._seconds if seconds is None else seconds, root)

    def _exchange(self, peer: int, mine: Array, deadline: Deadline) -> Array:
        """Sends this rank's array to the peer and returns the peer's."""
        received = self._channel.exchange(peer, _bytes_of(mine), self._purpose(mine), deadline)
        return _array_of(received, mine)

    def _send(self, peer: int, array: Array, deadline: Deadline) -> None:
        self._channel.send(peer, _bytes_of(array), self._purpose(array), deadline)

    def _recv(self, peer: int, like: Array, deadline: Deadline) -> Array:
        received = self._channel.recv(peer, like.nbytes, self._purpose(like), deadline)
        return _array_of(received, like)

    def _purpose(self, array: Array) -> Purpose:
        """The purpose of messages of the current operation with values of this type."""
        key = (*self._part, array.dtype)
        purpose = self._purposes.get(key)
        if purpose is None:
            name, root = self._part
            purpose = Purpose(_CODES[name], self.size, root, array.dtype.str.encode()[:7])
            self._purposes[key] = purpose
        return purpose

    def _other(self, peer: int, name: str) -> int:
        if not 0 <= peer < self.size or peer == self.rank:
            raise ValueError(
                f"{name}: rank {self.rank} of {self.size} has no peer {peer}; give another rank's number"
            )
        return peer

    def _place(self, root: int) -> int:
        return (self.rank - root) % self.size

    def _at(self, place: int, root: int) -> int:
        return (place + root) % self.size

    def _distances(self) -> list[int]:
        return [1 << i for i in range((self.size - 1).bit_length())]


class _Operation:
    """A running operation; one that is part of another has the other's name and deadline."""

    __slots__ = ("_group", "_outer", "_part", "_seconds")

    def __init__(self, group: Group, name: str, seconds: float, root: int) -> None:
        self._group, self._part, self._seconds = group, (name, root), seconds

    def __enter__(self) -> Deadline:
        group = self._group
        self._outer = group._current
        if self._outer is not None:
            return self._outer
        group._current = deadline = Deadline(self._seconds)
        group._part = self._part
        return deadline

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self._outer is not None:
            return
        self._group._current = None
        if isinstance(error, FmiError):
            self._group._failed = True
            error.args = (f"in {self._part[0]}: {error}",)


def _bytes_of(array: Array) -> bytes | memoryview:
    if array.nbytes <= _SMALL:
        return array.tobytes()
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _array_of(received: Received, like: Array) -> Array:
    array = np.frombuffer(received, like.dtype)
    return array if like.ndim == 1 else array.reshape(like.shape)


def _folded(rows: Array, op: Combine) -> Array:
    result = rows[0].copy()
    for row in rows[1:]:
        result = _same(op(result, row), result)
    return result


def _same(result: Any, like: Array) -> Array:
    """A combine function's result in the type and shape that peers expect."""
    if type(result) is np.ndarray and result.dtype is like.dtype and result.shape == like.shape:
        return result
    array = np.asarray(result)
    if array.shape != like.shape:
        raise ValueError(f"the function gave shape {array.shape} for arrays of shape {like.shape}")
    return array.astype(like.dtype, copy=False)
