"""A network with a second head gives p(z) itself: trained, exported, calibrated, and in the catalogue."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cosmicai.data import dc2
from cosmicai.model import calibrating, training
from cosmicai.model.calibrating import Predicted
from cosmicai.model.galaxies import Galaxies
from cosmicai.model.optimise import Limits, optimise
from cosmicai.model.recipe import Recipe
from inference.contract.columns import LEVELS
from inference.contract.model_files import CALIBRATION
from inference.data.partition import Partition
from inference.engine import astromae
from inference.engine.interface import EngineError
from inference.engine.loading import load
from inference.probability.calibration import Calibration, CalibrationError, bin_edges
from inference.probability.predictive import densities
from tests.conftest import CACHE
from tests.unit.test_astromae import SMALL, randomised

_COSMICAI = str(Path(sys.executable).with_name("cosmicai"))
_HEAD = replace(SMALL, density_bins=40, density_to=3.0)


def _galaxies(count: int) -> Partition:
    random = np.random.default_rng(0)
    images = random.standard_normal((count, 5, 32, 32), np.float32)
    return Partition(images, random.standard_normal((count, 5), np.float32), None)


@pytest.mark.parametrize("fusion", [(9, 1), (7, 6, 1), (1,)])
def test_the_graph_gives_the_networks_density(fusion: tuple[int, ...], tmp_path: Path) -> None:
    model = randomised(replace(_HEAD, fusion=astromae.Stack(fusion)))
    astromae.save(model, tmp_path)
    optimise(tmp_path)
    galaxies = _galaxies(11)
    with torch.inference_mode():
        expected = model.outputs(torch.tensor(galaxies.images), torch.tensor(galaxies.magnitudes))[2]
    assert expected is not None
    assert torch.allclose(expected.sum(1), torch.ones(11))
    for name, batch in (("onnxruntime", 11), ("onnxruntime", 3), ("torch", 4)):
        engine = load(tmp_path, name, "float32", threads=2)
        outputs = list(engine.outputs(galaxies.batches(batch), embedding=True, density=True))
        density = np.concatenate([one.density for one in outputs if one.density is not None])
        assert density == pytest.approx(expected.numpy(), abs=1e-6)
        assert next(iter(engine.outputs(galaxies.batches(11), embedding=False))).density is None


def test_a_network_without_the_head_gives_no_density(tmp_path: Path) -> None:
    astromae.save(randomised(SMALL), tmp_path)
    optimise(tmp_path)
    for name in ("onnxruntime", "torch"):
        engine = load(tmp_path, name, "float32", threads=1)
        assert engine.density_bins == 0
        with pytest.raises(EngineError, match=r"p\(z\)"):
            list(engine.outputs(_galaxies(3).batches(3), embedding=False, density=True))


@pytest.mark.parametrize("precision", ["int8", "bfloat16"])
def test_a_reduced_precision_must_keep_the_density_too(precision: str, tmp_path: Path) -> None:
    astromae.save(randomised(_HEAD), tmp_path)
    report = optimise(tmp_path, _galaxies(1512), Limits(mean=1.0, percentile=1.0))[precision]
    assert report.density_mean_difference is not None
    assert 0 < report.density_mean_difference < 0.05
    assert report.admitted
    kept = replace(report, mean_difference=0.0, percentile_999_difference=0.0)
    assert not replace(kept, limits=Limits(mean=report.density_mean_difference / 2, percentile=1.0)).admitted


def _binned(count: int, narrower: float) -> Predicted:
    """Galaxies whose redshifts scatter by 0.05 (1 + z), with p(z) that is too narrow by a factor."""
    random, edges = np.random.default_rng(1), bin_edges(200, 3.0)
    centre = random.uniform(0.3, 1.0, count)
    true = centre + random.normal(0, 0.05, count)
    place = (np.log1p(edges[1:]) + np.log1p(edges[:-1])) / 2
    logs = -0.5 * ((place - centre[:, None]) / (0.05 * narrower)) ** 2
    bins = np.exp(logs - logs.max(axis=1, keepdims=True))
    bins /= bins.sum(axis=1, keepdims=True)
    z_pred = np.expm1(centre).astype(np.float32)
    return Predicted(
        z_pred,
        np.zeros((count, 5), np.float32),
        np.expm1(true).astype(np.float32),
        None,
        bins.astype(np.float32),
        edges,
    )


def test_calibration_makes_narrow_densities_cover_what_they_state() -> None:
    galaxies = _binned(6000, narrower=0.5)
    calibrating_, judged = galaxies.at(np.arange(3000)), galaxies.at(np.arange(3000, 6000))
    made = calibrating.calibrate("0" * 64, calibrating_)
    assert (made.fitted, made.calibrated) == (0, 3000)
    for calibration, expected in (
        (made, (0.68, 0.95)),
        (replace(made, base=np.array([0.0, 1.0]), level=np.array([0.0, 1.0])), (0.38, 0.67)),
    ):
        calibrated = densities(calibration, judged.z_pred, judged.magnitudes, judged.redshift, judged.bins)
        columns = dict(zip(LEVELS, calibrated.z_quantiles.T, strict=True))
        for (low, high), share in zip(((0.16, 0.84), (0.025, 0.975)), expected, strict=True):
            inside = (columns[low] <= judged.redshift) & (judged.redshift <= columns[high])
            assert inside.mean() == pytest.approx(share, abs=0.025)


def test_the_density_has_the_peaks_of_the_bins() -> None:
    galaxies = _binned(3000, narrower=1.0)
    made = calibrating.calibrate("0" * 64, galaxies)
    assert galaxies.edges is not None
    bins = np.zeros((2, 200), np.float32)
    bins[0, [60, 150]] = 0.7, 0.3
    calibrated = densities(made, np.array([0.5, np.nan], np.float32), np.zeros((2, 5), np.float32), None, bins)
    middle = (galaxies.edges[1:] + galaxies.edges[:-1]) / 2
    assert calibrated.z_mode[0] == pytest.approx(middle[60], abs=0.01)
    pdf = calibrated.pdf[0].astype(np.float64)
    assert np.trapezoid(pdf, calibrated.redshifts) == pytest.approx(1, abs=5e-3)
    near = np.abs(calibrated.redshifts - middle[150]) < 0.05
    assert np.trapezoid(pdf[near], calibrated.redshifts[near]) == pytest.approx(0.3, abs=0.06)
    between = np.abs(calibrated.redshifts - (middle[60] + middle[150]) / 2) < 0.1
    assert pdf[between].max() < 1e-3
    assert np.isnan(calibrated.z_median[1])
    assert np.isnan(calibrated.pdf[1]).all()


def test_the_file_gives_the_same_densities_and_belongs_to_one_network(tmp_path: Path) -> None:
    galaxies = _binned(3000, narrower=1.0)
    made = calibrating.calibrate("0" * 64, galaxies)
    made.write(tmp_path)
    read = Calibration.read(tmp_path)
    before, after = (
        densities(one, galaxies.z_pred, galaxies.magnitudes, galaxies.redshift, galaxies.bins).arrays()
        for one in (made, read)
    )
    assert all(np.array_equal(before[name], after[name]) for name in before)
    read.check("0" * 64, 5, 200)
    with pytest.raises(CalibrationError, match="is for p\\(z\\) in 200 bins, and the graph has 0; run"):
        read.check("0" * 64, 5)
    with pytest.raises(CalibrationError, match="which the engine did not give"):
        densities(read, galaxies.z_pred, galaxies.magnitudes)
    for edges in ([0.0], [1.0, 0.5], "0", [-1.0, 1.0]):
        content = {**made.to_json(), "edges": edges}
        (tmp_path / CALIBRATION).write_text(json.dumps(content))
        with pytest.raises(CalibrationError, match="malformed"):
            Calibration.read(tmp_path)


def _ambiguous(count: int) -> Galaxies:
    """Galaxies of which nothing tells whether they are at redshift 0.5 or 2."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(count, 5, 32, 32, generator=generator)
    magnitudes = 24 + torch.randn(count, 5, generator=generator)
    far = torch.rand(count, generator=generator) < 0.4
    scatter = 0.02 * torch.randn(count, generator=generator)
    return Galaxies(images, magnitudes, torch.where(far, 2.0, 0.5) + scatter)


def test_training_gives_galaxies_with_two_redshifts_two_peaks(tmp_path: Path) -> None:
    """And the head can be added to a trained network."""
    recipe = Recipe(epochs=12, batch_size=32, learning_rate=3e-3, density_weight=0.2)
    known = _ambiguous(400)
    plain, _ = training.train(SMALL, known, replace(recipe, epochs=1))
    assert plain.density is None
    astromae.save(plain, tmp_path)
    for start in (None, tmp_path):
        model, _ = training.train(_HEAD, known, recipe, start=start)
        assert model.config.density_bins == 40
        with torch.inference_mode():
            bins = model.outputs(known.images, known.magnitudes)[2]
        assert bins is not None
        middle = torch.tensor(bin_edges(40, 3.0)[:-1] + np.diff(bin_edges(40, 3.0)) / 2)
        near, far = ((middle - z).abs() < 0.2 for z in (0.5, 2.0))
        assert 0.4 < float(bins[:, near].sum(1).median()) < 0.8
        assert 0.2 < float(bins[:, far].sum(1).median()) < 0.6
        assert float(bins[:, ~(near | far)].sum(1).median()) < 0.1


def test_from_training_to_a_catalogue_that_qp_reads(tmp_path: Path) -> None:
    known, others = dc2.partitions("training", 600, 25, CACHE), dc2.partitions("validation", 1530, 5, CACHE)
    config, model, out = tmp_path / "config.json", tmp_path / "model", tmp_path / "out"
    SMALL.write(config)
    for arguments in (
        ["model", "train", known, "--out", model, "--config", config, "--epochs", "3", "--pdf"],
        ["model", "optimise", model, "--calibration", others],
        ["model", "calibrate", model, "--calibration", others],
        ["infer", others, "--model", model, "--out", out],
        ["catalogue", out, "--format", "qp"],
    ):
        process = subprocess.run([_COSMICAI, *map(str, arguments)], capture_output=True, text=True)
        assert process.returncode == 0, process.stdout + process.stderr
    assert astromae.Config.read(model / "config.json").density_bins == 200
    graphs = json.loads((model / "graphs.json").read_text())
    assert graphs["int8"]["report"]["density_mean_difference"] >= 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import qp

        ensemble = qp.read(str(out / "catalogue.qp.hdf5"))
        assert ensemble.npdf == 1530
        assert np.all(ensemble.ancil["z_q025"] < ensemble.ancil["z_q975"])
        assert np.ravel(ensemble.median()) == pytest.approx(ensemble.ancil["z_median"], abs=0.05)
    accuracy = json.loads((out / "summary.json").read_text())["accuracy"]
    assert "PIT KS" in json.dumps(accuracy)
