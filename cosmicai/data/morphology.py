"""Shapes of galaxies by luminosity, type and redshift, drawn from published relations.

Half-light radii: van der Wel et al. 2014 (ApJ 788, 28): R = A (M / 5e10 Msun)^a kpc along the major axis, for
late types A = 8.9 (1+z)^-0.75, a = 0.22, for early types A = 5.6 (1+z)^-1.48, a = 0.75, with a scatter of
0.16 and 0.10 dex; below 2e10 Msun the early types' relation is flat, as there and for SDSS in Shen et al.
2003 (MNRAS 343, 978). Type: the rest-frame colour u - r = 2.22 divides early from late types (Strateva et al.
2001, AJ 122, 1861). Stellar mass: M / L_g by u - g of Bell et al. 2003 (ApJS 149, 289, table 7), for a Kroupa
initial mass function. Axis ratios: discs are oblate with an intrinsic ratio of 0.25, early types with 0.3 to
0.9, seen from anywhere (Padilla and Strauss 2008, MNRAS 388, 1321; Holden et al. 2012, ApJ 749, 96). Bulges
are redder than discs (Kennedy et al. 2016, MNRAS 460, 3458); bulge fractions follow the decompositions of
Simard et al. 2011 (ApJS 196, 11). Cosmology: flat, H0 = 71 km/s/Mpc, Omega_m = 0.2648, as DC2 (Korytov et al.
2019, ApJS 245, 26).

Rest-frame magnitudes are interpolated between the observed bands; redward of the z band the flux density is
taken as constant, which makes galaxies beyond z = 0.9 lighter by a few tenths of a dex and their radii
smaller by 0.05.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]

BAND_ANGSTROM = (3671.0, 4827.0, 6223.0, 7546.0, 8691.0)  # effective wavelengths of LSST's u, g, r, i, z
_U, _G, _R = 3551.0, 4686.0, 6166.0  # of SDSS, in which the relations are given
_DIVIDING_COLOUR = (0.0, 1.5, 2.22)  # of early and late types: u - u, u - g, u - r
_COLOUR_SCATTER = 0.1  # mag: how sharply it divides
_SOLAR_G = 5.11  # absolute AB magnitude of the Sun in g, Willmer 2018, ApJS 236, 47
_PIVOT_MASS, _FLAT_MASS = 5e10, 2e10
_BULGE_REDDER = 0.3  # mag in g - r
_REDSHIFTS = np.concatenate([[0.0], np.geomspace(0.005, 6.0, 600)])


@dataclass(frozen=True)
class Morphology:
    """A bulge and a disc, both of half-light radii in arcsec along the major axis and of an axis ratio.

    bulge_fraction: of the flux, by band (5,). position_angle: radians. offset: of the centre, in pixels.
    """

    early: bool
    bulge_index: float
    bulge_radius: float
    bulge_axis_ratio: float
    disc_radius: float
    disc_axis_ratio: float
    bulge_fraction: Doubles
    position_angle: float
    offset: tuple[float, float]


@cache
def _distances() -> tuple[Doubles, Doubles]:
    """Luminosity distance (Mpc) and kpc per arcsec at _REDSHIFTS."""
    from astropy.cosmology import FlatLambdaCDM

    cosmology: Any = FlatLambdaCDM(H0=71.0, Om0=0.2648)
    z = np.maximum(_REDSHIFTS, 1e-4)
    return cosmology.luminosity_distance(z).value, cosmology.kpc_proper_per_arcmin(z).value / 60.0


def _rest_frame(magnitudes: Doubles, redshift: float, angstrom: float) -> tuple[float, float]:
    """Apparent magnitude at a rest-frame wavelength, and the rest-frame wavelength that the bands reach."""
    reached = min(angstrom, BAND_ANGSTROM[-1] / (1.0 + redshift))
    return float(np.interp(reached * (1.0 + redshift), BAND_ANGSTROM, magnitudes)), reached


def early_type_probability(magnitudes: Doubles, redshift: float) -> float:
    """By the reddest rest-frame colour from u up to u - r that the observed bands reach; 0 beyond z = 1.3."""
    blue, _ = _rest_frame(magnitudes, redshift, _U)
    red, reached = _rest_frame(magnitudes, redshift, _R)
    if reached < 1.06 * _U:
        return 0.0
    dividing = np.interp(np.log(reached), np.log([_U, _G, _R]), _DIVIDING_COLOUR)
    return float(1.0 / (1.0 + np.exp(-np.clip((blue - red - dividing) / _COLOUR_SCATTER, -50, 50))))


def stellar_mass(magnitudes: Doubles, redshift: float) -> float:
    """In solar masses."""
    blue, _ = _rest_frame(magnitudes, redshift, _U)
    green, _ = _rest_frame(magnitudes, redshift, _G)
    distance = np.interp(redshift, _REDSHIFTS, _distances()[0])
    # A flux density per frequency at a rest-frame wavelength is seen brighter by 1 + z (Hogg 2002, astro-
    # ph/0210394).
    absolute = green - 5.0 * np.log10(distance * 1e5) + 2.5 * np.log10(1.0 + redshift)
    mass_to_light = -0.221 + 0.485 * np.clip(blue - green, 0.0, 2.5) - 0.15
    return float(10.0 ** (mass_to_light - 0.4 * (absolute - _SOLAR_G)))


def half_light_radius(mass: float, redshift: float, early: bool) -> float:
    """The median along the major axis, kpc."""
    if early:
        return float(5.6 * (1 + redshift) ** -1.48 * (max(mass, _FLAT_MASS) / _PIVOT_MASS) ** 0.75)
    return float(8.9 * (1 + redshift) ** -0.75 * (mass / _PIVOT_MASS) ** 0.22)


def draw(magnitudes: Doubles, redshift: float, rng: np.random.Generator) -> Morphology:
    """One galaxy's shape; magnitudes (5,) are true AB magnitudes in u, g, r, i, z."""
    early = bool(rng.random() < early_type_probability(magnitudes, redshift))
    median = half_light_radius(stellar_mass(magnitudes, redshift), redshift, early)
    kpc = median * 10.0 ** rng.normal(0.0, 0.10 if early else 0.16)
    radius = float(np.clip(kpc / np.interp(redshift, _REDSHIFTS, _distances()[1]), 0.05, 3.0))
    thickness = float(np.clip(rng.normal(0.6, 0.15), 0.3, 0.9)) if early else 0.25
    ratio = float(
        np.sqrt(thickness**2 + (1.0 - thickness**2) * rng.random() ** 2)
    )  # cos(inclination) is uniform
    fraction = float(rng.beta(6.0, 1.5) if early else rng.beta(1.2, 6.0))
    return Morphology(
        early=early,
        bulge_index=4.0 if early else 2.0,
        bulge_radius=radius if early else 0.2 * radius,
        bulge_axis_ratio=ratio if early else 0.5 * (1.0 + ratio),
        disc_radius=1.5 * radius if early else radius,
        disc_axis_ratio=ratio,
        bulge_fraction=_by_band(fraction, redshift),
        position_angle=float(rng.uniform(0.0, np.pi)),
        offset=(float(rng.uniform(-0.5, 0.5)), float(rng.uniform(-0.5, 0.5))),
    )


def _by_band(fraction: float, redshift: float) -> Doubles:
    """The bulge's share of the light in each band, where `fraction` is that at 5000 Å in the rest frame."""
    steps = np.log(np.array(BAND_ANGSTROM) / (1.0 + redshift) / 5000.0) / np.log(_R / _G)
    odds = fraction / max(1.0 - fraction, 1e-3) * 10.0 ** (0.4 * _BULGE_REDDER * np.clip(steps, -3.0, 3.0))
    shares: Doubles = odds / (1.0 + odds)
    return shares
