"""Products of bfloat16 are those of their definition, by every implementation that this machine has.

tests/unit/test_kernels.py runs this file a second time with AVX2 alone, where the definition computes.
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from cosmicai.model.nodes import BFLOAT16_PRODUCT, rounded
from inference.engine.cpu import bfloat16_instructions

from .test_kernels import Array, normal, run

DEFINITION = onnx.FunctionProto()  # under a name that the kernels do not have
DEFINITION.CopyFrom(BFLOAT16_PRODUCT)
DEFINITION.name = "DefinedProduct"
SMALLEST = 2.0**-126  # of normal numbers; the instructions may take smaller ones for zeros


def product(x: Array, weights: Array) -> Array:
    """By the kernel where this machine has one."""
    return run(BFLOAT16_PRODUCT.name, x, rounded(weights), constants=(1,), defined=(BFLOAT16_PRODUCT,))[0]


def definition(x: Array, weights: Array) -> Array:
    """By onnxruntime's operators."""
    return run(DEFINITION.name, x, rounded(weights), constants=(1,), defined=(DEFINITION,))[0]


def exact(x: Array, weights: Array) -> tuple[Array, Array]:
    """The product of the rounded values, and how far float32 sums of it may be from that.

    Each of the K products of two bfloat16 is exact in float32. Adding them rounds K times, by 2**-24 of the sum
    of absolute products at most, or by 2**-23 on ARM, which does not round to the nearest.
    """
    values, narrow = (rounded(array).astype(np.float64) for array in (x, weights))
    tiny = SMALLEST * (len(weights) + np.abs(values).sum(1, keepdims=True) + np.abs(narrow).sum(0))
    return values @ narrow, (len(weights) + 1) * 2.0**-23 * (np.abs(values) @ np.abs(narrow)) + tiny


SHAPES = [(1, 1), (7, 5), (2, 48), (16, 16), (17, 47), (33, 49), (96, 288), (192, 24), (768, 192)]


@pytest.mark.parametrize("rows", [0, 1, 3, 7, 8, 64, 65, 131])
@pytest.mark.parametrize(("inputs", "outputs"), SHAPES)
def test_products_are_as_near_as_float32_sums(rows: int, inputs: int, outputs: int) -> None:
    x, weights = normal(rows, inputs, seed=rows), normal(inputs, outputs, seed=1)
    expected, tolerance = exact(x, weights)
    for result in (product(x, weights), definition(x, weights)):
        assert result.shape == (rows, outputs)
        assert (np.abs(result - expected) <= tolerance).all()


@pytest.mark.parametrize(("inputs", "outputs"), SHAPES)
def test_products_of_whole_numbers_are_exact(inputs: int, outputs: int) -> None:
    random = np.random.default_rng(inputs)
    x = random.integers(-100, 100, (70, inputs)).astype(np.float32)
    weights = random.integers(-100, 100, (inputs, outputs)).astype(np.float32)
    assert (product(x, weights) == x.astype(np.float64) @ weights).all()


def test_values_are_rounded_to_the_nearest_and_halves_to_even() -> None:
    """Steps of bfloat16 are 2**-7 from 1 to 2."""
    x = np.float32([[1 + 2**-8], [1 + 3 * 2**-8], [1 + 2**-8 + 2**-20], [-1 - 2**-8], [1 + 2**-9]])
    expected = np.float32([[1], [1 + 2**-6], [1 + 2**-7], [-1], [1]])
    assert (product(x, np.ones((1, 1), np.float32)) == expected).all()
    assert (rounded(x).astype(np.float32) == expected).all()


SPECIAL = [
    np.nan,
    -np.nan,
    np.inf,
    -np.inf,
    3.3e38,
    -3.3e38,
    np.finfo(np.float32).max,
    1e-39,
    -1e-44,
    0.0,
    -0.0,
]


@pytest.mark.parametrize("in_weights", [False, True])
@pytest.mark.parametrize("value", SPECIAL)
def test_special_values_spread_as_by_the_definition(value: float, in_weights: bool) -> None:
    x, weights = normal(11, 37), normal(37, 50, scale=0.01, seed=2)
    if in_weights:
        x *= np.float32(0.01)
        weights[20, 7] = value
    else:
        x[5, 20] = value
    by_kernel, by_definition = product(x, weights), definition(x, weights)
    finite = np.isfinite(by_definition)
    assert np.array_equal(np.where(finite, 0, by_kernel), np.where(finite, 0, by_definition), equal_nan=True)
    with np.errstate(invalid="ignore"):  # infinity times zero, where nothing is compared
        expected, tolerance = exact(x, weights)
    assert (np.abs(by_kernel[finite] - expected[finite]) <= tolerance[finite]).all()
    touched = np.zeros_like(finite)
    if in_weights:
        touched[:, 7] = True
    else:
        touched[5] = True
    assert finite[~touched].all()


def test_a_row_gives_the_same_bits_wherever_it_stands() -> None:
    x, weights = normal(131, 100), normal(100, 90, seed=1)
    together = product(x, weights)
    for first, count in ((0, 1), (1, 1), (63, 3), (64, 9), (128, 3), (130, 1)):
        assert (product(x[first : first + count], weights) == together[first : first + count]).all()


@pytest.mark.skipif(bfloat16_instructions() is None, reason="this CPU has no instructions for bfloat16")
def test_what_does_not_fit_is_an_error() -> None:
    x, weights = normal(3, 16), rounded(normal(16, 2))
    with pytest.raises(Exception, match=r"MatMulBfloat16: x \(rows, inputs\)"):
        product(x[:, :15], weights)
    with pytest.raises(Exception, match=r"weights \(inputs, outputs\)"):
        product(x, weights[None])
