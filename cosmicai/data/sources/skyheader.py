"""What a FITS header says about an image: the bands of its channels, pixel scale, zero point."""

from __future__ import annotations

import math
import warnings
from typing import Any

from astropy.wcs import WCS
from astropy.wcs.utils import proj_plane_pixel_scales

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
    for key in _SCALES:
        if isinstance(header.get(key), int | float) and header[key] > 0:
            return float(header[key])
    world = celestial(header)
    if world is None:
        return None
    scale = math.sqrt(math.prod(proj_plane_pixel_scales(world))) * 3600
    return scale if 0.001 < scale < 100 else None


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
    known = zero_point_of(str(header.get("BUNIT", "")))
    if known is not None:
        return known
    values = (header.get(key) for key in _ZERO_POINTS)
    return next((float(value) for value in values if isinstance(value, int | float) and value), None)
