"""Units of flux and their zero points. Uses only the standard library."""

from __future__ import annotations

import re

# AB magnitude of a flux of 1 (Oke & Gunn 1983, ApJ 266, 713: 0 mag is 3631 Jy)
_JANSKY = 8.9  # 2.5 log10(3631), rounded as catalogues do
ZERO_POINTS = {
    "maggies": 0.0,
    "nanomaggies": 22.5,
    "Jy": _JANSKY,
    "mJy": _JANSKY + 7.5,
    "uJy": _JANSKY + 15,
    "nJy": _JANSKY + 22.5,
}
_NAMES = {
    "maggy": "maggies",
    "mgy": "maggies",
    "nanomaggy": "nanomaggies",
    "nmgy": "nanomaggies",
    "nmaggy": "nanomaggies",
    "nmaggies": "nanomaggies",
    "jansky": "Jy",
    "janskys": "Jy",
    "microjansky": "uJy",
    "microjy": "uJy",
    "µjy": "uJy",
    "μjy": "uJy",
    "nanojansky": "nJy",
    "nanojy": "nJy",
    "millijansky": "mJy",
} | {name.lower(): name for name in ZERO_POINTS}


def zero_point_of(unit: str) -> float | None:
    """AB magnitude of a flux of 1 in a unit, as files and people write it; None for an unknown unit."""
    text = re.sub(r"\s*(/|per)\s*pix(el)?$", "", unit.strip(), flags=re.IGNORECASE)
    name = _NAMES.get(text.lower())
    return None if name is None else ZERO_POINTS[name]


def unit_of(zero_point: float) -> str:
    """The unit of fluxes with this zero point, in words."""
    names = [name for name, value in ZERO_POINTS.items() if abs(value - zero_point) < 1e-6]
    return names[0] if names else f"linear flux, AB zero point {zero_point:g}"
