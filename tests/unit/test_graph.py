"""The graphs give the network's redshifts, and are used only where they can be."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cosmicai.model import graph, rewrites
from cosmicai.model.optimise import optimise
from inference.data.partition import Partition
from inference.engine import astromae
from inference.engine import choice as choosing
from inference.engine.choice import choose, read_graphs
from inference.engine.config import ACTIVATIONS as KNOWN_ACTIVATIONS
from inference.engine.config import PARAMETRIC, Config
from inference.engine.interface import Engine, EngineError
from inference.engine.loading import BUNDLED_MODEL, load

from .graphs import label, random_galaxies, small_model
from .test_astromae import SMALL, randomised


def _redshifts(model: astromae.AstroMAE, galaxies: Partition) -> np.ndarray:
    with torch.inference_mode():
        redshifts: np.ndarray = model(torch.tensor(galaxies.images), torch.tensor(galaxies.magnitudes)).numpy()
    return redshifts


ACTIVATIONS = [f"{name}(0.3)" if name in PARAMETRIC else name for name in sorted(KNOWN_ACTIVATIONS)]
Stack = astromae.Stack
STACKS = ("encoder_branch", "inception_branch", "magnitude_branch", "fusion")


def _activations(first: int) -> dict[str, object]:
    """A different activation in each place; over all `first`, every activation in every place."""
    names = ACTIVATIONS[first:] + ACTIVATIONS[:first]
    places: dict[str, object] = {
        f"{place}_activation": names.pop() for place in ("mlp", "parallel", "inception")
    }
    return places | {stack: Stack(getattr(SMALL, stack).widths, names.pop()) for stack in STACKS}


VARIANTS: list[dict[str, object]] = [
    {},
    {"mlp_activation": "relu"},
    {"parallel_activation": "relu"},
    {"inception_activation": "elu(1.0)"},
    *[_activations(first) for first in range(len(ACTIVATIONS))],
    {"encoder_branch": Stack((7,))},
    {"inception_branch": Stack((7,))},
    {"magnitude_branch": Stack((7,))},
    {"fusion": Stack((1,))},
    {name: Stack((1,)) for name in STACKS},
    {name: Stack((5, 8, 3, 6, 1), "tanh") for name in STACKS},
    {"attention_scale": 1.0},
    {"attention_scale": -0.05, "heads": 4},
    {"attention_scale": 0.0},
    {"query_bias": False},
    {"key_bias": True},
    {"value_bias": False, "key_bias": True, "attention_scale": 0.7},
    {"query_bias": False, "value_bias": False},
    {"heads": 1},
    {"heads": 16},
    {"mlp_width": 7},
    {"parallel_width": 12},
    {"parallel_groups": 0},
    {"parallel_groups": 1},
    {"parallel_groups": 16},
    {"parallel_kernel": 3},
    {"parallel_kernel": 5, "parallel_activation": "gelu_tanh", "depth": 1},
    {"norm_eps": 0.3},
    {"parallel_norm_eps": 0.3},
    {"inception_norm_eps": 0.3},
    {"final_norm_eps": 0.3},
    {"inception_pool": "average"},
    {"inception_pool": "average", "inception_pool_size": 5},
    {"inception_pool_size": 1},
    {"inception_pool_size": 7},
    {"halving": "max"},
    {"halving": "max", "inception_pool": "average", "inception_activation": "identity"},
    {"inception_five": (True,) * 5},
    {"inception_five": (False,) * 5},
    {"inception_five": (False, True, False, True, True), "halving": "max"},
    {"inception": ((1, 5, 6, 7, 8, 9), (4,) * 6, (13, 1, 1, 1, 1, 1), (2, 9, 1, 9, 1, 2), (5, 4, 3, 2, 1, 6))},
    {"inception": ((16,) * 6, (16,) * 6, (8,) * 6, (8,) * 6, (4,) * 6), "stem_width": 32},
    {"stem_width": 1},
    {"stem_width": 40},
    {"patch_size": 4},
    {"patch_size": 32, "image_size": 32},
    {"patch_size": 16, "depth": 1},
    {"patch_size": 4, "image_size": 8},
    {"image_size": 48, "parallel_kernel": 3},
    {"width": 12, "parallel_groups": 2, "heads": 3, "parallel_width": 10},
    {"head_width": 1},
    {"channels": 3, "magnitudes": 3},
    {"channels": 1, "magnitudes": 9},
    {"asinh_softening": (0.01, 0.1, 1.0, 3.0, 0.5)},
    {"depth": 4},
]


def _differences(model: astromae.AstroMAE, folder: Path) -> tuple[float, float]:
    """The largest relative differences of the graph's redshifts, in batches of any size, and embeddings."""
    astromae.save(model, folder)
    optimise(folder)
    galaxies, fast = random_galaxies(19, model.config), load(folder, "onnxruntime", "float32", threads=2)
    expected = _redshifts(model, galaxies)
    redshifts = np.array([np.concatenate(list(fast.predict(galaxies.batches(n)))) for n in (1, 8, 11, 19)])
    ours, theirs = (_embeddings(one, galaxies) for one in (fast, load(folder, "torch", "float32", threads=1)))
    return (
        (np.abs(redshifts - expected) / np.maximum(1, np.abs(expected))).max(),
        np.abs(ours - theirs).max() / np.abs(theirs).max(),
    )


def _embeddings(engine: Engine, galaxies: Partition) -> NDArray[np.float32]:
    parts = [one.embedding for one in engine.outputs(galaxies.batches(8), embedding=True)]
    return np.concatenate([one for one in parts if one is not None])


@pytest.mark.parametrize("changes", VARIANTS, ids=label)
def test_graphs_of_all_variants_give_the_networks_redshifts(changes: dict[str, object], tmp_path: Path) -> None:
    model = small_model(**changes)
    redshifts, embeddings = _differences(model, tmp_path)
    assert redshifts < 1e-5
    assert embeddings < 1e-4
    fast = load(tmp_path, "onnxruntime", "float32", threads=1)
    assert (fast.layout.image, fast.layout.magnitudes) == (model.config.image_shape, model.config.magnitudes)
    assert fast.embedding_width == model.config.width


widths = st.integers(1, 9)
stacks = st.builds(Stack, st.lists(widths, min_size=1, max_size=4).map(tuple), st.sampled_from(ACTIVATIONS))


@st.composite
def configs(draw: st.DrawFn) -> astromae.Config:
    """Any config of a small network."""
    head_depth, heads, groups = draw(st.sampled_from([4, 8])), draw(st.integers(1, 3)), draw(st.integers(0, 2))
    patch = draw(st.sampled_from([4, 8, 16]))
    activation, flag = st.sampled_from(ACTIVATIONS), st.booleans()
    epsilon, pool = st.sampled_from([1e-6, 1e-5, 0.1]), st.sampled_from(sorted(astromae.POOLS))
    return astromae.Config(
        image_size=patch * draw(st.integers(1, 3)) if patch > 4 else draw(st.sampled_from([8, 16, 24])),
        channels=draw(st.integers(1, 6)),
        magnitudes=draw(st.integers(1, 6)),
        patch_size=patch,
        width=head_depth * heads * max(1, groups),
        depth=draw(st.integers(1, 3)),
        heads=heads,
        attention_scale=draw(st.none() | st.floats(-1, 1)),
        query_bias=draw(flag),
        key_bias=draw(flag),
        value_bias=draw(flag),
        mlp_width=draw(widths),
        mlp_activation=draw(activation),
        norm_eps=draw(epsilon),
        parallel_width=draw(widths) * max(1, groups),
        parallel_groups=groups,
        parallel_kernel=draw(st.sampled_from([1, 3])),
        parallel_activation=draw(activation),
        parallel_norm_eps=draw(epsilon),
        final_norm_eps=draw(epsilon),
        head_width=draw(widths),
        stem_width=draw(widths),
        inception=tuple(draw(st.tuples(*[widths] * 6)) for _ in range(5)),
        inception_five=tuple(draw(flag) for _ in range(5)),
        inception_activation=draw(st.just("relu") | activation),
        inception_norm_eps=draw(epsilon),
        inception_pool=draw(pool),
        inception_pool_size=draw(st.sampled_from([1, 3, 5])),
        halving=draw(pool),
        encoder_branch=draw(stacks),
        inception_branch=draw(stacks),
        magnitude_branch=draw(stacks),
        fusion=draw(stacks.map(lambda stack: replace(stack, widths=(*stack.widths[1:], 1)))),
    )


@settings(max_examples=25)
@given(config=configs(), seed=st.integers(0, 9))
def test_graphs_of_drawn_configurations_give_the_networks_redshifts(config: astromae.Config, seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        redshifts, embeddings = _differences(randomised(config, seed), Path(folder))
    assert redshifts < 1e-5
    assert embeddings < 1e-4


def _operators(model: astromae.AstroMAE, domain: str) -> set[str]:
    return {node.op_type for node in graph.build(model).graph.node if node.domain == domain}


def test_the_published_variant_is_computed_by_kernels_and_others_by_standard_operators() -> None:
    kernels = {"Soften", "AddNorm", "Attention", "Gelu", "Parallel", "Inception"}
    published = small_model(asinh_softening=(0.1,) * 5)
    assert _operators(published, "cosmicai") == kernels
    assert not _operators(published, "") & {"Conv", "MaxPool", "AveragePool", "Sigmoid"}
    for changes, lost in (
        ({"mlp_activation": "relu"}, {"Gelu"}),
        ({"parallel_activation": "relu"}, {"Parallel"}),
        ({"parallel_kernel": 3}, {"Parallel"}),
        ({"inception_activation": "silu"}, {"Inception"}),
        ({"inception_pool": "average"}, {"Inception"}),
        ({"inception_pool_size": 5}, {"Inception"}),
        ({"halving": "max"}, {"Inception"}),
    ):
        assert _operators(small_model(**changes), "cosmicai") == kernels - {"Soften"} - lost


def test_a_path_that_is_not_used_is_not_in_the_graph() -> None:
    sizes = [
        len(graph.build(small_model(inception_five=(five,) * 5)).SerializeToString()) for five in (True, False)
    ]
    unused = [
        layers.five
        for layers in map(rewrites.inception_layers, small_model(inception_five=(True,) * 5).inception.blocks)
    ]
    weights = sum(layer.kernel.size for layers in unused if layers for layer in layers)
    assert sizes[0] - sizes[1] > 4 * weights


@pytest.mark.parametrize("changes", [{}, {"inception_pool": "average", "mlp_activation": "relu"}], ids=label)
def test_what_is_not_a_number_stays_so_and_spoils_no_other_galaxy(
    changes: dict[str, object], tmp_path: Path
) -> None:
    model, galaxies = small_model(**changes), random_galaxies(9)
    galaxies.images[3, 2, 17, 30] = np.nan
    galaxies.magnitudes[7, 1] = np.nan
    astromae.save(model, tmp_path)
    optimise(tmp_path)
    (redshifts,) = load(tmp_path, "onnxruntime", "float32", threads=1).predict([galaxies])
    assert (
        np.isnan(redshifts).nonzero()[0].tolist() == np.isnan(_redshifts(model, galaxies)).nonzero()[0].tolist()
    )
    assert np.isnan(redshifts).nonzero()[0].tolist() == [3, 7]


def test_nothing_is_computed_for_the_class_token_after_the_last_attention() -> None:
    """The last block's MLP sees patch tokens alone, and its second layer their mean."""
    built = graph.build(small_model(parallel_groups=0))
    shapes = {initial.name: tuple(initial.dims) for initial in built.graph.initializer}
    wide = (SMALL.width, SMALL.mlp_width)
    expanding = [n for n in built.graph.node if n.op_type == "MatMul" and shapes.get(n.input[1]) == wide]
    assert len(expanding) == SMALL.depth
    means = [node for node in built.graph.node if node.op_type == "ReduceMean"]
    assert len(means) == 2  # of the MLP's hidden values and of what it is added to, never after the last layer


@pytest.mark.parametrize(("asked", "cut"), [(1, 1), (48, 48), (64, 64), (65, 33), (256, 64), (1024, 64)])
def test_a_large_batch_is_cut_into_even_parts_that_the_cache_holds(asked: int, cut: int) -> None:
    assert load(BUNDLED_MODEL, "auto", "auto", threads=2).batch(asked) == cut


def test_a_cpu_without_the_kernels_instructions_gets_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choosing, "instructions", lambda: None)
    assert choose(read_graphs(BUNDLED_MODEL), "auto", "auto").engine == "torch"
    with pytest.raises(EngineError, match="kernels of onnxruntime's graphs do not run on this CPU"):
        choose(read_graphs(BUNDLED_MODEL), "onnxruntime", "auto")


def test_weights_are_for_onnxruntime_the_bits_that_graphs_json_names(tmp_path: Path) -> None:
    astromae.save(small_model(), tmp_path)
    optimise(tmp_path)
    choice = choose(read_graphs(tmp_path), "auto", "auto")
    choosing.verify(tmp_path, choice)
    weights = tmp_path / "model.onnx.weights"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    with pytest.raises(EngineError, match=r"model\.onnx\.weights is not the file that graphs.json"):
        choosing.verify(tmp_path, choice)


def test_embeddings_of_a_batch_without_galaxies() -> None:
    for name in ("onnxruntime", "torch"):
        engine = load(BUNDLED_MODEL, name, "float32", threads=1)
        (none,) = engine.outputs(
            [random_galaxies(3, Config.read(BUNDLED_MODEL / "config.json")).rows(0, 0)], True
        )
        assert none.embedding is not None
        assert (none.redshift.shape, none.embedding.shape) == ((0,), (0, engine.embedding_width))


def test_a_graph_of_before_gives_no_embedding(tmp_path: Path) -> None:
    shutil.copytree(BUNDLED_MODEL, tmp_path, dirs_exist_ok=True)
    graph_file = tmp_path / "model.onnx"
    graph = onnx.load(graph_file, load_external_data=False)
    del graph.graph.output[1]
    graph_file.write_bytes(graph.SerializeToString())
    engine = load(tmp_path, "onnxruntime", "float32", threads=1)
    galaxies = random_galaxies(3, Config.read(tmp_path / "config.json"))
    assert len(next(engine.predict([galaxies]))) == 3
    with pytest.raises(EngineError, match="gives no embedding; run `cosmicai model optimise`"):
        list(engine.outputs([galaxies], embedding=True))


def test_the_fast_path_never_imports_torch() -> None:
    code = f"""
import sys, numpy as np
from pathlib import Path
from inference.engine.loading import BUNDLED_MODEL, load
from inference.data.partition import Partition
fast = load(BUNDLED_MODEL, "auto", "auto", threads=2)
ones = Partition(np.ones((3, 5, 32, 32), np.float32), np.full((3, 5), 23, np.float32), None)
assert np.isfinite(np.concatenate(list(fast.predict([ones])))).all()
print(sorted(set(sys.modules) & {{"torch", "onnx", "scipy"}}))
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
"""
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "[]"
