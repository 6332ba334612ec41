"""How bytes get from one rank to another: one small interface."""

from __future__ import annotations

import queue
import threading
import time
from dataclasses import dataclass, field
from typing import Protocol

from .errors import PeerLost, PeerTimeout
from .messages import Expected, Purpose


class Deadline:
    """A point in time that all waits of one operation share."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds until then; 0 when it has passed."""
        return max(0.0, self._end - time.monotonic())


@dataclass
class Statistics:
    """Seconds and bytes of this rank's communication, and with whom; threads may add to it at once."""

    setup_seconds: float = 0.0
    waiting_seconds: float = 0.0
    sending_seconds: float = 0.0
    sent_bytes: int = 0
    received_bytes: int = 0
    partners: set[int] = field(default_factory=set)
    relayed: set[int] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def connected(self, seconds: float) -> None:
        with self._lock:
            self.setup_seconds += seconds

    def sent(self, peer: int, length: int, seconds: float) -> None:
        with self._lock:
            self.partners.add(peer)
            self.sent_bytes += length
            self.sending_seconds += seconds

    def received(self, peer: int, length: int, seconds: float) -> None:
        with self._lock:
            self.partners.add(peer)
            self.received_bytes += length
            self.waiting_seconds += seconds


class Channel(Protocol):
    """Messages between this rank and each other one, in order, whole or not at all.

    Several threads may use it at once, each with peers of its own. durable: what was sent is kept until it is
    fetched, whatever becomes of its sender. both_may_send: whether the two ranks of a pair may send to each
    other at once; on FMI's own wire they would not find each other.
    """

    rank: int
    size: int
    statistics: Statistics
    durable: bool
    both_may_send: bool

    def connect(self, peer: int, sender: int, deadline: Deadline) -> None:
        """Does what can be done before the pair's first message, which `sender` of the two sends."""

    def send(self, peer: int, data: bytes | memoryview, purpose: Purpose, deadline: Deadline) -> None:
        """Raises PeerTimeout, PeerLost, PeerRefused; MessageMismatch where the peer refused an earlier one."""

    def recv(self, peer: int, length: int | None, purpose: Purpose, deadline: Deadline) -> bytearray:
        """The next message of `peer`, of `length` bytes or, with None, of any.

        Raises MessageMismatch too, where it has another purpose or length; FMI's own wire does not tell the
        purpose.
        """

    def unread(self) -> list[str]:
        """Messages that have come and that this rank has not taken, in words, as far as they are known."""

    def close(self) -> None:
        """Releases everything; peers that wait for this rank are told so."""


_Message = tuple[Purpose, bytes] | None  # None: its sender has closed


@dataclass
class Memory:
    """All ranks of one group in one process, for tests: Memory(size).channel(rank)."""

    size: int
    _queues: dict[tuple[int, int], queue.Queue[_Message]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        pairs = ((a, b) for a in range(self.size) for b in range(self.size))
        self._queues = {pair: queue.Queue() for pair in pairs}

    def channel(self, rank: int) -> MemoryChannel:
        return MemoryChannel(rank, self.size, self._queues)


@dataclass
class MemoryChannel:
    rank: int
    size: int
    _queues: dict[tuple[int, int], queue.Queue[_Message]]
    statistics: Statistics = field(default_factory=Statistics)
    durable: bool = True
    both_may_send: bool = True

    def connect(self, peer: int, sender: int, deadline: Deadline) -> None: ...

    def send(self, peer: int, data: bytes | memoryview, purpose: Purpose, deadline: Deadline) -> None:
        self._queues[self.rank, peer].put((purpose, bytes(data)))
        self.statistics.sent(peer, len(data), 0.0)

    def recv(self, peer: int, length: int | None, purpose: Purpose, deadline: Deadline) -> bytearray:
        waiting, start = self._queues[peer, self.rank], time.perf_counter()
        try:
            message = waiting.get(timeout=deadline.left())
        except queue.Empty:
            raise PeerTimeout(f"rank {self.rank}: nothing from rank {peer} in {deadline.seconds} s") from None
        if message is None:
            waiting.put(None)
            raise PeerLost(f"rank {self.rank}: rank {peer} has left")
        theirs, data = message
        Expected(purpose, self.rank, peer, length).check(theirs.head(len(data)))
        self.statistics.received(peer, len(data), time.perf_counter() - start)
        return bytearray(data)

    def unread(self) -> list[str]:
        return []

    def close(self) -> None:
        for peer in range(self.size):
            self._queues[self.rank, peer].put(None)
