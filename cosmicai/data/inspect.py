"""Looking into a file of galaxies: figures of its arrays, and its stamps in colour."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from astropy.visualization import make_lupton_rgb
from matplotlib import pyplot as plt

from cosmicai.data.sources import Array, Columns, blocks

_ROWS = 512  # read at once
_SHEET = 8  # stamps along each side of a contact sheet
_RED, _GREEN, _BLUE = 3, 2, 1  # i, r and g of ugriz


class _Figures:
    """Range of one array, gathered block by block; the median is that of the first block."""

    def __init__(self) -> None:
        self.rows, self.bad = 0, 0
        self.least, self.greatest, self.median = np.inf, -np.inf, np.nan
        self.shape: tuple[int, ...] = ()
        self.kind = ""

    def add(self, array: Array) -> None:
        finite = array[np.isfinite(array)]
        if not self.rows:
            self.shape, self.kind = array.shape[1:], str(array.dtype)
            self.median = float(np.median(finite)) if finite.size else np.nan
        self.rows += len(array)
        self.bad += array.size - finite.size
        if finite.size:
            self.least = min(self.least, float(finite.min()))
            self.greatest = max(self.greatest, float(finite.max()))


def describe(source: Path, columns: Columns = Columns()) -> Iterator[tuple[str, ...]]:  # noqa: B008
    """A row per array: name, shape, type, least, median, greatest, how many values are not finite."""
    figures: dict[str, _Figures] = {}
    for block in blocks(source, columns, _ROWS):
        for name in ("images", "magnitudes", "redshift"):
            array = getattr(block, name)
            if array is not None:
                figures.setdefault(name, _Figures()).add(array)
    for name, found in figures.items():
        shape = f"({', '.join(map(str, (found.rows, *found.shape)))})"
        numbers = (f"{value:.4g}" for value in (found.least, found.median, found.greatest))
        yield name, shape, found.kind, *numbers, str(found.bad)


def contact_sheet(source: Path, path: Path, columns: Columns = Columns()) -> None:  # noqa: B008
    """A PNG of the first 64 stamps in colour: i, r and g as red, green and blue (Lupton et al. 2004,
    PASP 116, 133), each stretched by its own noise, with its redshift where known."""
    block = next(blocks(source, columns, _SHEET**2))
    figure, axes = plt.subplots(_SHEET, _SHEET, figsize=(8, 8.6), layout="constrained")
    for place in axes.flat:
        place.axis("off")
    for index, place in enumerate(axes.flat[: len(block)]):
        stamp = np.nan_to_num(np.asarray(block.images[index], np.float64))
        bands = stamp[[_RED, _GREEN, _BLUE]]
        noise = 1.48 * float(np.median(np.abs(bands - np.median(bands)))) or 1.0
        place.imshow(make_lupton_rgb(*bands, stretch=6 * noise, Q=8, minimum=-noise), origin="lower")
        if block.redshift is not None:
            place.set_title(f"z {block.redshift[index]:.2f}", fontsize=7, pad=2)
    figure.suptitle(f"{source.name}: the first {len(block)} galaxies")
    figure.savefig(path, dpi=120)
    plt.close(figure)
