"""What the ranks have measured of their galaxies, added up one rank at a time: a state may take 100 kB."""

from __future__ import annotations

from collections import Counter
from collections.abc import Set
from typing import Any

from .contract.accuracy import Predicted
from .contract.flags import NAMES
from .contract.metrics import AnyMetrics, added, read_metrics
from .contract.rank_info import RankInfo
from .contract.run_records import ReducedMetrics, Run

Json = dict[str, Any]

_NAMED_RANKS = 10


class States:
    """Metrics, the histogram of predicted redshifts, and flags, of the ranks that are not copies.

    reduced: metrics.json, if rank 0 has written one. It holds the metrics that ranks have reduced among
    themselves; only those of the other ranks are added to it.
    """

    def __init__(self, run: Run, reduced: Json | None = None) -> None:
        self.metrics: AnyMetrics | None = None
        self.predicted: Predicted | None = None
        self.faults: dict[int, str] = {}
        """{rank: why a state of it cannot be used}"""
        self._flags: Counter[str] | None = None
        self._covered: frozenset[int] = frozenset()  # by metrics.json
        self._channel, self._unused = "", ""
        self._added: set[int] = set()
        if reduced is not None:
            try:
                self._start_with(reduced, run.originals)
            except ValueError as error:
                self._unused = f"; metrics.json is not used: {error}"

    def _start_with(self, reduced: Json, ranks: int) -> None:
        """Raises ValueError."""
        share = ReducedMetrics.from_json(reduced)
        if not share.ranks or not all(rank < ranks for rank in share.ranks):
            raise ValueError("its ranks are not those of the run")
        self.metrics = None if share.accuracy_state is None else read_metrics(share.accuracy_state)
        self._covered, self._channel = frozenset(share.ranks), share.channel

    def add(self, info: RankInfo) -> None:
        """Adds a rank that has finished."""
        if info.copy is not None:
            return
        self._added.add(info.rank)
        if info.flags is not None:
            self._flags = self._flags or Counter()
            self._flags.update({flag: info.flags.get(flag, 0) for flag in NAMES})
        faults = []
        if info.rank not in self._covered and info.accuracy_state is not None:
            try:
                self.metrics = added(self.metrics, read_metrics(info.accuracy_state))
            except ValueError as error:
                faults.append(f"accuracy_state: {error}")
        if info.predicted_redshifts is not None:
            try:
                self._add_predicted(Predicted.from_json(info.predicted_redshifts))
            except ValueError as error:
                faults.append(f"predicted_redshifts: {error}")
        if faults:
            self.faults[info.rank] = "; ".join(faults)

    def _add_predicted(self, part: Predicted) -> None:
        if self.predicted is None:
            self.predicted = part
        else:
            self.predicted.add(part)

    def cover_only(self, ranks: Set[int]) -> bool:
        """Whether metrics.json covers no other ranks: redshifts of others are lost, so their galaxies must not
        count. Otherwise all ranks must be added, without metrics.json."""
        return ranks >= self._covered

    @property
    def flags(self) -> dict[str, int] | None:
        """Galaxies by flag, over the ranks that report flags; None if none does."""
        return None if self._flags is None else {flag: self._flags[flag] for flag in NAMES}

    @property
    def source(self) -> str:
        """Where the metrics come from."""
        if not self._covered:
            return f"rank infos{self._unused}"
        lacking = sorted(self._added - self._covered)
        named = ", ".join(map(str, lacking[:_NAMED_RANKS]))
        more = ", …" if len(lacking) > _NAMED_RANKS else ""
        rest = f"; from rank infos: {named}{more}" if lacking else ""
        return f"collectives ({self._channel[:20]}) of {len(self._covered)} ranks{rest}"
