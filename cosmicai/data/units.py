"""Units of flux, and magnitudes from fluxes."""

from __future__ import annotations

import math
import re
import warnings
from functools import cache

import numpy as np
from numpy.typing import NDArray

from initialize.contract import units
from initialize.contract.units import ZERO_POINTS, unit_of

__all__ = ["ZERO_POINTS", "is_light", "magnitudes", "unit_of", "zero_point_of"]


def magnitudes(fluxes: NDArray[np.float64], zero_point: float) -> NDArray[np.float64]:
    """AB magnitudes; +inf for a flux of zero or less."""
    with np.errstate(divide="ignore", invalid="ignore"):
        converted = zero_point - 2.5 * np.log10(np.where(fluxes > 0, fluxes, np.nan))
    return np.where(fluxes > 0, converted, np.where(np.isnan(fluxes), np.nan, np.inf))


_LIGHT = re.compile(r"jy|jansky|erg|mag|mgy|\bW\b")


@cache
def zero_point_of(unit: str) -> float | None:
    """AB magnitude of a flux of 1: of the usual units, and of others that are a multiple of Jy."""
    usual = units.zero_point_of(unit)
    return usual if usual is not None or not is_light(unit) else _by_astropy(unit)


def is_light(unit: str) -> bool:
    """Whether a unit measures light, unlike counts: MJy/sr, erg/s/cm2/Angstrom, mag."""
    return bool(_LIGHT.search(unit) or _LIGHT.search(unit.lower()))


def _by_astropy(unit: str) -> float | None:
    from astropy.units import Jy, Unit, UnitBase

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about how the unit is written
        parsed = Unit(unit.strip(), parse_strict="silent")
    if not isinstance(parsed, UnitBase) or not parsed.is_equivalent(Jy):  # mag(AB) is not a UnitBase
        return None
    return round(ZERO_POINTS["Jy"] - 2.5 * math.log10(parsed.to(Jy)), 3)
