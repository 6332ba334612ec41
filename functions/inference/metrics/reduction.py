"""The ranks' metrics reduced to rank 0 while they run: a tree of messages that never costs a rank its results.

Connections are made in the background while a rank computes. A leaf sends its metrics and leaves; an inner rank
waits for its children for a while and continues without those that do not come. Summarize finds the missing
metrics in S3.
"""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ..contract.event import copy_of
from ..contract.limits import FANOUT
from ..contract.metrics import AnyMetrics, added, read_metrics
from ..fmi.channel import Channel, Deadline
from ..fmi.errors import FmiError
from ..fmi.messages import Purpose

PATIENCE_SECONDS = 20.0  # that a leaf waits for its parent; an inner rank waits that much more per level below
MARGIN_SECONDS = 10.0  # of the function's time that are kept for writing the rank info
_AGAIN_SECONDS = 0.2
_RECEIVED = b"\x06"
_MOST_UNPACKED = 16 << 20  # bytes of a share as JSON: 100,000 ranks, and histograms with all their bins
_MOST_SAMPLES = 2**53


@dataclass(frozen=True)
class Tree:
    """A rank's place in the k-nomial tree of radix FANOUT, the generalisation of FMI's binomial one.

    A rank's parent has the same number in base FANOUT with the lowest non-zero digit cleared: neighbours, who
    start at about the same time, reduce among themselves first.
    """

    rank: int
    size: int
    originals: int | None = None  # the ranks that are not copies; None: all

    @property
    def parent(self) -> int | None:
        if self.rank == 0:
            return None
        digit = 1
        while self.rank % (digit * FANOUT) == 0:
            digit *= FANOUT
        return self.rank - self.rank % (digit * FANOUT)

    @property
    def children(self) -> list[int]:
        children, digit = [], 1
        while digit < self.size and self.rank % (digit * FANOUT) == 0:
            ranks = (self.rank + number * digit for number in range(1, FANOUT))
            children += [rank for rank in ranks if rank < self.size]
            digit *= FANOUT
        return children

    def adds(self, child: int) -> bool:
        """Whether this rank adds a child's metrics to its own: an original does not add those of a copy."""
        return copy_of(child, self.originals) is None or copy_of(self.rank, self.originals) is not None

    @property
    def height(self) -> int:
        """Levels below this rank."""
        levels, digit = 0, 1
        while self.rank + digit < self.size and self.rank % (digit * FANOUT) == 0:
            levels, digit = levels + 1, digit * FANOUT
        return levels


@dataclass
class Share:
    """The merged metrics of some ranks; `metrics` is None if none of them has true values."""

    ranks: list[int]
    num_samples: int
    metrics: AnyMetrics | None

    def add(self, other: Share) -> None:
        """Raises ValueError for metrics of another kind; then nothing is added."""
        self.metrics = added(self.metrics, other.metrics)
        self.ranks = sorted([*self.ranks, *other.ranks])
        self.num_samples += other.num_samples

    def pack(self) -> bytes:
        state = None if self.metrics is None else self.metrics.to_json()
        return zlib.compress(json.dumps([self.ranks, self.num_samples, state]).encode())

    @classmethod
    def unpack(cls, data: bytes) -> Share:
        """Raises ValueError for anything that `pack` would not make."""
        unpacking = zlib.decompressobj()
        try:
            ranks, samples, state = json.loads(unpacking.decompress(data, _MOST_UNPACKED))
        except (zlib.error, RecursionError, TypeError) as error:
            raise ValueError(f"a share cannot be unpacked: {type(error).__name__}") from error
        numbers = [samples, *ranks] if isinstance(ranks, list) else [None]
        if not all(type(number) is int and 0 <= number <= _MOST_SAMPLES for number in numbers):
            raise ValueError("a share holds something other than ranks and a number of galaxies")
        return cls(ranks, samples, None if state is None else read_metrics(state))


class Reduction:
    """One rank's part in the reduction, begun before its work: `with Reduction(…) as r: …; r.finish(mine)`.

    open_channel: makes the channel, in the background; seconds_left: how much of the function's time is left.
    Nothing raises: faults are listed in `info`.
    """

    def __init__(
        self, tree: Tree, open_channel: Callable[[], Channel], seconds_left: Callable[[], float]
    ) -> None:
        self._tree, self._seconds_left, self._purpose = tree, seconds_left, Purpose(0, tree.size)
        self._faults: dict[str, str] = {}  # by peer, or "channel"
        self._ended = False
        parent, children = tree.parent, tree.children
        self._pool = ThreadPoolExecutor(len(children) + 2, "reduction")
        self._channel: Future[Channel] | None = None
        self._shares: dict[int, Future[Share | None]] = {}
        self._link: Future[None] | None = None
        if parent is not None or children:
            self._channel = self._pool.submit(open_channel)
            self._shares = {child: self._pool.submit(self._collect, child) for child in children}
        if parent is not None:
            self._link = self._pool.submit(self._connect, parent)

    def __enter__(self) -> Reduction:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = True
        if self._channel is not None and self._channel.exception() is None:
            self._channel.result().close()
        self._pool.shutdown(cancel_futures=True)

    def finish(self, own: Share) -> Share:
        """Merges this rank's share with those of the children that came in time, and sends it to the parent."""
        patience = Deadline(min(PATIENCE_SECONDS * (self._tree.height + 1), self._usable()))
        wait(self._shares.values(), patience.left() if self._tree.parent is None else patience.left() / 2)
        for child, future in self._shares.items():
            share = future.result() if future.done() else None
            if share is not None:
                try:
                    if self._tree.adds(child):
                        own.add(share)
                except ValueError as error:
                    self._faults[f"rank {child}"] = str(error)
            else:
                self._faults.setdefault(f"rank {child}", f"did not come within {patience.seconds:.0f} s")
        if self._tree.parent is not None:
            self._deliver(self._tree.parent, own.pack(), patience)
        return own

    def info(self) -> dict[str, Any]:
        """For the rank info: the traffic between this rank and others, and what went wrong."""
        if self._channel is None or not self._channel.done() or self._channel.exception() is not None:
            return {"faults": self._faults}
        statistics = self._channel.result().statistics
        return {
            "partners": sorted(statistics.partners),
            "relayed": sorted(statistics.relayed),
            "set-up, beside the work (seconds)": statistics.setup_seconds,
            "waiting, beside the work (seconds)": statistics.waiting_seconds,
            "transfer (seconds)": statistics.sending_seconds,
            "sent (bytes)": statistics.sent_bytes,
            "received (bytes)": statistics.received_bytes,
            "faults": self._faults,
        }

    def _usable(self) -> float:
        return max(self._seconds_left() - MARGIN_SECONDS, 0.0)

    def _opened(self) -> Channel | None:
        """The channel; None if it cannot be opened, which is recorded as a fault."""
        assert self._channel is not None  # noqa: S101 - for the type checker
        error = self._channel.exception()
        if error is not None:
            self._faults["channel"] = f"{type(error).__name__}: {error}"
            return None
        return self._channel.result()

    def _collect(self, child: int) -> Share | None:
        """The child's share, whenever it comes, even after a restart of the child. Runs in its own thread."""
        channel, deadline = self._opened(), Deadline(self._usable())
        while channel is not None and not self._ended and deadline.left():
            try:
                data = channel.recv(child, None, self._purpose, deadline)
                share = Share.unpack(bytes(data))
            except (FmiError, ValueError) as error:
                self._fault(f"rank {child}", error)
                continue
            if not channel.durable:
                with suppress(FmiError):  # a child that misses this sends again, which does no harm
                    channel.send(child, _RECEIVED, self._purpose, Deadline(PATIENCE_SECONDS))
            self._faults.pop(f"rank {child}", None)
            return share
        return None

    def _connect(self, parent: int) -> None:
        channel, deadline = self._opened(), Deadline(self._usable())
        while channel is not None and not self._ended and deadline.left():
            try:
                channel.connect(parent, self._tree.rank, deadline)
            except FmiError as error:
                self._fault(f"rank {parent}", error)
            else:
                return

    def _deliver(self, parent: int, data: bytes, patience: Deadline) -> None:
        assert self._link is not None  # noqa: S101 - for the type checker
        wait([self._link], patience.left())
        channel = self._opened() if self._link.done() else None
        while channel is not None:
            try:
                channel.send(parent, data, self._purpose, patience)
                if not channel.durable:
                    channel.recv(parent, len(_RECEIVED), self._purpose, patience)
                self._faults.pop(f"rank {parent}", None)
                return
            except FmiError as error:
                self._fault(f"rank {parent}", error)
                if not patience.left():
                    return
        self._faults.setdefault(f"rank {parent}", f"did not come within {patience.seconds:.0f} s")

    def _fault(self, what: str, error: Exception) -> None:
        if not self._ended:
            self._faults[what] = f"{type(error).__name__}: {error}"
            time.sleep(_AGAIN_SECONDS)
