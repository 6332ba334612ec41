"""bfloat16 is near the network's redshifts, and used only where it is admitted and fast."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from cosmicai.data import dc2
from cosmicai.model import graph
from cosmicai.model.nodes import BFLOAT16_PRODUCT
from cosmicai.model.optimise import Limits, optimise
from inference.contract.model_files import GRAPHS
from inference.engine import astromae
from inference.engine import choice as choosing
from inference.engine.choice import choose, read_graphs
from inference.engine.cpu import bfloat16_instructions
from inference.engine.interface import EngineError
from inference.engine.loading import BUNDLED_MODEL, load
from tests.conftest import CACHE

from .graphs import label, random_galaxies, small_model
from .test_astromae import SMALL

GENEROUS = Limits(1.0, 1.0, 1.0, 1.0)
FILES = {"files": {"a.onnx": "0" * 64}}


@pytest.mark.parametrize("changes", [{}, {"mlp_activation": "silu", "parallel_kernel": 3}], ids=label)
def test_bfloat16_is_near_and_does_not_depend_on_the_batch(changes: dict[str, object], tmp_path: Path) -> None:
    astromae.save(small_model(**changes), tmp_path)
    report = optimise(tmp_path, random_galaxies(1600), GENEROUS)["bfloat16"]
    assert report.admitted
    assert (report.galaxies, report.calibrated_on) == (1088, 0)
    assert 0 < report.mean_difference < 0.01
    reduced, galaxies = load(tmp_path, "auto", "bfloat16", threads=2), random_galaxies(65, seed=1)
    together = np.concatenate(list(reduced.predict(galaxies.batches(65))))
    alone = np.concatenate(list(reduced.predict(galaxies.batches(1))))
    assert together == pytest.approx(alone, abs=1e-6)
    assert reduced.precision == "bfloat16"
    float32 = load(tmp_path, "auto", "float32", threads=1)
    assert reduced.model_bytes < float32.model_bytes


def test_every_layer_of_every_block_multiplies_in_bfloat16_but_the_last_ones_mean() -> None:
    made = graph.build(small_model(), in_bfloat16=True).graph
    narrow = {one.name for one in made.initializer if one.data_type == onnx.TensorProto.BFLOAT16}
    products = [node for node in made.node if node.op_type == BFLOAT16_PRODUCT.name]
    assert len(products) == 4 * SMALL.depth - 1
    assert {node.input[1] for node in products} == narrow
    assert {node.op_type for node in made.node if narrow & {*node.input}} == {BFLOAT16_PRODUCT.name}


def test_bfloat16_beyond_the_limits_is_kept_out(tmp_path: Path) -> None:
    astromae.save(small_model(), tmp_path)
    reports = optimise(tmp_path, random_galaxies(1600), Limits(mean=1e-9))
    assert not reports["bfloat16"].admitted
    graphs = read_graphs(tmp_path)
    assert graphs is not None
    assert {"accuracy_float32", "accuracy_bfloat16"} <= graphs["bfloat16"]["report"].keys()
    chosen = choose(graphs, "auto", "auto")
    assert (chosen.precision, chosen.reason) == (
        "float32",
        "neither int8 nor bfloat16 is admitted for this model",
    )
    with pytest.raises(EngineError, match="bfloat16 is not admitted for this model; run `cosmicai model optim"):
        choose(graphs, "auto", "bfloat16")


def test_each_precision_is_admitted_by_itself(tmp_path: Path) -> None:
    """bfloat16 is nearer to float32 than int8, so limits between them admit it alone."""
    astromae.save(small_model(), tmp_path)
    reports = optimise(tmp_path, random_galaxies(1600), GENEROUS)
    between = (reports["bfloat16"].mean_difference + reports["int8"].mean_difference) / 2
    assert reports["bfloat16"].mean_difference < between < reports["int8"].mean_difference
    reports = optimise(tmp_path, random_galaxies(1600), Limits(between, 1.0, 1.0, 1.0))
    assert [reports[name].admitted for name in ("int8", "bfloat16")] == [False, True]
    graphs = read_graphs(tmp_path)
    with pytest.raises(EngineError, match=r"int8 is not admitted .* or give auto, float32 or bfloat16$"):
        choose(graphs, "auto", "int8")


def _chosen(
    monkeypatch: pytest.MonkeyPatch, admitted: str, rates: dict[str, float] | None, kernel: str | None
) -> choosing.Choice:
    """What auto chooses for a model that admits these, on a CPU with AVX-512 whose speeds are known or not."""
    monkeypatch.setattr(choosing, "instructions", lambda: "avx512")
    monkeypatch.setattr(choosing, "bfloat16_instructions", lambda: kernel)
    monkeypatch.setattr(choosing, "measured_speeds", lambda *_: rates or {})
    graphs: dict[str, Any] = {"float32": FILES}
    graphs |= {name: {**FILES, "admitted": name in admitted.split()} for name in ("int8", "bfloat16")}
    return choose(graphs, "auto", "auto")


MEASURED = {"float32": 100.0, "int8": 150.0, "bfloat16": 130.0}
LACKS = "lacks products of bfloat16"


@pytest.mark.parametrize(
    ("admitted", "rates", "kernel", "precision", "reason"),
    [
        ("int8 bfloat16", None, "avx512_bf16", "int8", "admitted, and this CPU has avx512"),
        ("bfloat16", None, "avx512_bf16", "bfloat16", "admitted, and this CPU has avx512_bf16"),
        ("bfloat16", None, None, "float32", LACKS),
        ("int8 bfloat16", MEASURED, "avx512_bf16", "int8", "1.50 and bfloat16 was measured at 1.30"),
        ("bfloat16", MEASURED, "avx512_bf16", "bfloat16", "was measured at 1.30 of the speed of float32"),
        ("bfloat16", MEASURED, None, "float32", LACKS),
        ("int8 bfloat16", MEASURED | {"int8": 120.0}, "avx512_bf16", "bfloat16", "int8 was measured at 1.20"),
        ("int8 bfloat16", MEASURED | {"int8": 120.0}, None, "int8", "int8 was measured at 1.20 of the speed"),
        ("bfloat16", MEASURED | {"bfloat16": 90.0}, "avx512_bf16", "float32", "measured at 0.90"),
        ("int8 bfloat16", {"float32": 100.0, "int8": 150.0}, "avx512_bf16", "int8", "measured at 1.50"),
        ("bfloat16", {"float32": 100.0, "int8": 150.0}, "avx512_bf16", "bfloat16", "admitted, and"),
        ("int8 bfloat16", {"float32": 100.0, "int8": 90.0}, "avx512_bf16", "bfloat16", "admitted, and"),
        ("int8 bfloat16", {"float32": 100.0, "int8": 90.0}, None, "float32", f"at 0.90 of .*; .*{LACKS}"),
        ("", MEASURED, "avx512_bf16", "float32", "neither int8 nor bfloat16 is admitted for this model"),
    ],
)  # fmt: skip
def test_auto_takes_the_fastest_of_the_admitted(
    monkeypatch: pytest.MonkeyPatch,
    admitted: str,
    rates: dict[str, float] | None,
    kernel: str | None,
    precision: str,
    reason: str,
) -> None:
    chosen = _chosen(monkeypatch, admitted, rates, kernel)
    assert chosen.precision == precision
    assert re.search(reason, chosen.reason)


def test_a_folder_from_before_bfloat16_runs_as_it_did(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = json.loads((BUNDLED_MODEL / GRAPHS).read_text())
    del graphs["bfloat16"]
    for precision in ("float32", "int8"):
        assert choose(graphs, "auto", precision).precision == precision
    monkeypatch.setattr(choosing, "measured_speeds", lambda *_: {})
    assert choose(graphs, "auto", "auto").precision == "int8"


@pytest.mark.parametrize("instruction_set", ["", "avx2"])
def test_a_rank_computes_in_bfloat16_on_request(instruction_set: str, tmp_path: Path) -> None:
    """With AVX2 alone by the definition, which the rank says."""
    folder = dc2.partitions("validation", 120, 1, CACHE, seed=3)
    environment = {**os.environ, "COSMICAI_INSTRUCTIONS": instruction_set}
    command = [str(Path(sys.executable).with_name("cosmicai")), "infer", str(folder), "--precision"]
    redshifts = {}
    for precision in ("float32", "bfloat16"):
        out = tmp_path / precision
        subprocess.run([*command, precision, "--out", str(out)], env=environment, check=True)
        redshifts[precision] = np.load(out / "predictions" / "0.npz")["z_pred"]
    info = json.loads((out / "0.json").read_text())
    has_products = bfloat16_instructions() is not None and not instruction_set
    assert info["precision"] == "bfloat16"
    assert info["precision_reason"].partition(";")[0] == "requested"
    assert ("lacks products of bfloat16" in info["precision_reason"]) == (not has_products)
    differences = np.abs(redshifts["bfloat16"] - redshifts["float32"]) / (1 + redshifts["float32"])
    assert 0 < differences.max() < 0.003


def test_the_bundled_models_bfloat16_was_admitted_on_dc2() -> None:
    report = json.loads((BUNDLED_MODEL / GRAPHS).read_text())["bfloat16"]["report"]
    assert report["galaxies"] > 19_000
    assert report["mean_difference"] <= report["limits"]["mean"]
