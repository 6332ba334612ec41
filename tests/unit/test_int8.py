"""int8 is near the network's redshifts, and used only where it is admitted and fast."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cosmicai.model import graph
from cosmicai.model.nodes import PRODUCT
from cosmicai.model.optimise import Limits, OptimiseError, optimise
from inference.engine import astromae, cpu
from inference.engine import choice as choosing
from inference.engine.choice import choose, read_graphs
from inference.engine.interface import EngineError
from inference.engine.loading import BUNDLED_MODEL, load

from .graphs import label, random_galaxies, small_model
from .test_astromae import SMALL


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"parallel_groups": 0, "key_bias": True, "attention_scale": 0.2},
        {"mlp_activation": "silu", "parallel_kernel": 3},
        {"mlp_activation": "leaky_relu(0.1)"},
        {"mlp_activation": "identity", "depth": 3},
    ],
    ids=label,
)
def test_int8_is_near_and_does_not_depend_on_the_batch(changes: dict[str, object], tmp_path: Path) -> None:
    astromae.save(small_model(**changes), tmp_path)
    report = optimise(tmp_path, random_galaxies(1600), Limits(1.0, 1.0, 1.0, 1.0))["int8"]
    assert report.admitted
    assert (report.galaxies, report.calibrated_on) == (1088, 512)
    assert 0 < report.mean_difference < 0.01
    small, galaxies = load(tmp_path, "auto", "int8", threads=2), random_galaxies(65, seed=1)
    together = np.concatenate(list(small.predict(galaxies.batches(65))))
    alone = np.concatenate(list(small.predict(galaxies.batches(1))))
    assert together == pytest.approx(alone, abs=1e-6)
    assert small.precision == "int8"


def test_int8_multiplies_every_layer_of_every_block_but_the_last_ones_mean() -> None:
    ranges = {
        graph.range_name(block, layer): (-3.0, 4.0) for block in range(SMALL.depth) for layer in graph.LAYERS
    }
    for changes in ({}, {"mlp_activation": "relu"}):
        nodes = graph.build(small_model(**changes), ranges).graph.node
        products = [node for node in nodes if node.op_type == PRODUCT.name]
        assert len(products) == 4 * SMALL.depth - 1


def test_int8_beyond_the_limits_is_kept_out(tmp_path: Path) -> None:
    astromae.save(small_model(), tmp_path)
    report = optimise(tmp_path, random_galaxies(1600), Limits(mean=1e-9))["int8"]
    assert not report.admitted
    graphs = read_graphs(tmp_path)
    assert graphs is not None
    assert graphs["int8"]["report"]["limits"]["mean"] == 1e-9
    assert choose(graphs, "auto", "auto").precision == "float32"
    with pytest.raises(EngineError, match="int8 is not admitted for this model; run `cosmicai model optimise"):
        choose(graphs, "auto", "int8")


def test_too_few_galaxies_to_judge_by_are_refused(tmp_path: Path) -> None:
    astromae.save(small_model(), tmp_path)
    with pytest.raises(OptimiseError, match="100 galaxies are too few; give 1512 or more"):
        optimise(tmp_path, random_galaxies(100))
    assert choose(read_graphs(tmp_path), "auto", "auto").precision == "float32"


@pytest.mark.parametrize(
    ("instruction_set", "flags", "precision"),
    [
        ("avx2", {"avx2", "fma"}, "int8"),
        ("avx512", {"avx512f"}, "int8"),
        ("neon", {"asimd", "asimddp"}, "int8"),
        ("neon", {"asimd"}, "float32"),
    ],
)
def test_auto_takes_what_the_cpu_is_fast_at(
    monkeypatch: pytest.MonkeyPatch, instruction_set: str, flags: set[str], precision: str
) -> None:
    monkeypatch.setattr(choosing, "instructions", lambda: instruction_set)
    monkeypatch.setattr(cpu, "cpu_flags", lambda: frozenset(flags))
    monkeypatch.setattr(choosing, "cpu_kind", lambda: "a CPU that nobody has measured")
    monkeypatch.setattr(choosing, "bfloat16_instructions", lambda: None)
    assert choose(read_graphs(BUNDLED_MODEL), "auto", "auto").precision == precision


def test_the_bundled_models_int8_was_admitted_on_dc2() -> None:
    report = json.loads((BUNDLED_MODEL / "graphs.json").read_text())["int8"]["report"]
    assert report["galaxies"] > 19_000
    assert report["mean_difference"] <= report["limits"]["mean"]
