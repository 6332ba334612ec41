"""What looks wrong in galaxies that can be read: order of bands, zero point, saturation, zeros."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

Doubles = NDArray[np.float64]

_LEAST_GALAXIES = 10  # with fewer, medians and scatters say nothing
_BRIGHT_SHARE = 0.5  # of the galaxies: the brighter half is compared, where noise matters least
_ORDER_GAIN = 0.7  # another order must have at most this share of the scatter of the given one
_OFFSET = 1.5  # mag: more than a circle misses of most galaxies; zero points in use are 2 or more apart
_COMPACT = 0.9  # of the galaxies are larger than those that show the zero point
_BAND_OFFSET = 1.0  # mag between bands, whose seeing differs
_FLAT_PIXELS = 4  # at a stamp's greatest value: a core that was cut off
_ROUND = 1e-5  # mag from two decimals: markers are round numbers
_REPEATED = 2  # galaxies with the same extreme magnitude
_SHARE = 0.02  # of the galaxies: a fault in more than this share is reported


def stamp_magnitudes(images: NDArray[np.float32], zero_point: float) -> Doubles:
    """Magnitudes (n, C) of the light in a circle of 3/4 of the stamp's width, above the median of its rim.

    NaN if there is none.
    """
    side = images.shape[-1]
    grid = np.hypot(*(np.mgrid[:side, :side] - (side - 1) / 2))
    inside, rim = grid <= side * 0.375, grid >= side / 2 - 1
    flat = images.reshape(*images.shape[:2], -1).astype(np.float64)
    sky = np.median(flat[:, :, rim.reshape(-1)], -1)
    light = flat[:, :, inside.reshape(-1)].sum(-1) - sky * inside.sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(light > 0, zero_point - 2.5 * np.log10(light), np.nan)


def flat_cores(images: NDArray[np.float32]) -> NDArray[np.bool_]:
    """(n,): whether several pixels of a stamp have its very greatest value, as saturation makes them."""
    flat = images.reshape(*images.shape[:2], -1)
    with np.errstate(invalid="ignore"):
        greatest = flat.max(-1, keepdims=True)
        many = ((flat == greatest) & (greatest > 0)).sum(-1) >= _FLAT_PIXELS
    return many.any(-1)


def warnings(
    stamps: Doubles,
    magnitudes: Doubles,
    bands: Sequence[str],
    zero_point: float,
    saturated: int,
    zeros: Sequence[int],
) -> list[str]:
    """Sentences for the user. stamps: of `stamp_magnitudes`; zeros: stamps without light, by channel."""
    count = len(magnitudes)
    sentences = []
    if zeros and min(zeros) == count > 0:
        sentences.append("all images are zero")
    else:
        sentences += [
            f"band {band}: all images are zero" for band, n in zip(bands, zeros, strict=True) if n == count > 0
        ]
        some = [f"{n} in {band}" for band, n in zip(bands, zeros, strict=True) if count > n > _SHARE * count]
        sentences += [f"images that are all zero: {', '.join(some)} of {count}"] if some else []
    if saturated > _SHARE * count:
        sentences.append(
            f"{saturated} of {count} galaxies look saturated: several pixels have the same greatest value"
        )
    if stamps.shape == magnitudes.shape and len(bands) > 1:
        sentences += _photometric(stamps, magnitudes, bands, zero_point)
    return sentences


def _photometric(stamps: Doubles, magnitudes: Doubles, bands: Sequence[str], zero_point: float) -> list[str]:
    good = np.isfinite(stamps).all(1) & np.isfinite(magnitudes).all(1)
    if good.sum() < _LEAST_GALAXIES:
        return []
    stamps, magnitudes = stamps[good], magnitudes[good]
    bright = magnitudes.mean(1) <= np.quantile(magnitudes.mean(1), _BRIGHT_SHARE)
    stamps, magnitudes = stamps[bright], magnitudes[bright]
    order = _best_order(stamps, magnitudes)
    if order is not None:
        read = ", ".join(bands[index] for index in order)
        return [
            f"the bands look interchanged: compared with the magnitudes, the channels of {', '.join(bands)} "
            f"hold {read}: give --bands"
        ]
    difference = magnitudes - stamps
    # A stamp lacks light of large galaxies: the most compact ones show the zero point.
    offset = float(np.median(np.quantile(difference, _COMPACT, axis=0)))
    offsets = np.median(difference, 0)
    sentences = []
    if abs(offset) > _OFFSET:
        sentences.append(
            "compared with the magnitudes, the images look like fluxes of zero point "
            f"{zero_point + offset:.0f} or so, not {zero_point:g}: give --pixel-unit or --pixel-zero-point"
        )
    apart = offsets - np.median(offsets)
    odd = [
        f"{band} by {value:+.1f} mag"
        for band, value in zip(bands, apart, strict=True)
        if abs(value) > _BAND_OFFSET
    ]
    if odd:
        sentences.append(f"images and magnitudes differ from the other bands in {', '.join(odd)}")
    return sentences


def _best_order(stamps: Doubles, magnitudes: Doubles) -> list[int] | None:
    """Which band each channel holds, if that fits the colours clearly better than the order given."""
    light = stamps - stamps.mean(1, keepdims=True)
    listed = magnitudes - magnitudes.mean(1, keepdims=True)
    difference = light[:, :, None] - listed[:, None, :]
    scatter = np.median(np.abs(difference - np.median(difference, 0)), 0) + np.abs(np.median(difference, 0))
    rows, columns = linear_sum_assignment(scatter)
    if (rows == columns).all() or scatter[rows, columns].sum() > _ORDER_GAIN * np.trace(scatter):
        return None
    return [int(column) for column in columns]


def repeated_extremes(
    magnitudes: NDArray[np.float32], bands: Sequence[str], limits: Sequence[float] | None
) -> list[str]:
    """A sentence for each band whose faintest or brightest value several galaxies share, as markers are shared.

    limits: the magnitudes of undetected galaxies, which they do share.
    """
    sentences = []
    for place, band in enumerate(bands):
        known = magnitudes[:, place][np.isfinite(magnitudes[:, place])]
        if limits is not None:
            known = known[known != np.float32(limits[place])]
        for value in {known.min(), known.max()} if known.size else ():
            count = int((known == value).sum())
            if count >= _REPEATED and abs(value - round(float(value), 2)) < _ROUND:
                sentences.append(
                    f"{count} galaxies have the same extreme magnitude {value:g} in {band}: if it is a "
                    f"marker, give --missing {value:g}=not-detected or {value:g}=not-observed"
                )
    return sentences
