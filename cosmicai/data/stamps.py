"""Postage stamps drawn with GalSim from photometry: what a survey camera would have recorded.

Each galaxy is a bulge plus a disc whose sizes, shapes and bulge fraction are drawn by magnitude and
colour, convolved with the band's PSF. The pixel noise is the one at which an optimal (matched-filter)
flux measurement has just the catalogue's magnitude error: for a profile P of unit sum and white pixel
noise s, that error is sigma_F = s / sqrt(sum(P**2)) (Horne 1986, PASP 98, 609).
"""

from __future__ import annotations

import galsim
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

BANDS = "ugriz"
STAMP_PIXELS = 32
PIXEL_ARCSEC = 0.2  # LSST camera, Ivezic et al. 2019, ApJ 873, 111
ZERO_POINT = 27.0  # AB magnitude of a flux of 1
PSF_FWHM_ARCSEC = {"u": 0.92, "g": 0.87, "r": 0.83, "i": 0.80, "z": 0.78}  # ibid., table 2
BULGE_SERSIC_INDEX = 3.0
_FAST = galsim.GSParams(folding_threshold=2e-2, maxk_threshold=1e-2, kvalue_accuracy=1e-4)
_PSFS = [galsim.Kolmogorov(fwhm=PSF_FWHM_ARCSEC[band], gsparams=_FAST) for band in BANDS]


def flux(magnitude: NDArray[np.floating]) -> NDArray[np.float64]:
    """Linear flux of AB magnitudes at ZERO_POINT, any shape."""
    return np.power(10.0, -0.4 * (np.asarray(magnitude, np.float64) - ZERO_POINT))


def flux_error(magnitude: NDArray[np.floating], magnitude_error: NDArray[np.floating]) -> NDArray[np.float64]:
    """Standard error of the flux that belongs to a magnitude error, sigma_F = F sigma_m ln(10)/2.5."""
    return flux(magnitude) * np.asarray(magnitude_error, np.float64) * (np.log(10.0) / 2.5)


def render(
    identifier: int, magnitudes: Floats, errors: Floats, detected: NDArray[np.bool_], seed: int
) -> Floats:
    """One galaxy as an array (5, 32, 32) of linear fluxes.

    magnitudes and errors have shape (5,) in the order of BANDS; a band that is not `detected` holds
    noise alone, at the level of its limiting magnitude. The same identifier and seed give the same
    bytes, whatever else is rendered in the same call.
    """
    rng = np.random.default_rng([seed, identifier])
    shape = _Morphology(magnitudes, rng)
    stamp = np.empty((len(BANDS), STAMP_PIXELS, STAMP_PIXELS), np.float32)
    fluxes = np.where(detected, flux(magnitudes), 0.0)
    sigmas = flux_error(magnitudes, errors)
    for index, psf in enumerate(_PSFS):
        unit = shape.draw(psf, index)
        noise = sigmas[index] * np.sqrt(np.sum(unit**2))
        stamp[index] = fluxes[index] * unit + rng.normal(0.0, noise, unit.shape)
    return stamp


class _Morphology:
    """Bulge and disc of one galaxy, drawn from `rng` by its magnitude and colour."""

    def __init__(self, magnitudes: Floats, rng: np.random.Generator) -> None:
        i_band, colour = float(magnitudes[3]), float(magnitudes[1] - magnitudes[3])
        radius = 0.30 * 10 ** (-0.11 * (i_band - 24.0)) * float(np.exp(rng.normal(0.0, 0.35)))
        radius = float(np.clip(radius, 0.08, 1.3))  # half-light radius, arcsec
        shear = galsim.Shear(g=min(float(rng.rayleigh(0.22)), 0.7), beta=rng.uniform(0, np.pi) * galsim.radians)
        redness = 1.0 / (1.0 + np.exp(-2.5 * (colour - 1.4)))
        self._bulge_fraction = float(rng.beta(1.0 + 3.0 * redness, 4.0 - 2.5 * redness))
        self._bulge = galsim.Sersic(BULGE_SERSIC_INDEX, half_light_radius=0.6 * radius, gsparams=_FAST)
        self._disc = galsim.Exponential(half_light_radius=radius, gsparams=_FAST)
        self._shear = shear
        self._offset = tuple(float(x) for x in rng.uniform(-0.5, 0.5, 2))  # sub-pixel position

    def draw(self, psf: galsim.GSObject, band: int) -> NDArray[np.float64]:
        """The noise-free profile in one band, shape (32, 32), of unit sum."""
        fraction = self._bulge_fraction * (0.6 + 0.2 * band)  # bulges are redder than discs
        fraction = min(fraction / (1.0 - self._bulge_fraction + fraction), 1.0)
        galaxy = fraction * self._bulge + (1.0 - fraction) * self._disc
        image = galsim.Convolve(galaxy.shear(self._shear), psf, gsparams=_FAST).drawImage(
            nx=STAMP_PIXELS, ny=STAMP_PIXELS, scale=PIXEL_ARCSEC, offset=self._offset, dtype=np.float64
        )
        pixels: NDArray[np.float64] = image.array
        return pixels / pixels.sum()
