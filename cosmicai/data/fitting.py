"""Stamps of any size and pixel scale as those of the model, with flux conserved.

A resampled pixel holds the integral of the light over its area. The light is interpolated by the cubic spline
of its sum from the stamp's edge on, one axis after the other, so that sums are kept whatever the two grids are.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

from cosmicai.data.reading import Fit
from initialize.contract.photometry import SAME_SCALE

Floats = NDArray[np.float32]
_BAD_SHARE = 0.1  # of a new pixel's area: with more of it on bad pixels it is bad


class FitError(ValueError):
    """Stamps cannot become those of the model; the message names sizes, scales and options."""


@dataclass(frozen=True)
class Plan:
    """What is done to stamps of (height, width): resampled by `zoom`, then cropped to `size`.

    zoom: new pixels to an old one; 1 leaves pixels as they are. padding: pixels of zeros on each side, before
    anything else.
    """

    size: int
    height: int
    width: int
    zoom: float = 1.0
    padding: int = 0

    def described(self) -> str:
        steps = []
        if self.padding:
            steps.append(f"{self.padding} pixels of zeros are added on each side")
        if self.zoom != 1:
            steps.append(f"resampled by a factor of {self.zoom:.4g}, flux conserved")
        if min(self.height, self.width) * self.zoom > self.size + 0.5:
            steps.append(f"cropped to the central {self.size}×{self.size}")
        return f"{self.height}×{self.width}: " + (", ".join(steps) if steps else "used as they are")


def plan(
    height: int, width: int, size: int, fit: Fit, scale: float | None, target: float | None, pad: bool
) -> Plan:
    """How stamps of (height, width) pixels of `scale` arcsec become (size, size) of `target` arcsec.

    Without both scales only stamps of the right size are accepted, unless `fit` says what to do.
    Raises FitError.
    """
    side = min(height, width)
    if fit == "resize":
        if height != width:
            raise FitError(f"stamps are {height}×{width}: --fit resize needs square ones; give --fit crop")
        zoom = size / side
    elif fit == "crop" or scale is None or target is None:
        zoom = 1.0
        if fit == "scale" and (height, width) != (size, size):
            raise FitError(_unknown(height, width, size, scale, target))
    else:
        zoom = scale / target
        if abs(zoom - 1) < SAME_SCALE:
            zoom = 1.0
    return _padded(Plan(size, height, width, zoom), pad, scale)


def _unknown(height: int, width: int, size: int, scale: float | None, target: float | None) -> str:
    lacking = "their pixel scale is not known" if scale is None else "the model's card has no pixel scale"
    options = (
        ["--pixel-scale ARCSEC to resample them to the model's pixels"] if scale is None and target else []
    )
    options += ["--fit crop if their pixels are the model's", "--fit resize to squeeze the whole stamp"]
    sizes = f"stamps are {height}×{width}, the model takes {size}×{size}"
    return f"{sizes}, and {lacking}: give {', or '.join(options)}"


def _padded(unpadded: Plan, pad: bool, scale: float | None) -> Plan:
    covered = min(unpadded.height, unpadded.width) * unpadded.zoom
    if covered >= unpadded.size - 1e-6:
        return unpadded
    padding = int(np.ceil((unpadded.size / unpadded.zoom - min(unpadded.height, unpadded.width)) / 2))
    if pad:
        return Plan(
            unpadded.size, unpadded.height + 2 * padding, unpadded.width + 2 * padding, unpadded.zoom, padding
        )
    at = f' of {scale:g}"' if scale and unpadded.zoom != 1 else ""
    raise FitError(
        f"stamps are {unpadded.height}×{unpadded.width} pixels{at}, which cover {covered:.4g} pixels of the "
        f"model's; it takes {unpadded.size}×{unpadded.size}: cut larger stamps, or give --pad to surround them "
        "with zeros"
    )


def fitted(images: Floats, how: Plan) -> Floats:
    """Images (n, C, H, W) as (n, C, size, size), float32; a pixel on bad ones (NaN) is NaN."""
    if how.padding:
        side = (how.padding, how.padding)
        images = np.pad(images, ((0, 0), (0, 0), side, side))
    if how.zoom == 1:
        top, left = (how.height - how.size) // 2, (how.width - how.size) // 2
        return images[:, :, top : top + how.size, left : left + how.size]
    return _resampled(images, how)


def _resampled(images: Floats, how: Plan) -> Floats:
    rows, columns = (_integrals(side, how.size, how.zoom) for side in (how.height, how.width))
    bad = ~np.isfinite(images)
    if not bad.any():
        return _product(rows, images, columns)
    touched = bad.any((1, 2, 3))
    result = _product(rows, np.where(bad, np.float32(0), images), columns)
    shares = (_overlaps(side, how.size, how.zoom) for side in (how.height, how.width))
    covered = _product(next(shares), bad[touched].astype(np.float32), next(shares))
    result[touched] = np.where(covered > _BAD_SHARE, np.float32(np.nan), result[touched])
    return result


def _product(rows: Floats, images: Floats, columns: Floats) -> Floats:
    return np.matmul(np.matmul(rows, images), columns.T)


def _edges(side: int, size: int, zoom: float) -> NDArray[np.float64]:
    """Edges of the new pixels in old ones, both grids centred on one point."""
    edges = side / 2 + (np.arange(size + 1) - size / 2) / zoom
    return np.clip(edges, 0, side)


@cache
def _integrals(side: int, size: int, zoom: float) -> Floats:
    """(size, side): what a new pixel gets of each old one."""
    sums = np.vstack([np.zeros(side), np.cumsum(np.eye(side), axis=0)])
    spline = CubicSpline(np.arange(side + 1), sums, axis=0)
    return np.diff(spline(_edges(side, size, zoom)), axis=0).astype(np.float32)


@cache
def _overlaps(side: int, size: int, zoom: float) -> Floats:
    """(size, side): the share of a new pixel that each old one covers."""
    edges = _edges(side, size, zoom)
    low, high = edges[:-1, None], edges[1:, None]
    pixel = np.arange(side)
    overlap = np.clip(np.minimum(high, pixel + 1) - np.maximum(low, pixel), 0, None)
    return (overlap * zoom).astype(np.float32)
