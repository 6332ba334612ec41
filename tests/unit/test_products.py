"""Products of integers are exact, by every implementation that this machine has, and no sum overflows.

tests/unit/test_kernels.py runs this file a second time with AVX2 alone.
"""

from __future__ import annotations

import numpy as np
import pytest

from cosmicai.model.nodes import PRODUCT, narrowed
from inference.engine.cpu import instructions

from .test_kernels import Array, run


def product(x: Array, weights: Array, scales: Array, zero: int) -> Array:
    """By the kernel where this machine has one, otherwise by onnxruntime's operators."""
    inputs = (x, weights, np.array(0.013, np.float32), scales, np.array(zero, np.uint8))
    return run(PRODUCT.name, *inputs, constants=(1, 2, 3, 4), defined=(PRODUCT,))[0]


def exact(x: Array, weights: Array, scales: Array, zero: int) -> Array:
    sums = (x.astype(np.int64) - zero) @ weights.astype(np.int64)
    assert np.abs(sums).max() < 2**24  # a float32 holds it
    return sums.astype(np.float32) * (np.float32(0.013) * scales)


@pytest.mark.parametrize("rows", [1, 3, 4, 6, 64, 65, 131])
@pytest.mark.parametrize(
    ("inputs", "outputs"), [(1, 1), (7, 5), (8, 16), (9, 17), (12, 8), (96, 288), (192, 24), (768, 192)]
)
def test_products_of_integers_are_exact(rows: int, inputs: int, outputs: int) -> None:
    random = np.random.default_rng(rows * inputs)
    x = random.integers(0, 256, (rows, inputs), np.uint8)
    weights, scales = narrowed(random.standard_normal((inputs, outputs)))
    narrow = scales.astype(np.float32)
    for zero in (0, 97, 255):
        assert (product(x, weights, narrow, zero) == exact(x, weights, narrow, zero)).all()


FOURS = [
    (128, 0, 0, 0),
    (64, 64, 0, 0),
    (0, 43, 42, 43),
    (32, 32, 32, 32),
    (127, 1, -127, -1),
    (64, -64, 64, -64),
]


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("four", FOURS)
def test_the_largest_weights_times_the_largest_activations_do_not_overflow(
    four: tuple[int, ...], sign: int
) -> None:
    """The four that meet in 16 bits are a pair of inputs and the pair four inputs later."""
    weights = np.zeros((48, 40), np.int8)
    for first in (0, 2):
        for place, weight in zip((0, 1, 4, 5), four, strict=True):
            weights[first + place :: 8] = np.clip(sign * weight, -128, 127)
    scales = np.ones(40, np.float32)
    for low, high in ((0, 255), (255, 255), (255, 0)):
        x = np.where(np.arange(48) % 2 == 0, low, high).astype(np.uint8)[None].repeat(9, 0)
        assert (product(x, weights, scales, 0) == exact(x, weights, scales, 0)).all()


@pytest.mark.skipif(instructions() != "avx2", reason="test_kernels.py runs it with AVX2 alone")
def test_weights_whose_sums_could_overflow_are_refused() -> None:
    x, scales = np.zeros((3, 16), np.uint8), np.ones(2, np.float32)
    for rows in ((0, 4), (1, 5), (10, 11), (2, 7)):
        for weight in (65, -65):
            weights = np.zeros((16, 2), np.int8)
            weights[list(rows), 1] = weight
            with pytest.raises(Exception, match="sums of these weights could overflow"):
                product(x, weights, scales, 0)
    weights[:] = 0
    weights[[0, 2, 8], 1] = 127  # these never meet in 16 bits
    product(x, weights, scales, 0)
    inputs = (weights, np.array(1, np.float32), scales, np.array(0, np.uint8))
    with pytest.raises(Exception, match="weights are constants of the graph"):
        run(PRODUCT.name, x, *inputs)
    with pytest.raises(Exception, match=r"MatMulUint8: x \(rows, inputs\)"):
        product(x[:, :15], weights, scales, 0)


@pytest.mark.parametrize("kind", ["normal", "positive", "one large", "zero"])
def test_narrowed_weights_are_near_and_never_overflow(kind: str) -> None:
    random = np.random.default_rng(4)
    for inputs in (1, 6, 8, 96, 771):
        weight = random.standard_normal((inputs, 50))
        if kind == "one large":
            weight[0] *= 100
        weight = {"positive": np.abs(weight), "zero": weight * 0}.get(kind, weight)
        narrow, scales = narrowed(weight)
        assert (np.abs(narrow * scales - weight) <= scales * 0.500001).all()
        padded = np.pad(narrow.astype(int), ((0, -inputs % 8), (0, 0)))
        for first in (0, 2):
            fours = np.stack([padded[first + place :: 8] for place in (0, 1, 4, 5)])
            assert fours.clip(0).sum(0).max() <= 128
            assert fours.clip(None, 0).sum(0).min() >= -128
