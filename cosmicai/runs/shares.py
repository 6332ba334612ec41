"""One of several shares of the partitions, for parallel calls of `infer` on a cluster."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from initialize.plan import PartitionFile, deal

FOLDER = "shares"
"""Below the folder of the results: a folder for each share, until `merge` has put them together."""


class EmptyShareError(ValueError):
    """There are fewer partitions than shares, and none is left for this one."""


@dataclass(frozen=True)
class Share:
    """Share `number`, counted from 0, of `of` shares."""

    number: int
    of: int

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def folder(self, out: Path) -> Path:
        return out / FOLDER / f"{self.number}-of-{self.of}"

    @classmethod
    def of_folder(cls, folder: Path) -> Share | None:
        """None if the folder is not named like one of a share."""
        match = re.fullmatch(r"([0-9]{1,5})-of-([0-9]{1,5})", folder.name)
        return None if match is None else cls(int(match[1]), int(match[2]))

    def ranks(self, sizes: Sequence[int]) -> list[int]:
        """The partitions of this share, balanced by bytes. sizes: of all partitions, in their order.

        The shares together have each partition once. Raises EmptyShareError.
        """
        hands = deal([PartitionFile(str(rank), size) for rank, size in enumerate(sizes)], self.of)
        if self.number >= len(hands):
            raise EmptyShareError(f"share {self} has no partition, because there are only {len(sizes)}")
        return sorted(int(file.key) for file in hands[self.number])


def run_id(content: Any) -> str:
    """A run id that depends on `content` alone, which JSON can hold: shares of one run have the same."""
    return f"local-{hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]}"
