"""How bytes get from one rank to another: one small interface."""

from __future__ import annotations

import queue
import threading
import time
from dataclasses import dataclass, field
from typing import Protocol

from .errors import MessageMismatch, PeerLost, PeerTimeout


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
    fetched, whatever becomes of its sender.
    """

    rank: int
    size: int
    statistics: Statistics
    durable: bool

    def connect(self, peer: int, sender: int, deadline: Deadline) -> None:
        """Does what can be done before the pair's first message, which `sender` of the two sends."""

    def send(self, peer: int, data: bytes | memoryview, deadline: Deadline) -> None:
        """Raises PeerTimeout, PeerLost or PeerRefused."""

    def recv(self, peer: int, length: int | None, deadline: Deadline) -> bytes:
        """The next message of `peer`, of `length` bytes or, with None, of any. Raises MessageMismatch too."""

    def close(self) -> None:
        """Releases everything; peers that wait for this rank are told so."""


_CLOSED = b"\0closed"


@dataclass
class Memory:
    """All ranks of one group in one process, for tests: Memory(size).channel(rank)."""

    size: int
    _queues: dict[tuple[int, int], queue.Queue[bytes]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        pairs = ((a, b) for a in range(self.size) for b in range(self.size))
        self._queues = {pair: queue.Queue() for pair in pairs}

    def channel(self, rank: int) -> MemoryChannel:
        return MemoryChannel(rank, self.size, self._queues)


@dataclass
class MemoryChannel:
    rank: int
    size: int
    _queues: dict[tuple[int, int], queue.Queue[bytes]]
    statistics: Statistics = field(default_factory=Statistics)
    durable: bool = True

    def connect(self, peer: int, sender: int, deadline: Deadline) -> None: ...

    def send(self, peer: int, data: bytes | memoryview, deadline: Deadline) -> None:
        self._queues[self.rank, peer].put(bytes(data))
        self.statistics.sent(peer, len(data), 0.0)

    def recv(self, peer: int, length: int | None, deadline: Deadline) -> bytes:
        waiting, start = self._queues[peer, self.rank], time.perf_counter()
        try:
            message = waiting.get(timeout=deadline.left())
        except queue.Empty:
            raise PeerTimeout(f"rank {self.rank}: nothing from rank {peer} in {deadline.seconds} s") from None
        if message is _CLOSED:
            waiting.put(_CLOSED)
            raise PeerLost(f"rank {self.rank}: rank {peer} has left")
        if length is not None and len(message) != length:
            raise MessageMismatch(f"rank {self.rank}: rank {peer} sent {len(message)} bytes, expected {length}")
        self.statistics.received(peer, len(message), time.perf_counter() - start)
        return message

    def close(self) -> None:
        for peer in range(self.size):
            self._queues[self.rank, peer].put(_CLOSED)
