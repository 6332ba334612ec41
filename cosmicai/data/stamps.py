"""Postage stamps drawn with GalSim: what a survey camera would have recorded of a galaxy.

Each galaxy is a bulge plus a disc (cosmicai.data.morphology), convolved with the band's PSF. The pixel noise
is the one at which an optimal (matched-filter) flux measurement has just the catalogue's error: for a profile
P of unit sum and white pixel noise s, that error is sigma_F = s / sqrt(sum(P**2)) (Horne 1986, PASP 98, 609).
"""

from __future__ import annotations

import galsim
import numpy as np
from numpy.typing import NDArray

from cosmicai.data import morphology
from cosmicai.data.morphology import Morphology

Floats = NDArray[np.float32]

BANDS = "ugriz"
STAMP_PIXELS = 32
PIXEL_ARCSEC = 0.2  # LSST camera, Ivezic et al. 2019, ApJ 873, 111
ZERO_POINT = 27.0  # AB magnitude of a flux of 1
PSF_FWHM_ARCSEC = {"u": 0.92, "g": 0.87, "r": 0.83, "i": 0.80, "z": 0.78}  # ibid., table 2
_FAST = galsim.GSParams(folding_threshold=2e-2, maxk_threshold=1e-2, kvalue_accuracy=1e-4)
_PSFS = [galsim.Kolmogorov(fwhm=PSF_FWHM_ARCSEC[band], gsparams=_FAST) for band in BANDS]


def flux(magnitude: NDArray[np.floating]) -> NDArray[np.float64]:
    """Linear flux of AB magnitudes at ZERO_POINT, any shape."""
    return np.power(10.0, -0.4 * (np.asarray(magnitude, np.float64) - ZERO_POINT))


def flux_error(magnitude: NDArray[np.floating], magnitude_error: NDArray[np.floating]) -> NDArray[np.float64]:
    """Standard error of the flux that belongs to a magnitude error, sigma_F = F sigma_m ln(10)/2.5."""
    return flux(magnitude) * np.asarray(magnitude_error, np.float64) * (np.log(10.0) / 2.5)


def render(
    identifier: int, magnitudes: Floats, errors: Floats, detected: NDArray[np.bool_], redshift: float, seed: int
) -> Floats:
    """One galaxy as an array (5, 32, 32) of linear fluxes.

    magnitudes (true AB magnitudes) and errors have shape (5,) in the order of BANDS; a band that is not
    `detected` holds noise alone, at the level of its limiting magnitude. The same identifier and seed give
    the same bytes, whatever else is rendered in the same call.
    """
    rng = np.random.default_rng([seed, identifier])
    shape = morphology.draw(np.asarray(magnitudes, np.float64), redshift, rng)
    stamp = np.empty((len(BANDS), STAMP_PIXELS, STAMP_PIXELS), np.float32)
    fluxes = np.where(detected, flux(magnitudes), 0.0)
    sigmas = flux_error(magnitudes, errors)
    bulge, disc = _profiles(shape)
    for index, psf in enumerate(_PSFS):
        share = float(shape.bulge_fraction[index])
        unit = _drawn(galsim.Convolve(share * bulge + (1.0 - share) * disc, psf, gsparams=_FAST), shape.offset)
        noise = sigmas[index] * np.sqrt(np.sum(unit**2))
        stamp[index] = fluxes[index] * unit + rng.normal(0.0, noise, unit.shape)
    return stamp


def _profiles(shape: Morphology) -> tuple[galsim.GSObject, galsim.GSObject]:
    """Bulge and disc of unit flux."""
    angle = shape.position_angle * galsim.radians

    def seen(profile: galsim.GSObject, ratio: float) -> galsim.GSObject:
        # A shear keeps the area: the circular radius is the geometric mean of the two axes.
        return profile.shear(q=ratio, beta=angle)

    bulge_radius = shape.bulge_radius * shape.bulge_axis_ratio**0.5
    disc_radius = shape.disc_radius * shape.disc_axis_ratio**0.5
    bulge = galsim.Sersic(shape.bulge_index, half_light_radius=bulge_radius, gsparams=_FAST)
    disc = galsim.Exponential(half_light_radius=disc_radius, gsparams=_FAST)
    return seen(bulge, shape.bulge_axis_ratio), seen(disc, shape.disc_axis_ratio)


def _drawn(profile: galsim.GSObject, offset: tuple[float, float]) -> NDArray[np.float64]:
    """The noise-free profile, shape (32, 32), of unit sum."""
    image = profile.drawImage(
        nx=STAMP_PIXELS, ny=STAMP_PIXELS, scale=PIXEL_ARCSEC, offset=offset, dtype=np.float64
    )
    pixels: NDArray[np.float64] = image.array
    return pixels / pixels.sum()
