"""Galaxies that can teach a network something: left out are those that the ranks of a run would flag."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from inference.contract.flags import Flag
from inference.contract.missing import BRIGHTEST, FAINTEST
from inference.data.missing import known_redshifts
from inference.data.partition import Layout, Partition, read
from inference.data.quality import Quality
from inference.data.rules import Floats, Rules

UNKNOWN_REDSHIFT = "without a known redshift"
_REASONS = {
    Flag.IMAGE: "whose image holds NaN or infinite pixels",
    Flag.BLANK: "whose image is all zero",
    Flag.MAGNITUDES: "with a magnitude that is not known",
}


@dataclass(frozen=True)
class Needs:
    """What a galaxy must have to be of use."""

    images: bool = True
    magnitudes: bool = True
    redshift: bool = True

    @property
    def flags(self) -> list[Flag]:
        """In the order of _REASONS."""
        images, magnitudes = [Flag.IMAGE, Flag.BLANK], [Flag.MAGNITUDES]
        return images * self.images + magnitudes * self.magnitudes


@dataclass
class Tally:
    """How many galaxies were read, in how many a limit replaces a magnitude, and how many were left out."""

    galaxies: int = 0
    not_detected: int = 0
    left_out: Counter[str] = field(default_factory=Counter)

    @property
    def used(self) -> int:
        return self.galaxies - self.left_out.total()

    def notes(self) -> list[str]:
        """In sentences; none if nothing was missing."""
        notes = []
        if self.not_detected:
            notes.append(
                f"{self.not_detected:,} of {self.galaxies:,} galaxies have the limit in a band in which they "
                "were not detected"
            )
        if self.left_out:
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in self.left_out.items())
            notes.append(f"{self.left_out.total():,} of {self.galaxies:,} galaxies are left out: {reasons}")
        return notes


def partitions(files: Sequence[Path], layout: Layout) -> Iterator[Partition]:
    """As they are, file by file. Raises PartitionError."""
    return (read(file.read_bytes(), str(file), layout, only_finite=False) for file in files)


def usable(
    parts: Iterable[Partition], rules: Rules, tally: Tally, needs: Needs = Needs()
) -> Iterator[Partition]:
    """The galaxies of each part that have what is needed, magnitudes as a rank would use them.

    What is neither needed nor known is zero, or NaN for a redshift.
    """
    for part in parts:
        quality = Quality(rules)
        cleaned = quality.usable(part)
        left = np.ones(len(part), bool)
        for flag in needs.flags:
            lacking = left & ((quality.flags & np.uint16(flag)) != 0)
            tally.left_out[_REASONS[flag]] += int(lacking.sum())
            left &= ~lacking
        redshift = np.full(len(part), np.nan, np.float32)
        if part.redshift is not None:
            redshift = np.where(known_redshifts(part.redshift), part.redshift, redshift)
        if needs.redshift:
            lacking = left & np.isnan(redshift)
            tally.left_out[UNKNOWN_REDSHIFT] += int(lacking.sum())
            left &= ~lacking
        tally.left_out += Counter()  # reasons that no galaxy has
        tally.galaxies += len(part)
        tally.not_detected += int(np.count_nonzero(quality.flags[left] & np.uint16(Flag.NOT_DETECTED)))
        yield Partition(cleaned.images[left], cleaned.magnitudes[left], redshift[left])


def rules_by(parts: Sequence[Partition], limits: Floats | None) -> Rules:
    """The rules for galaxies to train on: their limits, and whether their magnitudes are AB magnitudes.

    They are if there are limits, or if most values are in the range of galaxies' magnitudes.
    """
    if limits is not None:
        return Rules(limits=limits, in_ab=True)
    values = np.concatenate([np.empty(0, np.float32), *(part.magnitudes.reshape(-1) for part in parts)])
    values = values[np.isfinite(values)]
    within = np.count_nonzero((values >= BRIGHTEST) & (values <= FAINTEST))
    return Rules(in_ab=bool(2 * within > len(values)))


def together(parts: Sequence[Partition]) -> Partition:
    """All that `usable` gave, as one."""
    return Partition(
        np.concatenate([part.images for part in parts]),
        np.concatenate([part.magnitudes for part in parts]),
        np.concatenate([part.redshift for part in parts if part.redshift is not None]),
    )
