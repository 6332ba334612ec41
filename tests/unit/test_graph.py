"""The rewrites are exact, the graphs give the network's redshifts, and int8 is used only where admitted."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cosmicai.model import graph, rewrites
from cosmicai.model.optimise import Limits, OptimiseError, optimise
from inference import astromae, engine
from inference.engine import BUNDLED_MODEL, EngineError, choose, load, read_graphs
from inference.partition import Partition

from .test_astromae import SMALL


def _model(**changes: object) -> astromae.AstroMAE:
    """A network whose every parameter and running statistic is drawn at random."""
    torch.manual_seed(0)
    model = astromae.AstroMAE(replace(SMALL, **changes))  # type: ignore[arg-type]
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point() and tensor is not model.encoder.positions:
                tensor.copy_(torch.rand_like(tensor) * 0.4 + 0.05 if tensor.ndim == 1 else tensor + 0.01)
    return model.eval()


def _galaxies(count: int, config: astromae.Config = SMALL, seed: int = 0) -> Partition:
    random = np.random.default_rng(seed)
    images = random.normal(0, 1, (count, config.channels, 32, 32)).astype(np.float32)
    magnitudes = random.normal(0, 1, (count, config.magnitudes)).astype(np.float32)
    return Partition(images, magnitudes, random.uniform(0.1, 2, count).astype(np.float32))


def _redshifts(model: astromae.AstroMAE, galaxies: Partition) -> np.ndarray:
    with torch.inference_mode():
        redshifts: np.ndarray = model(torch.tensor(galaxies.images), torch.tensor(galaxies.magnitudes)).numpy()
    return redshifts


def test_linear_layers_with_nothing_in_between_merge() -> None:
    torch.manual_seed(0)
    first, second, x = nn.Linear(6, 5), nn.Linear(5, 4), torch.randn(3, 6)
    merged = rewrites.affine(first).then(rewrites.affine(second))
    assert x.numpy() @ merged.weight + merged.bias == pytest.approx(second(first(x)).detach().numpy(), abs=1e-6)


def test_batch_normalisation_folds_into_the_convolution_before_it() -> None:
    module, x = _model().encoder.blocks[0].parallel, torch.randn(2, SMALL.width, 4, 1)
    assert isinstance(module, astromae.ParallelConvolution)
    kernel, bias = rewrites.folded_normalisation(module.expand, module.norm)
    folded = F.conv2d(x.double(), torch.tensor(kernel), torch.tensor(bias), groups=SMALL.parallel_groups)
    assert folded.numpy() == pytest.approx(module.norm(module.expand(x)).detach().numpy(), abs=1e-5)


def test_the_branches_last_layers_merge_into_the_fusion() -> None:
    model, config = _model(), SMALL
    hidden = [torch.randn(3, n) for n in (config.branch_width, config.branch_width, config.magnitude_width)]
    ends = (model.encoder_branch[-1], model.inception_branch[-1], model.magnitude_branch[-1])
    expected = model.fusion[0](torch.cat([end(h) for end, h in zip(ends, hidden, strict=True)], 1))
    merged = rewrites.fusion(model)
    found = torch.cat(hidden, 1).double().numpy() @ merged.weight + merged.bias
    assert found == pytest.approx(expected.detach().numpy(), abs=1e-5)


def test_pooling_the_stem_and_the_first_pointwise_convolutions_commute_and_merge() -> None:
    inception, x = _model().inception, torch.randn(2, 5, 8, 8)
    block = inception.blocks[0]
    assert isinstance(block, astromae.InceptionBlock)
    layers = rewrites.inception_layers(block, rewrites.affine(inception.stem))
    entered, pooled = F.avg_pool2d(inception.stem(x), 2), F.avg_pool2d(x, 2).double()
    readers = [block.one, block.three[0], block.five[0] if block.five else None, block.pooled]
    for layer, reader in zip([layers[n] for n in (0, 1, 3, 5)], readers, strict=True):
        assert layer is not None
        assert reader is not None
        found = F.conv2d(pooled, torch.tensor(layer.kernel), torch.tensor(layer.bias)).relu()
        assert found.numpy() == pytest.approx(reader(entered).detach().numpy(), abs=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"parallel_groups": 0},
        {"parallel_kernel": 3},
        {"key_bias": True},
        {"heads": 1},
        {"patch_size": 4},
        {"width": 12, "parallel_groups": 2},
        {"patch_size": 16, "depth": 1},
        {"channels": 3, "magnitudes": 3},
        {"asinh_softening": (0.01,) * 5},
        {"magnitude_depth": 2},
    ],
)
def test_graphs_of_all_variants_give_the_networks_redshifts(changes: dict[str, object], tmp_path: Path) -> None:
    model = _model(**changes)
    astromae.save(model, tmp_path)
    optimise(tmp_path)
    galaxies, fast = _galaxies(37, model.config), load(tmp_path, "onnxruntime", "float32", threads=2)
    found = np.concatenate(list(fast.predict(galaxies.batches(fast.batch(64)))))
    assert found == pytest.approx(_redshifts(model, galaxies), abs=1e-5)
    assert (fast.layout.channels, fast.layout.magnitudes) == (model.config.channels, model.config.magnitudes)


def test_nothing_is_computed_for_the_class_token_behind_the_last_attention() -> None:
    """The last block's MLP sees patch tokens alone, and its second layer their mean."""
    built = graph.build(_model(parallel_groups=0))
    shapes = {initial.name: tuple(initial.dims) for initial in built.graph.initializer}
    wide = (SMALL.width, int(SMALL.width * SMALL.mlp_ratio))
    expanding = [n for n in built.graph.node if n.op_type == "MatMul" and shapes.get(n.input[1]) == wide]
    assert len(expanding) == SMALL.depth
    means = [node for node in built.graph.node if node.op_type == "ReduceMean"]
    assert len(means) == 2  # of the MLP's hidden values and of what it is added to, never after the last layer


def test_int8_is_near_and_does_not_depend_on_the_batch(tmp_path: Path) -> None:
    model = _model()
    astromae.save(model, tmp_path)
    report = optimise(tmp_path, _galaxies(1600), Limits(1.0, 1.0, 1.0, 1.0))
    assert report is not None
    assert report.admitted
    assert (report.galaxies, report.calibrated_on) == (1088, 512)
    assert 0 < report.mean_difference < 0.01
    small, galaxies = load(tmp_path, "auto", "int8", threads=2), _galaxies(65, seed=1)
    together = np.concatenate(list(small.predict(galaxies.batches(65))))
    alone = np.concatenate(list(small.predict(galaxies.batches(1))))
    assert together == pytest.approx(alone, abs=1e-6)
    assert small.precision == "int8"


@pytest.mark.parametrize(("asked", "cut"), [(1, 1), (48, 48), (64, 64), (65, 33), (256, 64), (1024, 64)])
def test_a_large_batch_is_cut_into_even_parts_that_the_cache_holds(asked: int, cut: int) -> None:
    assert load(BUNDLED_MODEL, "auto", "auto", threads=2).batch(asked) == cut


def test_int8_beyond_the_limits_is_kept_out(tmp_path: Path) -> None:
    astromae.save(_model(), tmp_path)
    report = optimise(tmp_path, _galaxies(1600), Limits(mean=1e-9))
    assert report is not None
    assert not report.admitted
    graphs = read_graphs(tmp_path)
    assert graphs is not None
    assert graphs["int8"]["report"]["limits"]["mean"] == 1e-9
    assert choose(graphs, "auto", "auto").precision == "float32"
    with pytest.raises(EngineError, match="int8 is not admitted for this model; run `cosmicai model optimise"):
        choose(graphs, "auto", "int8")


def test_too_few_galaxies_to_judge_by_are_refused(tmp_path: Path) -> None:
    astromae.save(_model(), tmp_path)
    with pytest.raises(OptimiseError, match="100 galaxies are too few; give 1512 or more"):
        optimise(tmp_path, _galaxies(100))
    assert choose(read_graphs(tmp_path), "auto", "auto").precision == "float32"


@pytest.mark.parametrize(
    ("found", "flags", "precision"),
    [
        ("avx2", {"avx2", "fma"}, "int8"),
        ("avx512", {"avx512f"}, "int8"),
        ("neon", {"asimd", "asimddp"}, "int8"),
        ("neon", {"asimd"}, "float32"),
    ],
)
def test_auto_takes_what_the_cpu_is_fast_at(
    monkeypatch: pytest.MonkeyPatch, found: str, flags: set[str], precision: str
) -> None:
    monkeypatch.setattr(engine, "instructions", lambda: found)
    monkeypatch.setattr(engine, "cpu_flags", lambda: frozenset(flags))
    assert choose(read_graphs(BUNDLED_MODEL), "auto", "auto").precision == precision


def test_a_cpu_without_the_kernels_instructions_gets_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "instructions", lambda: None)
    assert choose(read_graphs(BUNDLED_MODEL), "auto", "auto").engine == "torch"
    with pytest.raises(EngineError, match="kernels of onnxruntime's graphs do not run on this CPU"):
        choose(read_graphs(BUNDLED_MODEL), "onnxruntime", "auto")


def test_weights_are_for_onnxruntime_the_bits_that_graphs_json_names(tmp_path: Path) -> None:
    astromae.save(_model(), tmp_path)
    optimise(tmp_path)
    choice = choose(read_graphs(tmp_path), "auto", "auto")
    engine.verify(tmp_path, choice)
    weights = tmp_path / "model.onnx.weights"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    with pytest.raises(EngineError, match=r"model\.onnx\.weights is not the file that graphs.json"):
        engine.verify(tmp_path, choice)


def test_the_bundled_models_int8_was_admitted_on_dc2() -> None:
    report = json.loads((BUNDLED_MODEL / "graphs.json").read_text())["int8"]["report"]
    assert report["galaxies"] > 19_000
    assert report["mean_difference"] <= report["limits"]["mean"]


def test_the_fast_path_never_imports_torch() -> None:
    code = f"""
import sys, numpy as np
from pathlib import Path
from inference.engine import BUNDLED_MODEL, load
from inference.partition import Partition
fast = load(BUNDLED_MODEL, "auto", "auto", threads=2)
ones = Partition(np.ones((3, 5, 32, 32), np.float32), np.full((3, 5), 23, np.float32), None)
assert np.isfinite(np.concatenate(list(fast.predict([ones])))).all()
print(sorted(set(sys.modules) & {{"torch", "onnx", "scipy"}}))
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
