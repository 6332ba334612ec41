"""Each kernel gives what torch gives, for any shape, at every position of a galaxy in its batch, and with every
instruction set that this machine has."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from torch.nn import functional as F

from cosmicai.model import rewrites
from cosmicai.packaging.kernels import compile_kernels
from cosmicai.packaging.places import ROOT
from inference.engine import astromae
from inference.engine.cpu import KERNELS, instructions

from .test_astromae import SMALL, randomised

PRODUCTS = [Path(__file__).with_name(name) for name in ("test_products.py", "test_bfloat16_products.py")]

Array = NDArray[Any]
_TYPES = {np.dtype(np.float32): onnx.TensorProto.FLOAT, np.dtype(np.uint8): onnx.TensorProto.UINT8}
_TYPES |= {np.dtype(np.int64): onnx.TensorProto.INT64, np.dtype(np.int8): onnx.TensorProto.INT8}


def run(
    kind: str,
    *inputs: Array,
    outputs: tuple[type, ...] = (np.float32,),
    constants: tuple[int, ...] = (),
    defined: tuple[onnx.FunctionProto, ...] = (),
    **attributes: Any,
) -> list[Array]:
    """What one operator makes of the inputs.

    constants: which inputs are constants of the graph. defined: the operator, by standard ones.
    """
    names, made = [f"i{n}" for n in range(len(inputs))], [f"o{n}" for n in range(len(outputs))]
    node = helper.make_node(kind, names, made, domain="cosmicai", **attributes)
    arrays = dict(zip(names, inputs, strict=True))
    weights = [numpy_helper.from_array(arrays.pop(f"i{n}"), f"i{n}") for n in constants]
    input_infos = [helper.make_tensor_value_info(n, _TYPES[x.dtype], x.shape) for n, x in arrays.items()]
    output_infos = [
        helper.make_tensor_value_info(name, _TYPES[np.dtype(kind)], None)
        for name, kind in zip(made, outputs, strict=True)
    ]
    graph = helper.make_graph([node], kind, input_infos, output_infos, weights)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("cosmicai", 1)]
    opsets += [helper.make_opsetid("com.microsoft", 1)] if defined else []
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.register_custom_ops_library(str(KERNELS))
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10, functions=defined)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    results: list[Array] = session.run(None, arrays)
    return results


def normal(*shape: int, scale: float = 1.0, seed: int = 0) -> Array:
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def double(array: Array) -> torch.Tensor:
    return torch.from_numpy(array).double()


def quantised(expected: torch.Tensor, scale: float, zero: int) -> Array:
    return np.clip(np.round(expected.numpy() / scale) + zero, 0, 255)


def constants(scale: float, zero: int) -> tuple[Array, Array]:
    return np.array(scale, np.float32), np.array(zero, np.uint8)


WIDTHS = [1, 3, 8, 15, 16, 17, 40, 192]


@pytest.mark.parametrize("width", WIDTHS)
def test_gelu(width: int) -> None:
    x, bias = normal(9, width, scale=4), normal(width, seed=1)
    expected = F.gelu(double(x) + double(bias))
    assert run("Gelu", x, bias)[0] == pytest.approx(expected.numpy(), abs=1e-6)
    narrow = run("GeluToUint8", x, bias, *constants(0.03, 6), outputs=(np.uint8,))[0]
    assert np.abs(narrow - quantised(expected, 0.03, 6)).max() <= 1  # a half may be rounded either way
    assert (narrow == quantised(expected, 0.03, 6)).mean() > 0.99


def test_gelu_far_from_zero() -> None:
    x = np.array([[-1e30, -200, -40, -14, -1e-30, 0, 1e-30, 14, 40, 200, 1e30]], np.float32)
    expected = np.where(x > 0, x, 0)
    assert run("Gelu", x, np.zeros(11, np.float32))[0] == pytest.approx(expected, abs=1e-12, rel=1e-6)


@pytest.mark.parametrize("width", WIDTHS)
def test_residuals_are_added_and_normalised(width: int) -> None:
    product, residual = normal(7, width), normal(7, width, seed=1) + 3
    bias, gamma, beta = (normal(width, seed=seed) for seed in (2, 3, 4))
    total = double(product) + double(bias) + double(residual)
    expected = F.layer_norm(total, [width], double(gamma), double(beta), 1e-6)
    inputs = (product, bias, residual, gamma, beta)
    result = run("AddNorm", *inputs, outputs=(np.float32, np.float32), epsilon=1e-6)
    assert result[0] == pytest.approx(total.numpy(), abs=1e-5)
    assert result[1] == pytest.approx(expected.numpy(), abs=2e-5 if width > 1 else 1e-2)
    result = run("AddNormToUint8", *inputs, *constants(0.05, 90), outputs=(np.float32, np.uint8), epsilon=1e-6)
    assert np.abs(result[1] - quantised(expected, 0.05, 90)).max() <= 1


@pytest.mark.parametrize("tokens", [2, 5, 16, 17, 18, 33, 65])
@pytest.mark.parametrize(("heads", "depth"), [(1, 8), (2, 24), (3, 5), (6, 32)])
@pytest.mark.parametrize("skipped", [0, 1])
def test_attention(tokens: int, heads: int, depth: int, skipped: int) -> None:
    galaxies, width = 3, heads * depth
    qkv, bias = normal(galaxies * tokens, 3 * width, scale=2), normal(3 * width, seed=1)
    q, k, v = (double(qkv) + double(bias)).view(galaxies, tokens, 3, heads, depth).permute(2, 0, 3, 1, 4)
    mixed = F.scaled_dot_product_attention(q, k, v)[:, :, skipped:]
    expected = mixed.transpose(1, 2).reshape(-1, width)
    options = {"tokens": tokens, "heads": heads, "skipped": skipped}
    assert run("Attention", qkv, bias, **options)[0] == pytest.approx(expected.numpy(), abs=2e-5)
    narrow = run("AttentionToUint8", qkv, bias, *constants(0.04, 120), outputs=(np.uint8,), **options)[0]
    assert np.abs(narrow - quantised(expected, 0.04, 120)).max() <= 1


def test_attention_to_tokens_of_very_different_weight() -> None:
    qkv = np.zeros((4, 24), np.float32)
    qkv[:, :8] = 1
    qkv[:, 8:16] = np.array([-1e4, -1e4, 50, -300])[:, None]  # all but the third vanish
    qkv[:, 16:] = np.arange(4)[:, None]
    result = run("Attention", qkv, np.zeros(24, np.float32), tokens=4, heads=1, skipped=0)[0]
    assert result == pytest.approx(np.full((4, 8), 2.0), abs=1e-6)


@pytest.mark.parametrize("tokens", [2, 5, 9, 17, 34])
@pytest.mark.parametrize(("groups", "outer", "inner"), [(1, 3, 7), (5, 2, 8), (48, 4, 16), (6, 4, 16)])
@pytest.mark.parametrize("skipped", [0, 1])
def test_the_parallel_module(tokens: int, groups: int, outer: int, inner: int, skipped: int) -> None:
    galaxies, width = 3, groups * outer
    x, w1, w2 = (
        normal(galaxies * tokens, width, scale=3),
        normal(groups, inner, outer),
        normal(groups, outer, inner),
    )
    b1, b2 = normal(groups * inner, seed=5), normal(width, seed=6)
    rows = double(x).view(galaxies, tokens, groups, outer)
    hidden = F.silu(torch.einsum("ntgo,gio->ntgi", rows, double(w1)) + double(b1).view(groups, inner))
    added = torch.einsum("ntgi,goi->ntgo", hidden, double(w2)) + double(b2).view(groups, outer)
    added[:, 0] = 0
    expected = (rows + added)[:, skipped:].reshape(-1, width)
    result = run("Parallel", x, w1, b1, w2, b2, tokens=tokens, skipped=skipped)[0]
    assert result == pytest.approx(expected.numpy(), abs=1e-4)


def test_softening() -> None:
    x = normal(3, 2, 5, 5, scale=100)
    x[0, 0, 0] = [0, -0.0, 1e-20, 1e17, -1e36]
    softening = np.array([0.1, 2.5], np.float32)
    expected = np.arcsinh(x.astype(float) / softening[:, None, None])
    assert run("Soften", x, 1 / softening)[0] == pytest.approx(expected, abs=1e-6, rel=2e-7)


WIDE = astromae.Config().inception  # as published
UNEQUAL: tuple[astromae.Widths, ...] = (
    (1, 5, 6, 7, 8, 9),
    (4,) * 6,
    (13, 1, 1, 1, 1, 1),
    (2, 9, 1, 9, 1, 2),
    (5, 4, 3, 2, 1, 6),
)


def _inception(config: astromae.Config) -> tuple[astromae.Inception, tuple[Array, Array]]:
    """The branch in float64, and what its kernel reads."""
    inception = randomised(config).inception.double()
    plan, weights = rewrites.inception(inception)
    return inception, (plan, weights.astype(np.float32))


@pytest.mark.parametrize("galaxies", [1, 7, 16, 33])
@pytest.mark.parametrize(
    "changes",
    [
        {"inception": WIDE, "stem_width": 32},
        {"inception": UNEQUAL, "stem_width": 3, "image_size": 16, "channels": 3},
        {
            "inception": UNEQUAL,
            "inception_five": (False,) * 5,
            "image_size": 24,
            "channels": 1,
            "stem_width": 1,
        },
        {"inception_five": (True,) * 5, "image_size": 8, "inception_norm_eps": 0.1},
    ],
    ids=lambda changes: ",".join(changes) if isinstance(changes, dict) else str(changes),
)
def test_the_inception_branch(galaxies: int, changes: dict[str, Any]) -> None:
    config = replace(SMALL, **changes)
    inception, constant = _inception(config)
    images = normal(galaxies, config.channels, config.image_size, config.image_size)
    with torch.no_grad():
        expected = inception(double(images)).numpy()
    result = run("Inception", images, *constant)[0]
    assert result == pytest.approx(expected, abs=5e-6 * np.abs(expected).max())
    alone = [run("Inception", images[n : n + 1], *constant)[0] for n in range(galaxies)]
    assert (np.concatenate(alone) == result).all()  # bit-identical


def _pooled(images: Array) -> Array:
    """The largest of 3×3 pixels of ReLU(2×2 means), by a plan whose two blocks do hardly anything else."""
    plan = np.array([[1, 1, 0, 0, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0, 1, 0]], np.int64)
    weights = np.zeros(16, np.float32)
    weights[[0, 8]] = 1  # of the four outputs that each convolution is filled up to
    size = images.shape[2] // 2
    return run("Inception", images, plan, weights)[0].reshape(-1, size, size)


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_the_largest_pixels_are_those_of_torch_even_where_they_are_not_numbers(size: int) -> None:
    random = np.random.default_rng(size)
    images = np.repeat(np.repeat(normal(40, 1, size, size, seed=size), 2, 2), 2, 3)  # a pixel is its own mean
    for special in (np.nan, -np.nan, np.inf, -np.inf, -0.0, 0.0):
        galaxy, y, x = random.integers(0, 40), *random.integers(0, size, 2)
        images[galaxy, 0, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2] = special
    expected = F.max_pool2d(torch.from_numpy(images[:, :, ::2, ::2]).relu(), 3, 1, 1)
    assert np.array_equal(_pooled(images), expected[:, 0].numpy(), equal_nan=True)


def test_the_stem_is_pooled_with_its_signs() -> None:
    """No activation is between the stem and the pool."""
    images = -1 - np.abs(normal(20, 1, 8, 8))
    plan = np.array([[1, 0, 0, 0, 0, 0, 1, 1, 0]], np.int64)
    weights = np.zeros(16, np.float32)
    weights[0], weights[8], weights[12] = 1, 1, 10  # stem(x) = x; ReLU(largest + 10)
    means = F.avg_pool2d(torch.from_numpy(images), 2)
    expected = F.max_pool2d(means, 3, 1, 1) + 10
    assert run("Inception", images, plan, weights)[0] == pytest.approx(expected.flatten(1).numpy(), abs=1e-6)


@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf])
def test_what_is_not_a_number_reaches_the_same_features_as_in_torch(value: float) -> None:
    inception, constant = _inception(replace(SMALL, inception_five=(False,) * 5))
    images = normal(5, 5, 32, 32)
    images[3, 2, 0, 31] = value
    with torch.no_grad():
        expected = inception(double(images)).numpy()
    unknown = np.isnan(run("Inception", images, *constant)[0])
    assert unknown[3].any()
    assert np.array_equal(unknown, np.isnan(expected))


def test_a_row_gives_the_same_bits_wherever_it_stands() -> None:
    x, bias = normal(50, 40), normal(40, seed=1)
    together = run("Gelu", x, bias)[0]
    assert all((run("Gelu", x[n : n + 1], bias)[0] == together[n]).all() for n in range(0, 50, 7))
    options = {"tokens": 5, "heads": 3, "skipped": 0}
    qkv, bias = normal(50, 72), normal(72, seed=1)
    together = run("Attention", qkv, bias, **options)[0]
    for n in (0, 5, 45):
        assert (run("Attention", qkv[n : n + 5], bias, **options)[0] == together[n : n + 5]).all()


def test_what_is_not_a_number_stays_so_and_spoils_no_other_galaxy() -> None:
    qkv, x, bias = normal(8, 24), normal(8, 8), np.zeros(24, np.float32)
    qkv[5, 3] = x[5, 3] = np.nan
    attended = run("Attention", qkv, bias, tokens=4, heads=1, skipped=0)[0]
    assert np.isfinite(attended[:4]).all()
    assert np.isnan(attended[5]).all()
    for result in (
        run("Gelu", x, bias[:8])[0],
        run("AddNorm", x, bias[:8], x, bias[:8], bias[:8], outputs=(np.float32,) * 2, epsilon=1e-6)[0],
        run("Parallel", x, normal(2, 3, 4), bias[:6], normal(2, 4, 3), bias[:8], tokens=4, skipped=0)[0],
    ):
        assert np.isnan(result[5]).any()
        assert np.isfinite(np.delete(result, 5, 0)).all()
    images = normal(2, 1, 4, 4)
    images[1, 0, 2, 2:] = np.nan, np.inf
    softened = run("Soften", images, np.ones(1, np.float32))[0]
    assert np.isnan(softened[1, 0, 2, 2:]).all()
    assert np.isfinite(softened).sum() == 30
    plan = np.array([[1, 2, 0, 0, 0, 0, 0, 1, 0]], np.int64)
    result = run("Inception", images, plan, np.ones(16, np.float32))[0]
    assert np.isfinite(result[0]).all()
    assert np.isnan(result[1]).any()


WRONG: list[tuple[str, tuple[tuple[int, ...], ...], dict[str, Any], str]] = [
    ("Gelu", ((4, 5), (6,)), {}, r"x \(rows, width\), bias \(width,\)"),
    ("Gelu", ((4, 5, 2), (5,)), {}, r"x \(rows, width\)"),
    ("Gelu", ((1, 1, 1, 1, 5), (5,)), {}, "more than four dimensions"),
    ("Attention", ((10, 24), (24,)), {"tokens": 3, "heads": 1, "skipped": 0}, "galaxies"),
    ("Attention", ((10, 24), (24,)), {"tokens": 5, "heads": 3, "skipped": 0}, "galaxies"),
    ("Attention", ((10, 24), (24,)), {"tokens": 0, "heads": 1, "skipped": 0}, "galaxies"),
    ("Attention", ((10, 24), (24,)), {"tokens": 5, "heads": 1}, "skipped"),
    ("Parallel", ((4, 8), (2, 3, 4), (6,), (2, 4, 2), (8,)), {"tokens": 4, "skipped": 0}, "groups"),
    ("Parallel", ((4, 8), (2, 3, 4), (6,), (2, 4, 3), (8,)), {"tokens": 3, "skipped": 0}, "groups"),
    ("Soften", ((2, 3, 4, 4), (4,)), {}, "channels"),
]


@pytest.mark.parametrize(("kind", "shapes", "attributes", "fault"), WRONG)
def test_what_does_not_fit_is_an_error(
    kind: str, shapes: tuple[tuple[int, ...], ...], attributes: dict[str, Any], fault: str
) -> None:
    with pytest.raises(Exception, match=fault):
        run(kind, *(normal(*shape) for shape in shapes), **attributes)


PLAN = [1, 2, 0, 0, 0, 0, 3, 1, 0]
NEEDED = 8 + 8 + 16  # weights of that plan


@pytest.mark.parametrize(
    ("plan", "weights", "channels", "fault"),
    [
        (PLAN, NEEDED - 1, 1, "more or fewer weights"),
        (PLAN, NEEDED + 1, 1, "more or fewer weights"),
        (PLAN, 0, 1, "more or fewer weights"),
        ([1, 2, 0, 0, 0, 0, 0, 1, 0], NEEDED, 1, "more or fewer weights"),
        (PLAN[:-1], NEEDED, 1, r"plan \(blocks, 9\)"),
        ([], 0, 1, r"plan \(blocks, 9\)"),
        ([*PLAN[:6], -3, 1, 0], NEEDED, 1, "negative numbers"),
        ([*PLAN[:6], 2**62, 1, 0], NEEDED, 1, "more than 65536 channels"),
        (PLAN, NEEDED, 3, "blocks do not fit"),
        ([*PLAN, *PLAN], 2 * NEEDED, 1, "blocks do not fit"),
        ([*PLAN[:-1], 1, 3, 0, 0, 0, 0, 0, 0, 1, 1], NEEDED, 1, "blocks do not fit"),
    ],
)
def test_an_inception_plan_that_does_not_fit_is_an_error(
    plan: list[int], weights: int, channels: int, fault: str
) -> None:
    images = normal(2, channels, 4, 4)
    run("Inception", normal(2, 1, 4, 4), np.array(PLAN, np.int64), np.ones(NEEDED, np.float32))
    with pytest.raises(Exception, match=fault):
        run("Inception", images, np.array(plan, np.int64), np.ones(weights, np.float32))


@pytest.mark.skipif(platform.machine() != "x86_64", reason="there is one instruction set on this machine")
def test_all_this_holds_for_the_instructions_of_lambdas_x86_hosts() -> None:
    if os.environ.get("COSMICAI_INSTRUCTIONS") == "avx2":
        assert instructions() == "avx2"
        return
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, *map(str, PRODUCTS)]
    environment = {**os.environ, "COSMICAI_INSTRUCTIONS": "avx2"}
    process = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0, process.stdout[-3000:]


def test_the_kernels_are_compiled_for_both_of_lambdas_machines() -> None:
    for machine, elf in (("x86_64", 62), ("aarch64", 183)):  # e_machine of the ELF header
        path = compile_kernels(machine)
        assert path is not None
        library = path.read_bytes()
        assert library[:4] == b"\x7fELF"
        assert int.from_bytes(library[18:20], "little") == elf
    assert compile_kernels("riscv64") is None
