"""Training learns, is reproducible, and leaves a network that takes plain magnitudes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cosmicai.data import dc2
from cosmicai.model import pretraining, training
from cosmicai.model.galaxies import Galaxies, digest, read_galaxies, split
from cosmicai.model.recipe import Recipe
from inference.contract.accuracy import Accuracy
from inference.data import partition
from inference.engine import astromae
from inference.engine.loading import BUNDLED_MODEL
from tests.conftest import CACHE
from tests.unit.test_astromae import SMALL

RECIPE = Recipe(epochs=10, batch_size=32, learning_rate=3e-3)


@pytest.fixture(scope="module")
def galaxies() -> Galaxies:
    folder = dc2.partitions("training", 600, 25, CACHE)
    return read_galaxies(sorted(folder.glob("*.pt")))


def test_training_beats_the_mean_and_is_reproducible(galaxies: Galaxies) -> None:
    first, history = training.train(SMALL, galaxies, RECIPE)
    second, _ = training.train(SMALL, galaxies, RECIPE)
    assert len(history) == 10
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    with torch.inference_mode():
        predicted = first(galaxies.images, galaxies.magnitudes)
    measured = Accuracy.of(predicted.tolist(), galaxies.redshift.tolist()).measures()["MAE"]
    mean = float((galaxies.redshift - galaxies.redshift.mean()).abs().mean())
    assert measured is not None
    assert measured < 0.8 * mean


def test_a_training_that_is_cut_off_ends_with_the_same_weights(galaxies: Galaxies, tmp_path: Path) -> None:
    some, recipe = galaxies.at(torch.arange(200)), Recipe(epochs=4, batch_size=32)
    whole, _ = training.train(SMALL, some, recipe)
    seen: list[int] = []

    def cut_off(epoch: training.Epoch) -> None:
        seen.append(epoch.number)
        if len(seen) == 3:  # before the third epoch is saved
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        training.train(SMALL, some, recipe, cut_off, resume=tmp_path / "state.pt")
    resumed, history = training.train(SMALL, some, recipe, resume=tmp_path / "state.pt")
    assert len(history) == 4
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    with pytest.raises(training.ResumeError, match="belongs to another recipe"):
        training.train(SMALL, some, Recipe(epochs=5), resume=tmp_path / "state.pt")


def test_several_renderings_of_a_galaxy_stay_on_one_side(galaxies: Galaxies) -> None:
    """Also where their magnitudes differ, as those of two observations do."""
    some = galaxies.at(torch.arange(100).repeat(3))
    some = replace(some, magnitudes=some.magnitudes + torch.randn_like(some.magnitudes) * 0.1)
    left, right = split(some, 0.2)
    assert not set(left.redshift.tolist()) & set(right.redshift.tolist())
    assert (len(left), len(right)) == (240, 60)


def test_each_input_counts_and_either_may_be_hidden(galaxies: Galaxies) -> None:
    """Images or magnitudes alone give better redshifts than the mean, and shuffled images harm."""
    model, history = training.train(SMALL, galaxies, replace(RECIPE, epochs=15))
    hidden = torch.tensor([model.config.hidden_magnitudes]).expand(len(galaxies), -1)
    shuffled = galaxies.images[torch.randperm(len(galaxies), generator=torch.Generator().manual_seed(0))]
    with torch.inference_mode():
        errors = {
            name: float((model(images, magnitudes) - galaxies.redshift).abs().mean())
            for name, images, magnitudes in (
                ("both", galaxies.images, galaxies.magnitudes),
                ("images", galaxies.images, hidden),
                ("magnitudes", torch.zeros_like(galaxies.images), galaxies.magnitudes),
                ("shuffled", shuffled, galaxies.magnitudes),
            )
        }
    mean = float((galaxies.redshift - galaxies.redshift.mean()).abs().mean())
    assert errors["images"] < 0.9 * mean
    assert errors["magnitudes"] < 0.95 * mean
    assert errors["shuffled"] > 1.05 * errors["both"]
    assert history[-1].nmad_images_alone != history[-1].nmad_magnitudes_alone


def test_the_mean_bias_is_taken_out(galaxies: Galaxies) -> None:
    torch.manual_seed(0)
    model = astromae.AstroMAE(replace(SMALL, hidden_magnitudes=(30.0,) * 5)).eval()
    training.take_out_bias(model, galaxies, RECIPE)
    with torch.inference_mode():
        predicted = model(galaxies.images, galaxies.magnitudes)
    assert float(((predicted - galaxies.redshift) / (1 + galaxies.redshift)).mean()) == pytest.approx(
        0, abs=1e-5
    )


def test_a_network_of_magnitudes_alone_never_sees_an_image(galaxies: Galaxies) -> None:
    recipe = replace(RECIPE, epochs=2, without_images=True)
    first, _ = training.train(SMALL, galaxies, recipe)
    other = replace(galaxies, images=galaxies.images.flip(0))  # the same values, so the same softening
    second, _ = training.train(replace(SMALL), other, recipe)
    for name in ("magnitude_branch", "fusion"):
        pairs = zip(getattr(first, name).parameters(), getattr(second, name).parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
    some = galaxies.at(torch.arange(20))
    with torch.inference_mode():  # nor does a rank that has images
        by_blank = first(torch.zeros_like(some.images), some.magnitudes)
        assert torch.equal(first(some.images, some.magnitudes), by_blank)
    assert float(by_blank.std()) > 0


def test_mixed_precision_learns_as_float32_does(galaxies: Galaxies) -> None:
    recipe = replace(RECIPE, epochs=3)
    _, plain = training.train(SMALL, galaxies, recipe)
    model, mixed = training.train(SMALL, galaxies, replace(recipe, mixed_precision=True))
    assert mixed[-1].training_loss == pytest.approx(plain[-1].training_loss, rel=0.05)
    assert mixed[-1].training_loss != plain[-1].training_loss
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


def test_masked_pretraining_learns_and_its_encoder_is_used(galaxies: Galaxies, tmp_path: Path) -> None:
    losses: list[float] = []
    recipe = Recipe(epochs=6, batch_size=32, learning_rate=3e-3)
    pretrained = pretraining.pretrain(SMALL, galaxies, recipe, lambda _, loss: losses.append(loss))
    assert losses[-1] < 0.97 * losses[0]
    astromae.save(pretrained, tmp_path)
    short = Recipe(epochs=1, batch_size=64, freeze_encoder=True)
    frozen, _ = training.train(SMALL, galaxies, short, encoder=tmp_path)
    weights = dict(pretrained.encoder.named_parameters())
    assert all(torch.equal(value, weights[name]) for name, value in frozen.encoder.named_parameters())
    free, _ = training.train(SMALL, galaxies, Recipe(epochs=1, batch_size=64), encoder=tmp_path)
    assert not torch.equal(free.encoder.embed.weight, pretrained.encoder.embed.weight)


def test_masked_pretraining_needs_pointwise_convolutions(galaxies: Galaxies) -> None:
    with pytest.raises(astromae.ConfigError, match="parallel_kernel must be 1"):
        pretraining.pretrain(replace(SMALL, parallel_kernel=3), galaxies, Recipe(epochs=1))


def test_it_stops_early(galaxies: Galaxies) -> None:
    recipe = Recipe(epochs=50, patience=1, learning_rate=1.0, batch_size=256)
    _, history = training.train(SMALL, galaxies.at(torch.arange(100)), recipe)
    assert len(history) < 50
    assert not history[-1].best


def test_files_without_redshifts_are_named(tmp_path: Path, galaxies: Galaxies) -> None:
    rows = galaxies.at(torch.arange(2))
    dc2.write_partition(tmp_path / "1.pt", rows.images.numpy(), rows.magnitudes.numpy(), None)
    with pytest.raises(partition.PartitionError, match=r"1\.pt: no redshifts"):
        read_galaxies([tmp_path / "1.pt"])


def test_the_committed_model_was_trained_on_the_training_galaxies() -> None:
    card = json.loads((BUNDLED_MODEL / "card.json").read_text())
    renderings = card["trained on"]["galaxies"] // len(dc2.load("training", CACHE))
    observed = dc2.observations("training", range(renderings), CACHE)
    known = Galaxies(torch.zeros(0), torch.from_numpy(observed.magnitudes), torch.from_numpy(observed.redshift))
    assert card["trained on"]["sha256 of magnitudes and redshifts"] == digest(known)
    assert card["parameters"] == astromae.parameter_count(astromae.load(BUNDLED_MODEL))
    assert any("model train" in command for command in card["commands"])


def test_the_committed_models_card_says_what_its_inputs_are() -> None:
    card = json.loads((BUNDLED_MODEL / "card.json").read_text())
    stated = card["photometry"]
    assert tuple(stated["bands"]) == dc2.PHOTOMETRY.bands
    assert (stated["zero_point"], stated["pixel_scale"]) == (27.0, 0.2)
    low, high = card["trained on"]["redshift"]
    assert 0 < low < 0.1 < 2.5 < high < 3.1


def test_training_further_begins_with_what_a_folder_has_learned(galaxies: Galaxies, tmp_path: Path) -> None:
    some = galaxies.at(torch.arange(300))
    first, _ = training.train(SMALL, some, Recipe(epochs=4, batch_size=32, learning_rate=3e-3))
    astromae.save(first, tmp_path)
    still = Recipe(epochs=1, batch_size=32, learning_rate=1e-9, weight_decay=0.0)
    second, history = training.train(astromae.Config(), some, still, start=tmp_path)
    assert second.config == first.config
    last = f"fusion.{len(first.fusion) - 1}."  # takes out the bias of the held-out galaxies again
    for (name, before), after in zip(first.named_parameters(), second.parameters(), strict=True):
        assert name.startswith(last) or torch.allclose(before, after, rtol=1e-4, atol=1e-6), name
    assert history[0].best
