"""Units of flux, and magnitudes from fluxes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from initialize.contract.units import ZERO_POINTS, unit_of, zero_point_of

__all__ = ["ZERO_POINTS", "magnitudes", "unit_of", "zero_point_of"]


def magnitudes(fluxes: NDArray[np.float64], zero_point: float) -> NDArray[np.float64]:
    """AB magnitudes; +inf for a flux of zero or less."""
    with np.errstate(divide="ignore", invalid="ignore"):
        converted = zero_point - 2.5 * np.log10(np.where(fluxes > 0, fluxes, np.nan))
    return np.where(fluxes > 0, converted, np.where(np.isnan(fluxes), np.nan, np.inf))
