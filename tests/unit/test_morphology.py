"""Galaxies have the sizes, shapes and types that are published, and their stamps show them."""

from __future__ import annotations

import numpy as np
import pytest
from astropy import units
from astropy.cosmology import FlatLambdaCDM

from cosmicai.data import dc2, morphology
from tests.conftest import CACHE


@pytest.mark.parametrize(
    ("mass", "redshift", "early", "kpc"),
    [  # van der Wel et al. 2014, table 1: log A at 5e10 solar masses, in bins of redshift around these
        (5e10, 0.25, False, 10**0.86),
        (5e10, 0.75, False, 10**0.78),
        (5e10, 1.25, False, 10**0.70),
        (5e10, 0.25, True, 10**0.60),
        (5e10, 0.75, True, 10**0.42),
        (5e10, 1.25, True, 10**0.22),
    ],
)
def test_radii_follow_the_published_table(mass: float, redshift: float, early: bool, kpc: float) -> None:
    assert morphology.half_light_radius(mass, redshift, early) == pytest.approx(kpc, rel=0.2)


def test_radii_grow_with_mass_as_published() -> None:
    ratio = {
        early: morphology.half_light_radius(5e11, 1.0, early) / morphology.half_light_radius(5e10, 1.0, early)
        for early in (True, False)
    }
    assert ratio == {True: pytest.approx(10**0.75), False: pytest.approx(10**0.22)}


def test_a_mass_is_that_of_the_relation_for_a_nearby_red_galaxy() -> None:
    """At redshift 0.1 the u and g of a flat step are read off, and the distance is astropy's."""
    magnitudes = np.array([20.0, 18.5, 17.8, 17.5, 17.3])
    distance = FlatLambdaCDM(H0=71, Om0=0.2648).luminosity_distance(0.1).to_value(units.pc)
    u, g = np.interp([3551 * 1.1, 4686 * 1.1], morphology.BAND_ANGSTROM, magnitudes)
    absolute = g - 5 * np.log10(distance / 10) + 2.5 * np.log10(1.1)
    expected = -0.221 + 0.485 * (u - g) - 0.15 - 0.4 * (absolute - 5.11)
    assert np.log10(morphology.stellar_mass(magnitudes, 0.1)) == pytest.approx(expected, abs=1e-4)


def test_red_galaxies_are_early_and_blue_ones_late() -> None:
    red, blue = np.array([22.4, 20.3, 19.4, 19.0, 18.8]), np.array([20.1, 19.5, 19.2, 19.0, 18.9])
    assert morphology.early_type_probability(red, 0.1) > 0.95
    assert morphology.early_type_probability(blue, 0.1) < 0.05
    assert morphology.early_type_probability(red, 2.0) == 0.0  # no rest-frame colour is in sight


def test_drawn_sizes_scatter_around_the_relation() -> None:
    magnitudes = np.array([24.6, 23.9, 23.2, 22.8, 22.6])
    drawn = [morphology.draw(magnitudes, 0.6, np.random.default_rng(i)) for i in range(2000)]
    late = [shape for shape in drawn if not shape.early]
    median = morphology.half_light_radius(morphology.stellar_mass(magnitudes, 0.6), 0.6, False)
    kpc_per_arcsec = FlatLambdaCDM(H0=71, Om0=0.2648).kpc_proper_per_arcmin(0.6).value / 60
    logs = np.log10([shape.disc_radius * kpc_per_arcsec / median for shape in late])
    assert logs.mean() == pytest.approx(0, abs=0.02)
    assert logs.std() == pytest.approx(0.16, abs=0.02)
    ratios = np.array([shape.disc_axis_ratio for shape in late])
    assert ratios.min() >= 0.25
    # A thick oblate disc of ratio q0, seen from anywhere: the mean of sqrt(q0² + (1 - q0²) u²) over u.
    u = np.linspace(0, 1, 10001)
    assert ratios.mean() == pytest.approx(np.sqrt(0.25**2 + (1 - 0.25**2) * u**2).mean(), abs=0.02)


def test_bulges_are_redder_than_discs() -> None:
    magnitudes = np.array([24.6, 23.9, 23.2, 22.8, 22.6])
    for seed in range(20):
        fraction = morphology.draw(magnitudes, 0.6, np.random.default_rng(seed)).bulge_fraction
        assert (np.diff(fraction) > 0).all()


def test_stamps_of_dc2_become_smaller_with_distance() -> None:
    """At one apparent magnitude, the distant half looks smaller: what an image tells beyond its fluxes."""
    catalogue = dc2.load("training", CACHE)
    rows = np.flatnonzero(np.abs(catalogue.magnitudes[:, 3] - 23.5) < 0.3)[:400]
    some = catalogue[rows]
    images = np.concatenate(list(dc2.render(some, 0)))[:, 3].astype(np.float64)
    y, x = np.mgrid[:32, :32] - 15.5
    within, radius = (x**2 + y**2 < 36), np.hypot(x, y)
    light = np.clip(images, 0, None) * within
    size = (light * radius).sum((1, 2)) / light.sum((1, 2))
    near = some.redshift < np.median(some.redshift)
    assert size[near].mean() > 1.03 * size[~near].mean()
