"""How a kind of source is described in docs/data.md."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """name, with the usual suffixes; what is read of it; what is refused, with a message that says why."""

    name: str
    reads: str
    refuses: str
