"""The interface of channels, which carry bytes from one rank to another."""

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


@dataclass(slots=True, repr=False, eq=False)
class Traffic:
    """This rank's traffic with one peer; only a single thread at a time adds to it."""

    messages: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0
    sending_seconds: float = 0.0
    waiting_seconds: float = 0.0

    def sent(self, length: int, seconds: float) -> None:
        self.messages += 1
        self.sent_bytes += length
        self.sending_seconds += seconds

    def received(self, length: int, seconds: float) -> None:
        self.messages += 1
        self.received_bytes += length
        self.waiting_seconds += seconds


@dataclass(repr=False, eq=False)
class Statistics:
    """Seconds, bytes and partners of this rank's communication."""

    setup_seconds: float = 0.0
    relayed: set[int] = field(default_factory=set)
    _peers: dict[int, Traffic] = field(default_factory=dict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def connected(self, seconds: float) -> None:
        with self._lock:
            self.setup_seconds += seconds

    def of(self, peer: int) -> Traffic:
        """The traffic with a peer, to which its messages are added."""
        return self._peers.setdefault(peer, Traffic())

    @property
    def partners(self) -> set[int]:
        return {peer for peer, traffic in self._all() if traffic.messages}

    @property
    def sent_bytes(self) -> int:
        return sum(traffic.sent_bytes for _, traffic in self._all())

    @property
    def received_bytes(self) -> int:
        return sum(traffic.received_bytes for _, traffic in self._all())

    @property
    def sending_seconds(self) -> float:
        return sum(traffic.sending_seconds for _, traffic in self._all())

    @property
    def waiting_seconds(self) -> float:
        return sum(traffic.waiting_seconds for _, traffic in self._all())

    def _all(self) -> list[tuple[int, Traffic]]:
        return list(self._peers.items())


Received = bytearray | memoryview  # memory of the receiver's own, which it may change


class Channel(Protocol):
    """Messages between this rank and every other rank, in order, whole or not at all.

    Several threads may use it at once if each has its own peers. durable: whether a sent message is kept until
    it is received, even if its sender ends.
    """

    rank: int
    size: int
    statistics: Statistics
    durable: bool

    def connect(self, peer: int, sender: int, deadline: Deadline) -> None:
        """Prepares for the pair's first message, which the rank `sender` of the two sends."""

    def send(self, peer: int, data: bytes | memoryview, purpose: Purpose, deadline: Deadline) -> None:
        """Raises PeerTimeout, PeerLost, PeerRefused; MessageMismatch if the peer refused an earlier one."""

    def recv(self, peer: int, length: int | None, purpose: Purpose, deadline: Deadline) -> Received:
        """The next message of `peer`, of `length` bytes, or of any length if that is None.

        Raises the same errors, and MessageMismatch if the message has another purpose or length; FMI's own wire
        does not carry the purpose.
        """

    def exchange(self, peer: int, data: bytes | memoryview, purpose: Purpose, deadline: Deadline) -> Received:
        """Sends to a peer that does the same, and returns its message, which has the same length.

        If the channel can, it does both at once. Raises the errors of send and recv.
        """

    def unread(self) -> list[str]:
        """Descriptions of messages that have arrived but that this rank has not read, as far as known."""

    def close(self) -> None:
        """Releases everything; peers that wait for this rank get an error."""


_Message = tuple[Purpose, bytes] | None  # None: its sender has closed


@dataclass(repr=False, eq=False)
class Memory:
    """All ranks of one group in one process, for tests: Memory(size).channel(rank)."""

    size: int
    _queues: dict[tuple[int, int], queue.Queue[_Message]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        pairs = ((a, b) for a in range(self.size) for b in range(self.size))
        self._queues = {pair: queue.Queue() for pair in pairs}

    def channel(self, rank: int) -> MemoryChannel:
        return MemoryChannel(rank, self.size, self._queues)


@dataclass(repr=False, eq=False)
class MemoryChannel:
    rank: int
    size: int
    _queues: dict[tuple[int, int], queue.Queue[_Message]]
    statistics: Statistics = field(default_factory=Statistics)
    durable: bool = True

    def connect(self, peer: int, sender: int, deadline: Deadline) -> None: ...

    def send(self, peer: int, data: bytes | memoryview, purpose: Purpose, deadline: Deadline) -> None:
        self._queues[self.rank, peer].put((purpose, bytes(data)))
        self.statistics.of(peer).sent(len(data), 0.0)

    def exchange(self, peer: int, data: bytes | memoryview, purpose: Purpose, deadline: Deadline) -> Received:
        self.send(peer, data, purpose, deadline)
        return self.recv(peer, len(data), purpose, deadline)

    def recv(self, peer: int, length: int | None, purpose: Purpose, deadline: Deadline) -> Received:
        waiting, start = self._queues[peer, self.rank], time.perf_counter()
        try:
            message = waiting.get(timeout=deadline.left())
        except queue.Empty:
            raise PeerTimeout(
                f"rank {self.rank}: nothing came from rank {peer} in {deadline.seconds} s"
            ) from None
        if message is None:
            waiting.put(None)
            raise PeerLost(f"rank {self.rank}: rank {peer} has left")
        theirs, data = message
        Expected(purpose, self.rank, peer, length).check(theirs.head(len(data)))
        self.statistics.of(peer).received(len(data), time.perf_counter() - start)
        return bytearray(data)

    def unread(self) -> list[str]:
        return []

    def close(self) -> None:
        for peer in range(self.size):
            self._queues[self.rank, peer].put(None)
