"""Values that are not measurements: one table of the markers that surveys use, and what each becomes.

`cosmicai data prepare`, training and the ranks use it. Standard library only.

Not detected: the survey looked and saw nothing, so the band gets the model's limiting magnitude, as in
training.
Not observed: nothing is known, so the value is NaN, and the galaxy is flagged where redshifts are computed.
"""

from __future__ import annotations

import math
import struct
from enum import StrEnum

# AB magnitudes of galaxies: the deepest JWST fields end at 32, M31 alone is at 4.
FAINTEST, BRIGHTEST = 36.0, 8.0


class Missing(StrEnum):
    """Why there is no value."""

    NOT_DETECTED = "not detected"
    NOT_OBSERVED = "not observed"
    UNUSABLE = "unusable"


# Of magnitudes. 99 and -99: BPZ (Benitez 2000, ApJ 536, 571) and SExtractor; -9999: SDSS; NaN and masked:
# either, so the one that claims less; +inf: a flux of zero; 0 and -1: columns that were never filled.
MAGNITUDE_MARKERS: dict[float, Missing] = {
    **dict.fromkeys((99.0, 99.9, 99.99, 99.999, 999.0, math.inf), Missing.NOT_DETECTED),
    **dict.fromkeys((-99.0, -99.9, -999.0, -9999.0, -99999.0, 9999.0, -9.0, -1.0, 0.0), Missing.NOT_OBSERVED),
    math.nan: Missing.NOT_OBSERVED,
    -math.inf: Missing.UNUSABLE,
}
# Of fluxes, where a negative value is a measurement without a detection, and exactly 0 one without an exposure.
FLUX_MARKERS: dict[float, Missing] = {
    **dict.fromkeys((-99.0, -999.0, -9999.0, -99999.0, 0.0), Missing.NOT_OBSERVED),
    math.nan: Missing.NOT_OBSERVED,
    math.inf: Missing.UNUSABLE,
    -math.inf: Missing.UNUSABLE,
}
REDSHIFT_MARKERS = (99.0, 99.9, 99.99, 999.0, 9999.0)  # and whatever is not finite or at most -1
LEAST_REDSHIFT = -1.0  # a redshift of -1 is an infinite blueshift, -9 and -9999 are markers


def _as_float32(value: float) -> float:
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


MARKED_REDSHIFTS = frozenset([*REDSHIFT_MARKERS, *map(_as_float32, REDSHIFT_MARKERS)])
"""REDSHIFT_MARKERS as columns of float64 and of float32 hold them."""


def is_known(redshift: float) -> bool:
    """Whether a true redshift is usable: finite, above -1 (errors are divided by 1 + z), and not a marker."""
    return LEAST_REDSHIFT < redshift < math.inf and redshift not in MARKED_REDSHIFTS
