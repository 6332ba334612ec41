"""The network is the published one, and its folder round-trips."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from inference import astromae
from inference.engine import BUNDLED_MODEL, EngineError, load
from inference.partition import Partition

SMALL = astromae.Config(
    width=16,
    depth=2,
    heads=2,
    parallel_groups=4,
    head_width=8,
    branch_width=12,
    stem_width=4,
    inception=((2, 3),) * 5,
    magnitude_width=10,
    fusion_width=9,
)


def _inputs(count: int = 4, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 5, 32, 32, generator=generator), torch.randn(count, 5, generator=generator)


def test_the_published_configuration_has_the_published_number_of_parameters() -> None:
    assert astromae.parameter_count(astromae.AstroMAE(astromae.Config())) == 15_902_889


def test_the_published_configuration_gives_the_stored_outputs() -> None:
    """Pins the arithmetic: any change of the architecture shows here."""
    torch.manual_seed(0)
    model = astromae.AstroMAE(astromae.Config()).eval()
    generator = torch.Generator().manual_seed(1)
    images, magnitudes = (torch.randn(4, *shape, generator=generator) for shape in ((5, 32, 32), (5,)))
    stored = json.loads((Path(__file__).parents[1] / "reference" / "astromae.json").read_text())["redshift"]
    with torch.inference_mode():
        assert model(images, magnitudes).tolist() == pytest.approx(stored, abs=1e-6)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"parallel_groups": 0},
        {"parallel_kernel": 3},
        {"key_bias": True},
        {"patch_size": 4},
        {"patch_size": 16, "depth": 1},
        {"channels": 3, "magnitudes": 3},
        {"asinh_softening": (0.1,) * 5},
    ],
)
def test_variants_are_configurations_and_round_trip(changes: dict[str, object], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = astromae.AstroMAE(replace(SMALL, **changes)).eval()
    images, magnitudes = _inputs()
    images, magnitudes = images[:, : model.config.channels], magnitudes[:, : model.config.magnitudes]
    astromae.save(model, tmp_path)
    again = astromae.load(tmp_path)
    assert again.config == model.config
    assert torch.equal(again(images, magnitudes), model(images, magnitudes))


def test_every_part_of_the_input_counts() -> None:
    torch.manual_seed(0)
    model = astromae.AstroMAE(SMALL)
    images, magnitudes = (tensor.requires_grad_() for tensor in _inputs())
    model(images, magnitudes).sum().backward()
    assert images.grad is not None
    assert magnitudes.grad is not None
    assert bool((images.grad != 0).any(0).all())
    assert bool((magnitudes.grad != 0).any(0).all())
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_a_redshift_does_not_depend_on_the_rest_of_the_batch() -> None:
    engine = load(BUNDLED_MODEL, "auto", "auto", threads=1)
    images, magnitudes = _inputs(33)
    galaxies = Partition(images.numpy(), magnitudes.numpy() + 24, None)
    (together,) = engine.predict([galaxies])
    alone = np.concatenate(list(engine.predict(galaxies.batches(1))))
    assert together == pytest.approx(alone, abs=1e-5)
    assert list(engine.predict([])) == []


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"heads": 5}, "width"),
        ({"patch_size": 5}, "image_size"),
        ({"inception": ((1, 1),)}, "inception"),
        ({"asinh_softening": (1.0,)}, "asinh_softening"),
        ({"magnitude_depth": 1}, "magnitude_depth"),
    ],
)
def test_a_config_that_cannot_be_built_names_the_field(changes: dict[str, object], field: str) -> None:
    with pytest.raises(astromae.ConfigError, match=f"model config: {field} must be"):
        replace(SMALL, **changes)


def test_an_unknown_config_field_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"widht": 3}')
    with pytest.raises(astromae.ConfigError, match="widht"):
        astromae.Config.read(tmp_path / "config.json")


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    astromae.save(astromae.AstroMAE(SMALL), tmp_path)
    replace(SMALL, depth=3).write(tmp_path / "config.json")
    with pytest.raises(astromae.ConfigError, match=r"does not fit its config\.json"):
        astromae.load(tmp_path)


def test_cuda_is_refused_where_there_is_none() -> None:
    if torch.cuda.is_available():
        assert load(BUNDLED_MODEL, "auto", "auto", threads=1, device="cuda").device == "cuda"
    else:
        with pytest.raises(EngineError, match="device: cuda is not available"):
            load(BUNDLED_MODEL, "auto", "auto", threads=1, device="cuda")


@pytest.mark.parametrize(("engine", "precision"), [("magic", "auto"), ("auto", "int3")])
def test_an_engine_that_does_not_exist_is_refused(engine: str, precision: str) -> None:
    with pytest.raises(EngineError, match="does not exist; give auto"):
        load(BUNDLED_MODEL, engine, precision, threads=1)
