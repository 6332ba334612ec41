"""What a FITS header says about an image: the bands of its channels, pixel scale, zero point."""

from __future__ import annotations

import math
import warnings
from typing import Any

from astropy.wcs import WCS
from astropy.wcs.utils import proj_plane_pixel_scales

from cosmicai.data.sources.base import PIXEL_SCALE, ZERO_POINT, agree
from cosmicai.data.units import zero_point_of

_SCALES = ("PIXSCALE", "PIXSCAL", "PIXELSCL", "PXSCALE", "SECPIX", "PIXSCAL1")  # arcsec
_ZERO_POINTS = ("MAGZERO", "MAGZPT", "MAGZP", "ZPAB")
_BAND = ("FILTER", "FILTNAM", "FILTNAME", "BAND")


def bands_of(header: Any, channels: int) -> tuple[str, ...] | None:
    """Names of the channels; None if the header does not say them.

    BAND0, BAND1, … and BANDS are what the cut-out service of the Legacy Surveys writes.
    """
    if channels == 1:
        names = [str(header.get(key, "")).strip() for key in (*_BAND, "EXTNAME")]
        return next(((name,) for name in names if name), None)
    for key, first in (("BAND", 0), ("BAND", 1), ("FILTER", 1), ("FILTER", 0)):
        numbered = [str(header.get(f"{key}{first + index}", "")).strip() for index in range(channels)]
        if all(numbered):
            return tuple(numbered)
    for key in ("BANDS", "FILTERS"):
        text = str(header.get(key, "")).strip()
        listed = text.replace(",", " ").split()
        listed = list(text) if len(listed) == 1 and len(text) == channels else listed
        if len(listed) == channels:
            return tuple(listed)
    return None


def pixel_scale(header: Any) -> float | None:
    """Arcsec per pixel, by the header's world coordinates or by one of the usual keywords."""
    return next(iter(_pixel_scales(header).values()), None)


def _pixel_scales(header: Any) -> dict[str, float]:
    """By the keyword, or by the world coordinates."""
    scales = {key: float(header[key]) for key in _SCALES if _is_number(header.get(key)) and header[key] > 0}
    world = celestial(header)
    if world is not None:
        scale = math.sqrt(math.prod(proj_plane_pixel_scales(world))) * 3600
        scales |= {"the world coordinates": scale} if 0.001 < scale < 100 else {}
    return scales


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def celestial(header: Any) -> WCS | None:
    """The header's celestial coordinates, or None."""
    if not str(header.get("CTYPE1", "")).strip():
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about what astropy repairs in a header
        try:
            world = WCS(header)
            return world.celestial if world.has_celestial else None
        except (ValueError, MemoryError, KeyError, TypeError, AttributeError):
            return None


def zero_point(header: Any) -> float | None:
    """AB magnitude of a pixel value of 1, by BUNIT or by one of the usual keywords."""
    return next(iter(_zero_points(header).values()), None)


def _zero_points(header: Any) -> dict[str, float]:
    by_unit = zero_point_of(str(header.get("BUNIT", "")))
    stated = {} if by_unit is None else {"BUNIT": by_unit}
    values = {key: header.get(key) for key in _ZERO_POINTS}
    return stated | {key: float(value) for key, value in values.items() if _is_number(value) and value}


def conflicts(header: Any) -> dict[str, str]:
    """What the header states in two ways that differ, for `Column.conflicts`."""
    result = {}
    for what, stated in ((ZERO_POINT, _zero_points(header)), (PIXEL_SCALE, _pixel_scales(header))):
        values = list(stated.values())
        if not all(agree(what, value, values[0]) for value in values):
            listed = ", ".join(f"{value:.6g} by {key}" for key, value in stated.items())
            result[what] = f"the header states more than one {what}: {listed}"
    return result
