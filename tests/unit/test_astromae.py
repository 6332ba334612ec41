"""The network is the published one, and its folder round-trips."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from inference.data.partition import Partition
from inference.engine import astromae
from inference.engine.interface import EngineError
from inference.engine.loading import BUNDLED_MODEL, load

SMALL = astromae.Config(
    width=16,
    depth=2,
    heads=2,
    mlp_width=24,
    parallel_width=32,
    parallel_groups=4,
    head_width=8,
    stem_width=4,
    inception=((2, 3, 4, 5, 3, 1), (3, 2, 5, 1, 2, 4), (3,) * 6, (2, 1, 3, 2, 2, 5), (2, 3, 2, 1, 1, 3)),
    encoder_branch=astromae.Stack((12, 11)),
    inception_branch=astromae.Stack((9, 13)),
    magnitude_branch=astromae.Stack((10, 7, 8)),
    fusion=astromae.Stack((9, 1)),
)
REFERENCE = Path(__file__).parents[1] / "reference" / "astromae.json"


def randomised(config: astromae.Config, seed: int = 0) -> astromae.AstroMAE:
    """A network whose every parameter and running statistic is drawn at random; its outputs are of order 1."""
    generator = torch.Generator().manual_seed(seed)
    model = astromae.AstroMAE(config)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if not tensor.is_floating_point():
                continue
            drawn = torch.randn(tensor.shape, generator=generator)
            if name.endswith("running_var"):
                drawn = 0.5 + drawn.square()
            elif tensor.ndim > 1 and "token" not in name and "positions" not in name:
                drawn *= (len(tensor) / tensor.numel()) ** 0.5
            tensor.copy_(drawn)
    return model.eval()


def _inputs(count: int = 4, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 5, 32, 32, generator=generator), torch.randn(count, 5, generator=generator)


@pytest.mark.parametrize(
    ("changes", "count"), [({}, 15_902_889), ({"parallel_groups": 0, "key_bias": True}, 15_801_513)]
)
def test_the_published_configurations_have_the_published_numbers_of_parameters(
    changes: dict[str, int], count: int
) -> None:
    assert astromae.parameter_count(astromae.AstroMAE(replace(astromae.Config(), **changes))) == count  # type: ignore[arg-type]


def _published_outputs() -> list[float]:
    model = randomised(astromae.Config())
    with torch.inference_mode():
        outputs: list[float] = model(*_inputs(seed=1)).tolist()
    return outputs


def test_the_published_configuration_gives_the_stored_outputs() -> None:
    """Pins the arithmetic: any change of what the network computes shows here."""
    stored = json.loads(REFERENCE.read_text())["redshift"]
    assert _published_outputs() == pytest.approx(stored, abs=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"parallel_groups": 0},
        {"parallel_kernel": 3},
        {"query_bias": False, "key_bias": True, "value_bias": False},
        {"attention_scale": 0.3, "mlp_activation": "leaky_relu(0.1)", "mlp_width": 17},
        {"patch_size": 4},
        {"patch_size": 16, "depth": 1},
        {"channels": 3, "magnitudes": 3},
        {"asinh_softening": (0.1,) * 5},
        {
            "inception_pool": "average",
            "inception_pool_size": 5,
            "halving": "max",
            "inception_five": (True,) * 5,
        },
        {"fusion": astromae.Stack((1,)), "encoder_branch": astromae.Stack((5, 6, 7), "elu(1.0)")},
    ],
)
def test_variants_are_configurations_and_round_trip(changes: dict[str, object], tmp_path: Path) -> None:
    model = randomised(replace(SMALL, **changes))  # type: ignore[arg-type]
    images, magnitudes = _inputs()
    images, magnitudes = images[:, : model.config.channels], magnitudes[:, : model.config.magnitudes]
    astromae.save(model, tmp_path)
    again = astromae.load(tmp_path)
    assert again.config == model.config
    assert torch.equal(again(images, magnitudes), model(images, magnitudes))


@pytest.mark.parametrize(
    "changes",
    [
        {"asinh_softening": (0.1,) * 5},
        {"heads": 4},
        {"attention_scale": 0.3},
        {"mlp_activation": "relu"},
        {"parallel_activation": "relu"},
        {"inception_activation": "leaky_relu(0.1)"},
        {"norm_eps": 0.1},
        {"parallel_norm_eps": 1e-3},
        {"inception_norm_eps": 1e-3},
        {"final_norm_eps": 1e-2},
        {"inception_pool": "average"},
        {"inception_pool_size": 5},
        {"halving": "max"},
        *(
            {name: astromae.Stack(getattr(SMALL, name).widths, "elu(1.0)")}
            for name in ("encoder_branch", "inception_branch", "magnitude_branch", "fusion")
        ),
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_field_without_weights_of_its_own_changes_the_redshifts(changes: dict[str, object]) -> None:
    model = randomised(SMALL)
    other = astromae.AstroMAE(replace(SMALL, **changes)).eval()  # type: ignore[arg-type]
    other.load_state_dict(model.state_dict())
    with torch.inference_mode():
        difference = (other(*_inputs()) - model(*_inputs())).abs().max()
    assert difference > 2e-6


def test_every_part_of_the_input_and_every_parameter_but_those_of_unused_paths_counts() -> None:
    model = randomised(SMALL)
    images, magnitudes = (tensor.requires_grad_() for tensor in _inputs(16))
    model(images, magnitudes).sum().backward()
    assert images.grad is not None
    assert magnitudes.grad is not None
    assert bool((images.grad != 0).any(0).all())
    assert bool((magnitudes.grad != 0).any(0).all())
    unused = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    five = {name for name, _ in model.named_parameters() if name.startswith("inception.blocks.4.five.")}
    assert unused == {"encoder.positions"} | five


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
        ({"inception": ((1,) * 6,)}, "inception"),
        ({"inception": ((1, 1),) * 5}, "inception"),
        ({"inception_five": (True,)}, "inception_five"),
        ({"inception_pool": "median"}, "inception_pool"),
        ({"inception_pool_size": 2}, "inception_pool_size"),
        ({"halving": "none"}, "halving"),
        ({"parallel_kernel": 2}, "parallel_kernel"),
        ({"asinh_softening": (1.0,)}, "asinh_softening"),
        ({"hidden_magnitudes": (1.0,)}, "hidden_magnitudes"),
        ({"fusion": astromae.Stack((4, 2))}, "fusion"),
        ({"magnitude_branch": astromae.Stack(())}, "magnitude_branch"),
        ({"encoder_branch": astromae.Stack((4,), "mish")}, "encoder_branch 'mish'"),
        ({"mlp_activation": "elu"}, "mlp_activation 'elu'"),
        ({"mlp_activation": "relu(1.0)"}, "mlp_activation"),
    ],
)
def test_a_config_that_cannot_be_built_names_the_field(changes: dict[str, object], field: str) -> None:
    with pytest.raises(astromae.ConfigError, match=f"model config: {field}.* must be"):
        replace(SMALL, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('{"widht": 3}', "widht: unknown field; did you mean width?"),
        ('{"recipe": {}}', "recipe: unknown field; the fields are image_size, channels, "),
        ('{"image_size": "32"}', "image_size must be a whole number"),
        ('{"depth": true}', "depth must be a whole number"),
        ('{"heads": 0}', "heads must be at least 1"),
        ('{"density_bins": -1}', "density_bins must be at least 0"),
        ('{"norm_eps": null}', "norm_eps must be a number"),
        ('{"norm_eps": NaN}', "norm_eps must be a number"),
        ('{"query_bias": 1}', "query_bias must be true or false"),
        ('{"halving": 2}', "halving must be a text"),
        ('{"asinh_softening": [1, "a", 1, 1, 1]}', "asinh_softening must be a list of numbers or null"),
        ('{"inception": [[1, 2]]}', "inception must be five blocks of six widths"),
        ('{"inception_five": [1, 1, 1, 1, 0]}', "inception_five must be a list of true and false"),
        ('{"fusion": [64, 1]}', 'fusion must be a stack such as {"widths": [64, 64], "activation": "relu"}'),
        ('{"fusion": {"widths": 1}}', "fusion must be a stack such as"),
        ('{"fusion": {"widths": [0, 1]}}', "fusion must be a stack such as"),
        ('{"fusion": {"width": [64, 1]}}', "width must be widths or activation of a stack"),
        ("[]", "config.json is not a JSON object"),
        ("{", "config.json is not JSON ("),
    ],
)
def test_a_config_file_that_is_wrong_names_the_field_and_what_it_must_be(
    text: str, fault: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(astromae.ConfigError) as error:
        astromae.Config.read(tmp_path / "config.json")
    assert str(error.value).startswith(f"model config: {fault}")


def test_all_files_of_a_saved_network_can_be_read_by_whom_the_umask_lets(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        astromae.save(astromae.AstroMAE(SMALL), tmp_path)
    finally:
        os.umask(before)
    assert {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {
        "config.json": 0o644,
        "model.safetensors": 0o644,
    }


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


if __name__ == "__main__":  # python -m tests.unit.test_astromae: after a deliberate change of the network
    about = (
        f"randomised(Config()) of tests/unit/test_astromae.py on _inputs(seed=1), by torch {torch.__version__}"
    )
    made_by = "python -m tests.unit.test_astromae"
    values = {"about": about, "made by": made_by, "redshift": _published_outputs()}
    REFERENCE.write_text(json.dumps(values, indent=1) + "\n")
