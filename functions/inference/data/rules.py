"""What a model folder says about galaxies that lack something: config.json and card.json, read as data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..contract.missing import BRIGHTEST, FAINTEST, MAGNITUDE_MARKERS, Missing
from .missing import Hit, beyond, marked, settled

Floats = NDArray[np.float32]
Range = tuple[Floats, Floats]

CARD_FILES = ("config.json", "card.json")
_BANDS = 5  # if the config does not say it
_MAGNITUDES = "magnitudes, 0.1 and 99.9 percent"
_NOT_FINITE = {marker: kind for marker, kind in MAGNITUDE_MARKERS.items() if not np.isfinite(marker)}


@dataclass(frozen=True, repr=False, eq=False)
class Rules:
    """How a network handles galaxies that lack something, and what it was trained on.

    hidden_magnitudes (M,): replace magnitudes that cannot be used. None: the network was not trained to do
    without magnitudes, and such galaxies get no redshift. hides_images: whether it was trained to do without
    images; zeros replace them. limits (M,): the magnitudes of galaxies that are not detected. magnitudes and
    redshift: their ranges in the training. in_ab: whether its magnitudes are AB magnitudes, and not scaled
    values or colours. Values that the model's card does not state are None.
    """

    hidden_magnitudes: Floats | None = None
    hides_images: bool = False
    limits: Floats | None = None
    magnitudes: Range | None = None
    redshift: tuple[float, float] | None = None
    in_ab: bool | None = None

    @classmethod
    def of_folder(cls, folder: Path) -> Rules:
        """The rules of a model folder, as far as its config.json and card.json state them."""
        config, card = (_content(folder / file) for file in CARD_FILES)
        trained, recipe = _part(card, "trained on"), _part(card, "recipe")
        bands = config.get("magnitudes", _BANDS)
        limits = _numbers(_part(card, "photometry").get("magnitude_limits"), bands)
        pair, redshift = _numbers(trained.get(_MAGNITUDES), 2, bands), _numbers(trained.get("redshift"), 2)
        magnitudes = None if pair is None else (pair[0], pair[1])
        without_images = recipe.get("without_images") is True
        by_images = _weight(recipe, "images_weight") > 0 and not without_images
        return cls(
            _numbers(config.get("hidden_magnitudes"), bands) if by_images else None,
            without_images or _weight(recipe, "magnitudes_weight") > 0,
            limits,
            magnitudes,
            None if redshift is None else (float(redshift[0]), float(redshift[1])),
            _in_ab(limits, magnitudes),
        )

    def cleaned(self, magnitudes: Floats) -> tuple[Floats, NDArray[np.bool_]]:
        """Magnitudes (N, M) with the limit where nothing was detected and NaN where nothing is known; and which
        galaxies (N,) have such a limit in place of a marker.

        If the card does not say whether they are AB magnitudes, only markers are missing values; if it says
        that they are not, only NaN and infinity are.
        """
        undetected = np.zeros(len(magnitudes), bool)
        limits = np.float32(np.nan) if self.limits is None else self.limits
        top = FAINTEST if self.limits is None else np.minimum(self.limits, np.float32(FAINTEST))
        if not magnitudes.size:
            return magnitudes, undetected
        if (magnitudes.min(0) >= BRIGHTEST).all() and (magnitudes.max(0) <= top).all():
            return magnitudes, undetected  # no marker is in this range
        with np.errstate(invalid="ignore"):
            suspects = np.flatnonzero(~((magnitudes >= BRIGHTEST) & (magnitudes <= top)).all(1))
        hits = self._hits(magnitudes[suspects], limits)
        cleaned = magnitudes.copy()
        cleaned[suspects] = settled(magnitudes[suspects], hits, limits)
        for hit in hits:
            if hit.kind is Missing.NOT_DETECTED and self.limits is not None:
                undetected[suspects] |= hit.where.any(1)
        return cleaned, undetected

    def _hits(self, magnitudes: Floats, limits: Floats | np.float32) -> list[Hit]:
        hits = marked(magnitudes, _NOT_FINITE if self.in_ab is False else MAGNITUDE_MARKERS)
        return hits + beyond(magnitudes, hits, limits) if self.in_ab else hits


def _in_ab(limits: Floats | None, magnitudes: Range | None) -> bool | None:
    """True for a model with limits, since those are of surveys; otherwise by the range of the training."""
    if limits is not None or magnitudes is None:
        return True if limits is not None else None
    low, high = magnitudes
    return bool((low >= BRIGHTEST).all() and (high <= FAINTEST).all())


def _content(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _part(content: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = content.get(name)
    return part if isinstance(part, dict) else {}


def _weight(recipe: Mapping[str, Any], name: str) -> float:
    weight = recipe.get(name)
    return float(weight) if isinstance(weight, int | float) else 0.0


def _numbers(value: Any, *shape: int) -> Floats | None:
    """An array of that shape; None for anything else."""
    try:
        array = np.array(value, np.float32)
    except (TypeError, ValueError, OverflowError):
        return None
    return array if array.shape == shape and np.isfinite(array).all() else None
