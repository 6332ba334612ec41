"""One bad galaxy costs one galaxy: what of each can be used, and what is said of the rest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..contract.flags import BAD, FLAGS, Flag, name
from .partition import Partition, PartitionError

Floats = NDArray[np.float32]
Bits = NDArray[np.uint16]
Range = tuple[Floats, Floats]

CARD_FILES = ("config.json", "card.json")
_MAGNITUDES = "magnitudes, 0.1 and 99.9 percent"


@dataclass(frozen=True)
class Rules:
    """What a network does about galaxies that lack something, and what it was trained on.

    hidden_magnitudes (M,): stand for magnitudes that cannot be used, as zeros do for such an image. None: the
    network was not trained without one of its inputs, and such galaxies get no redshift. magnitudes and
    redshift: least and greatest of the training; None where the model's card does not say them.
    """

    hidden_magnitudes: Floats | None = None
    magnitudes: Range | None = None
    redshift: tuple[float, float] | None = None

    @classmethod
    def of_folder(cls, folder: Path) -> Rules:
        """Of a model folder; what its config.json and card.json do not say is not known."""
        config, card = (_content(folder / file) for file in CARD_FILES)
        hidden, trained = config.get("hidden_magnitudes"), card.get("trained on")
        trained = trained if isinstance(trained, Mapping) else {}
        pair, redshift = _numbers(trained.get(_MAGNITUDES), 2), _numbers(trained.get("redshift"), 1)
        return cls(
            _numbers(hidden, 1),
            None if pair is None or len(pair) != 2 else (pair[0], pair[1]),
            None if redshift is None or len(redshift) != 2 else (float(redshift[0]), float(redshift[1])),
        )


def _content(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _numbers(value: Any, dimensions: int) -> Floats | None:
    try:
        array = np.array(value, np.float32)
    except (TypeError, ValueError, OverflowError):
        return None
    return array if array.ndim == dimensions and np.isfinite(array).all() else None


@dataclass
class Quality:
    """The flags of a rank's galaxies, in their order."""

    rules: Rules = Rules()
    _flags: list[Bits] = field(default_factory=list)

    @property
    def flags(self) -> Bits:
        return np.concatenate([*self._flags, np.empty(0, np.uint16)])

    def usable(self, rows: Partition) -> Partition:
        """The rows as the network gets them: without a value that is not finite. Notes their flags."""
        flags = np.zeros(len(rows), np.uint16)
        images, magnitudes = rows.images, rows.magnitudes
        bad_images, bad_magnitudes = _not_finite(images), _not_finite(magnitudes)
        flags[bad_images] |= np.uint16(Flag.IMAGE)
        flags[~images.any((1, 2, 3))] |= np.uint16(Flag.BLANK)
        flags[bad_magnitudes] |= np.uint16(Flag.MAGNITUDES)
        hidden = self.rules.hidden_magnitudes
        if bad_images.any():
            images = np.where(bad_images[:, None, None, None], np.float32(0), images)
        if bad_magnitudes.any():
            instead = np.zeros(magnitudes.shape[1], np.float32) if hidden is None else hidden
            magnitudes = np.where(bad_magnitudes[:, None], instead, magnitudes)
        without = bad_images | bad_magnitudes if hidden is None else bad_images & bad_magnitudes
        flags[without | (bad_magnitudes & ((flags & np.uint16(Flag.BLANK)) != 0))] |= np.uint16(
            Flag.NO_REDSHIFT
        )
        if self.rules.magnitudes is not None:
            low, high = self.rules.magnitudes
            outside = ((magnitudes < low) | (magnitudes > high)).any(1)
            flags[outside & ~bad_magnitudes] |= np.uint16(Flag.FAINT_OR_BRIGHT)
        self._flags.append(flags)
        return replace(rows, images=images, magnitudes=magnitudes)

    def redshifts(self, predicted: Floats) -> Floats:
        """The network's redshifts (N,) of all galaxies, NaN for those that have none. Completes the flags."""
        flags = self.flags
        flags[~np.isfinite(predicted)] |= np.uint16(Flag.NO_REDSHIFT)
        without = (flags & np.uint16(Flag.NO_REDSHIFT)) != 0
        if without.any():
            predicted = np.where(without, np.float32(np.nan), predicted)
        if self.rules.redshift is not None:
            low, high = self.rules.redshift
            flags[(predicted < low) | (predicted > high)] |= np.uint16(Flag.FAR_OR_NEAR)
        self._flags = [flags]
        return predicted

    def note(self, flag: Flag, rows: NDArray[np.bool_]) -> None:
        """Adds a flag to some of all galaxies, once all are computed."""
        self._flags = [np.where(rows, self.flags | np.uint16(flag), self.flags)]

    def counts(self) -> dict[str, int]:
        """Galaxies by flag, all of FLAGS."""
        flags = self.flags
        return {name(flag): int(np.count_nonzero(flags & np.uint16(flag))) for flag in FLAGS}

    def check(self, most: float, where: str) -> None:
        """Raises PartitionError where more than a share `most` of the galaxies lacks something."""
        flags = self.flags
        bad = int(np.count_nonzero(flags & np.uint16(BAD)))
        if bad <= most * len(flags):
            return
        told = "; ".join(
            f"{count:,}: {FLAGS[flag]}"
            for flag in FLAGS
            if flag & BAD and (count := int(np.count_nonzero(flags & np.uint16(flag))))
        )
        raise PartitionError(
            f"{where}: {bad:,} of {len(flags):,} galaxies lack something ({told}), and max_bad_fraction "
            f"{most:g} allows fewer; repair the data, or give a higher max_bad_fraction"
        )


def _not_finite(array: Floats) -> NDArray[np.bool_]:
    """Which rows hold NaN or infinity."""
    with np.errstate(invalid="ignore", over="ignore"):
        if np.isfinite(array.sum(dtype=np.float64)):
            return np.zeros(len(array), bool)
    return np.logical_not(np.asarray(np.isfinite(array).reshape(len(array), -1).all(1)))
