"""ARM's products of bfloat16 are those of their definition, by qemu on this machine."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cosmicai.model.nodes import rounded
from cosmicai.packaging.kernels import KERNELS, MACHINES
from tests.unit.test_bfloat16_products import SHAPES, exact
from tests.unit.test_kernels import normal

EMULATOR = shutil.which("qemu-aarch64-static")
SOURCES = (KERNELS / "bfloat16.cpp", Path(__file__).with_name("bfloat16_products.cpp"))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(EMULATOR is None, reason="running it needs qemu-user-static"),
]
Array = NDArray[Any]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The products as a program without libraries."""
    folder = tmp_path_factory.mktemp("arm")
    ((name, cpu),) = MACHINES["aarch64"].bfloat16.items()
    zig = [sys.executable, "-m", "ziglang", "c++", "-target", "aarch64-linux-musl", f"-mcpu={cpu}"]
    options = ["-std=c++20", "-O3", "-fno-exceptions", "-fno-rtti", f"-DKERNELS={name}", f"-I{KERNELS}"]
    objects = [str(folder / f"{source.stem}.o") for source in SOURCES]
    for source, made in zip(SOURCES, objects, strict=True):
        subprocess.run([*zig, *options, "-c", str(source), "-o", made], check=True)
    subprocess.run([*zig, "-static", "-nostdlib++", *objects, "-o", str(folder / "products")], check=True)
    return folder / "products"


def _product(program: Path, x: Array, weights: Array) -> Array:
    sizes = np.array([*x.shape, weights.shape[1]], np.int64)
    sent = sizes.tobytes() + x.tobytes() + rounded(weights).tobytes()
    command = [str(EMULATOR), "-cpu", "max", str(program)]
    answer = subprocess.run(command, input=sent, capture_output=True, check=True).stdout
    return np.frombuffer(answer, np.float32).reshape(len(x), weights.shape[1])


@pytest.mark.parametrize("rows", [0, 1, 3, 8, 64, 131])
@pytest.mark.parametrize(("inputs", "outputs"), SHAPES)
def test_arms_products_are_as_near_as_float32_sums(program: Path, rows: int, inputs: int, outputs: int) -> None:
    x, weights = normal(rows, inputs, seed=rows), normal(inputs, outputs, seed=1)
    expected, tolerance = exact(x, weights)
    assert (np.abs(_product(program, x, weights) - expected) <= tolerance).all()


def test_arms_products_of_whole_numbers_are_exact(program: Path) -> None:
    random = np.random.default_rng(0)
    for inputs, outputs in SHAPES:
        x = random.integers(-100, 100, (70, inputs)).astype(np.float32)
        weights = random.integers(-100, 100, (inputs, outputs)).astype(np.float32)
        assert (_product(program, x, weights) == x.astype(np.float64) @ weights).all()


def test_a_row_gives_the_same_bits_wherever_it_stands_on_arm(program: Path) -> None:
    x, weights = normal(70, 100), normal(100, 90, seed=1)
    x[9, 3], x[20, 5] = np.nan, np.inf  # they share instructions with rows 8 and 21
    together = _product(program, x, weights)
    assert np.isfinite(np.delete(together, [9, 20], 0)).all()
    assert np.isnan(together[9]).all()
    assert np.isinf(together[20]).all()
    for first, count in ((0, 1), (1, 1), (8, 1), (21, 5), (63, 3), (69, 1)):
        alone = _product(program, x[first : first + count], weights)
        assert np.array_equal(alone, together[first : first + count], equal_nan=True)
