"""A bad galaxy affects only itself: which of its values are used, and the flags that say what was wrong."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from ..contract.flags import BAD, FEW_BAD, FLAGS, Flag, name
from .missing import blank_rows, finite_rows, row_sums
from .partition import Partition, PartitionError
from .rules import Rules

Floats = NDArray[np.float32]
Bits = NDArray[np.uint16]


@dataclass(repr=False, eq=False)
class Quality:
    """The flags of a rank's galaxies, in their order, and their magnitudes as far as they are known."""

    rules: Rules = field(default_factory=Rules)
    _flags: list[Bits] = field(default_factory=list)
    _magnitudes: list[Floats] = field(default_factory=list)

    @property
    def flags(self) -> Bits:
        return np.concatenate([*self._flags, np.empty(0, np.uint16)])

    def magnitudes(self, bands: int) -> Floats:
        """(N, bands): the model's limit where a galaxy was not detected, NaN where nothing is known."""
        return np.concatenate([*self._magnitudes, np.empty((0, bands), np.float32)])

    def usable(self, rows: Partition) -> Partition:
        """The rows as the network gets them: with limits and placeholders for missing values. Records their
        flags."""
        flags = np.zeros(len(rows), np.uint16)
        images, (magnitudes, undetected) = rows.images, self.rules.cleaned(rows.magnitudes)
        sums = row_sums(images)
        bad_images, bad_magnitudes = ~finite_rows(images, sums), ~finite_rows(magnitudes)
        blank = blank_rows(images, sums)
        self._magnitudes.append(magnitudes)
        flags[bad_images] |= np.uint16(Flag.IMAGE)
        flags[blank] |= np.uint16(Flag.BLANK)
        flags[bad_magnitudes] |= np.uint16(Flag.MAGNITUDES)
        flags[undetected] |= np.uint16(Flag.NOT_DETECTED)
        flags[self._without(bad_images, blank, bad_magnitudes)] |= np.uint16(Flag.NO_REDSHIFT)
        if self.rules.magnitudes is not None:
            low, high = self.rules.magnitudes
            outside = ((magnitudes < low) | (magnitudes > high)).any(1)
            flags[outside & ~bad_magnitudes] |= np.uint16(Flag.FAINT_OR_BRIGHT)
        self._flags.append(flags)
        if bad_images.any():
            images = np.where(bad_images.reshape(-1, *[1] * (images.ndim - 1)), np.float32(0), images)
        if bad_magnitudes.any():
            hidden = self.rules.hidden_magnitudes
            instead = np.zeros(magnitudes.shape[1], np.float32) if hidden is None else hidden
            magnitudes = np.where(bad_magnitudes[:, None], instead, magnitudes)
        return replace(rows, images=images, magnitudes=magnitudes)

    def _without(
        self,
        bad_images: NDArray[np.bool_],
        blank: NDArray[np.bool_],
        bad_magnitudes: NDArray[np.bool_],
    ) -> NDArray[np.bool_]:
        """Galaxies that lack what this network needs."""
        without = (bad_images | blank) & bad_magnitudes
        if not self.rules.hides_images:
            without |= bad_images | blank
        return without | bad_magnitudes if self.rules.hidden_magnitudes is None else without

    def redshifts(self, predicted: Floats) -> Floats:
        """The network's redshifts (N,) of all galaxies, NaN for those without one. Completes the flags."""
        without = self.without(np.isfinite(predicted))
        if without.any():
            predicted = np.where(without, np.float32(np.nan), predicted)
        if self.rules.redshift is not None:
            low, high = self.rules.redshift
            self.note(Flag.FAR_OR_NEAR, (predicted < low) | (predicted > high))
        return predicted

    def without(self, finite: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which galaxies (N,) have no prediction. finite (N,): whose is finite. Completes the flags."""
        self.note(Flag.NO_REDSHIFT, ~finite)
        return (self.flags & np.uint16(Flag.NO_REDSHIFT)) != 0

    def note(self, flag: Flag, rows: NDArray[np.bool_]) -> None:
        """Adds a flag to the galaxies of `rows` (N,), once all are computed."""
        self._flags = [np.where(rows, self.flags | np.uint16(flag), self.flags)]

    def counts(self) -> dict[str, int]:
        """The number of galaxies by flag, for all FLAGS."""
        flags = self.flags
        return {name(flag): int(np.count_nonzero(flags & np.uint16(flag))) for flag in FLAGS}

    def check(self, most: float, where: str) -> None:
        """Raises PartitionError if more than a share `most` of the galaxies lacks something.

        Up to FEW_BAD such galaxies are allowed however small the rank is, unless they are more than half of it;
        with a share of 0 none is.
        """
        flags = self.flags
        bad, count = int(np.count_nonzero(flags & np.uint16(BAD))), len(flags)
        few = most > 0 and bad <= FEW_BAD and 2 * bad <= count
        if bad <= most * count or few:
            return
        reasons = "; ".join(
            f"{count:,}: {FLAGS[flag]}"
            for flag in FLAGS
            if flag & BAD and (count := int(np.count_nonzero(flags & np.uint16(flag))))
        )
        raise PartitionError(
            f"{where}: {bad:,} of {len(flags):,} galaxies lack something ({reasons}), and max_bad_fraction "
            f"{most:g} allows fewer; repair the data, or give a higher max_bad_fraction"
        )
