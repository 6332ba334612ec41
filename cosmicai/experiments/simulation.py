"""The ranks of many simulated runs at once: when each is dispatched, gets a sandbox, and ends."""

from __future__ import annotations

import math
from dataclasses import dataclass
from heapq import heappop, heappush

import numpy as np

from cosmicai.experiments.scatter import Floats

_MOST_UNITS = 400  # that are scheduled one by one in each run
_LEAST_UNITS_AT_ONCE = 20


@dataclass(frozen=True)
class Sandboxes:
    """Where ranks run. ready: (at once,), the second from which each can be started; warm: how many are started
    already. keep: whether the next rank in a sandbox starts warm."""

    ready: Floats
    keep: bool = True
    warm: int = 0


@dataclass(frozen=True)
class Times:
    """start, cold, end: (runs, ranks), seconds from the first dispatch; cold: how long the cold start takes."""

    start: Floats
    cold: Floats
    end: Floats

    @property
    def billed(self) -> Floats:
        return self.end - self.start


def schedule(dispatched: Floats, sandboxes: Sandboxes, cold: Floats, busy: Floats) -> Times:
    """Runs ranks in their order, each in the sandbox that is ready first: a warm one, if it is free by then.

    dispatched: (ranks,), seconds. cold, busy: (runs, ranks), seconds of a start and of the work after it.
    """
    count = len(dispatched)
    if count <= len(sandboxes.ready):
        times = _each_its_own(dispatched, sandboxes, cold, busy)
        if not sandboxes.warm and (times.end.min(axis=1) >= times.start.max(axis=1)).all():
            return times  # no sandbox is free again before the last rank has one
    size = min(math.ceil(count / _MOST_UNITS), max(1, len(sandboxes.ready) // _LEAST_UNITS_AT_ONCE))
    units = np.arange(0, count, size)
    members = np.diff(units, append=count)
    work = [np.add.reduceat(one, units, axis=1) / members for one in (cold, busy)]
    ready, warm = (
        sandboxes.ready[::size][: max(1, len(sandboxes.ready) // size)].tolist(),
        sandboxes.warm // size,
    )
    rows = [
        _one_by_one(
            dispatched[units].tolist(), ready, warm, sandboxes.keep, *(one[run].tolist() for one in work)
        )
        for run in range(len(cold))
    ]
    starts, colds = (np.repeat(np.array([row[part] for row in rows]), members, axis=1) for part in (0, 1))
    start = np.maximum(starts, dispatched)
    waited = np.where(colds > 0, cold, 0.0)
    return Times(start, waited, start + waited + busy)


def _each_its_own(dispatched: Floats, sandboxes: Sandboxes, cold: Floats, busy: Floats) -> Times:
    start = np.broadcast_to(np.maximum(dispatched, sandboxes.ready[: len(dispatched)]), cold.shape)
    return Times(start, cold, start + cold + busy)


def _one_by_one(
    dispatched: list[float], ready: list[float], warm: int, keep: bool, cold: list[float], busy: list[float]
) -> tuple[list[float], list[bool]]:
    """When each unit starts, and whether in a new sandbox; a unit of several ranks runs like their mean."""
    free = [0.0] * warm
    used, starts, colds = warm, [], []
    for at, wait, work in zip(dispatched, cold, busy, strict=True):
        begin = max(at, ready[used]) if used < len(ready) else math.inf
        is_new = not free or max(at, free[0]) > begin
        if is_new:
            used += 1
        else:
            begin = max(at, heappop(free))
        is_cold = is_new or not keep
        heappush(free, begin + (wait if is_cold else 0.0) + work)
        starts.append(begin)
        colds.append(is_cold)
    return starts, colds
