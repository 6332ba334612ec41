"""Rank infos without what a summary needs only once: a run may have 100,000 of them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from .contract.rank_info import RankInfo

_SHARED = (
    "run_id", "result_path", "architecture", "capacity", "instance_type", "versions", "columns", "device",
    "engine", "instructions", "cpu", "cpu_features", "precision", "precision_reason",
)  # fmt: skip
"""Most ranks of a run have the same values of these."""
_DROPPED: dict[str, Any] = dict.fromkeys(
    (
        "flags", "predicted_redshifts", "measures", "rail_measures", "probabilities", "undefined",
        "accuracy_state", "collectives", "script_values",
    )
) | {"others": {}, "names": ()}  # fmt: skip


class Lean:
    """Makes infos lean. Equal values of several infos become one object."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}
        self._nested: dict[str, Any] = {}

    def of(self, info: RankInfo) -> RankInfo:
        """The info with its figures, but without states, measures, flags and a script's own fields."""
        shared = {name: self._shared(getattr(info, name)) for name in _SHARED}
        part = info.catalogue
        if isinstance(part, dict):
            part = {self._shared(name): self._shared(value) for name, value in part.items()}
        return replace(info, catalogue=part, **shared, **_DROPPED)

    def _shared(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._texts.setdefault(value, value)
        if isinstance(value, dict | list):
            return self._nested.setdefault(json.dumps(value), value)
        return value
