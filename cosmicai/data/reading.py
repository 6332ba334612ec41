"""What the user states about a source: names of columns, bands, units, sizes, markers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from inference.contract.missing import Missing

Fit = Literal["scale", "crop", "resize"]
BadPixels = Literal["keep", "zero"]


@dataclass(frozen=True)
class Columns:
    """Names in the source; None: by the usual names.

    images: one name of images of all bands, or one for each band; * matches any text. magnitudes: one
    column (N, M), or one for each band. redshift: "none" for none. mask: pixels that are not 0 are bad; ivar:
    pixels that are 0 are. ids: "none" for row numbers. keep: columns that go into the results.
    """

    images: tuple[str, ...] | None = None
    magnitudes: tuple[str, ...] | None = None
    redshift: str | None = None
    mask: tuple[str, ...] | None = None
    ivar: tuple[str, ...] | None = None
    ids: str | None = None
    keep: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Reading:
    """How a source is read. None: as the source states, else as the model has it, which is then reported.

    bands: of the source's channels, in its order. pixel_scale: arcsec. pixel_zero_point: AB magnitude of a
    pixel value of 1. flux_zero_point: the magnitude columns hold fluxes, and this is the AB magnitude of 1.
    missing: markers in addition to the usual ones. limits: magnitudes of what is not detected, by band. filled:
    bands of the model that the source may lack. bad_pixels: NaN or masked ones stay NaN or become 0. pad:
    smaller stamps get a rim of zeros. drop_unusable: galaxies with a bad pixel or no magnitude are left out.
    catalogue: a file with more columns of the same galaxies.
    """

    columns: Columns = Columns()
    bands: tuple[str, ...] | None = None
    fit: Fit = "scale"
    pad: bool = False
    pixel_scale: float | None = None
    pixel_zero_point: float | None = None
    flux_zero_point: float | None = None
    missing: Mapping[float, Missing] = field(default_factory=dict)
    limits: tuple[float, ...] | None = None
    filled: tuple[str, ...] = ()
    bad_pixels: BadPixels = "keep"
    drop_unusable: bool = False
    catalogue: Path | None = None
