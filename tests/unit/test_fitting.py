"""Stamps of any size and scale keep their light and their place."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosmicai.data.fitting import FitError, Plan, fitted, plan


def _blob(side: int, sigma: float, at: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    """A Gaussian of unit flux, `at` from the stamp's centre, each pixel the value at its centre."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    light = np.exp(-((x - at[1]) ** 2 + (y - at[0]) ** 2) / (2 * sigma**2)) / (2 * np.pi * sigma**2)
    return light[None, None].astype(np.float32)


@given(st.integers(20, 70), st.floats(0.4, 2.5))
def test_light_is_conserved_whatever_the_scales_are(side: int, zoom: float) -> None:
    size = int(np.floor(side * zoom))
    rng = np.random.default_rng(side)
    images = rng.normal(0, 1, (2, 3, side, side)).astype(np.float32)
    images[:, :, :4], images[:, :, -4:] = 0, 0
    images[:, :, :, :4], images[:, :, :, -4:] = 0, 0
    new = fitted(images, Plan(size, side, side, zoom))
    assert new.shape == (2, 3, size, size)
    lost = side - size / zoom  # at most a new pixel's width of the empty rim
    assert lost < 1 / zoom + 1e-9
    assert np.abs(new.sum((2, 3)) - images.sum((2, 3))).max() < 0.02 * np.abs(images).sum((2, 3)).max()


@pytest.mark.parametrize(
    ("scale", "target"), [(0.396, 0.2), (0.262, 0.2), (0.168, 0.2), (0.1, 0.25), (0.2, 0.2)]
)
def test_a_galaxy_keeps_flux_size_and_place_in_arcsec(scale: float, target: float) -> None:
    side = 96
    sigma, at = 1.0, (1.3, -0.7)  # arcsec
    image = _blob(side, sigma / scale, (at[0] / scale, at[1] / scale))
    new = fitted(image, plan(side, side, 32, "scale", scale, target, pad=False))[0, 0].astype(np.float64)
    expected = _blob(32, sigma / target, (at[0] / target, at[1] / target))[0, 0].astype(np.float64)
    assert np.abs(new - expected).max() < 0.02 * expected.max()
    y, x = (np.mgrid[:32, :32] - 15.5) * target
    assert (new * y).sum() / new.sum() == pytest.approx((expected * y).sum() / expected.sum(), abs=0.01)
    assert (new * x).sum() / new.sum() == pytest.approx((expected * x).sum() / expected.sum(), abs=0.01)


def test_whole_ratios_add_pixels_up() -> None:
    images = np.random.default_rng(1).normal(0, 1, (4, 2, 64, 64)).astype(np.float32)
    new = fitted(images, Plan(32, 64, 64, 0.5))
    assert np.abs(new - images.reshape(4, 2, 32, 2, 32, 2).sum((3, 5))).max() < 1e-5


@pytest.mark.parametrize(("side", "start"), [(33, 0), (48, 8), (64, 16), (35, 1)])
def test_crops_are_whole_pixels(side: int, start: int) -> None:
    images = np.random.default_rng(1).normal(0, 1, (2, 5, side, side)).astype(np.float32)
    new = fitted(images, plan(side, side, 32, "crop", None, None, pad=False))
    assert np.array_equal(new, images[:, :, start : start + 32, start : start + 32])


def test_stamps_that_are_not_square_are_cropped() -> None:
    images = np.random.default_rng(1).normal(0, 1, (2, 5, 40, 64)).astype(np.float32)
    new = fitted(images, plan(40, 64, 32, "scale", 0.2, 0.2, pad=False))
    assert np.array_equal(new, images[:, :, 4:36, 16:48])
    with pytest.raises(FitError, match="--fit resize needs square ones"):
        plan(40, 64, 32, "resize", None, None, pad=False)


def test_a_bad_pixel_is_bad_where_it_was_and_nowhere_else() -> None:
    images = np.ones((3, 1, 48, 48), np.float32)
    images[1, 0, 24, 24] = np.nan
    new = fitted(images, plan(48, 48, 32, "scale", 0.396, 0.2, pad=False))
    bad = np.isnan(new)
    assert not bad[[0, 2]].any()
    assert 4 <= bad[1].sum() <= 9
    assert bad[1, 0, 16:18, 16:18].all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            (48, 48, 32, "scale", None, 0.2),
            r"pixel scale is not known: give --pixel-scale .*--fit crop.*--fit resize",
        ),
        ((48, 48, 32, "scale", 0.2, None), r"model's card has no pixel scale: give --fit crop"),
        ((32, 32, 32, "scale", 0.1, 0.2), r'32×32 pixels of 0\.1", which cover 16 pixels of the model'),
        ((16, 16, 32, "crop", None, None), "give --pad"),
    ],
)
def test_what_cannot_be_told_is_refused(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(FitError, match=message):
        plan(*arguments, pad=False)  # type: ignore[arg-type]


def test_padding_is_zeros_around() -> None:
    image = _blob(16, 2.0)
    new = fitted(image, plan(16, 16, 32, "scale", 0.3, 0.2, pad=True))
    assert new.shape == (1, 1, 32, 32)
    assert new.sum() == pytest.approx(image.sum(), rel=1e-4)
