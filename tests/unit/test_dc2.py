"""Rendered galaxies carry the catalogue's fluxes and errors, and are the same every time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cosmicai.data import dc2, photometry, stamps
from cosmicai.runs.infer import infer
from inference.data.objects import joined
from inference.data.partition import Layout, PartitionFile
from inference.data.torchfile import Buffer
from tests.conftest import CACHE


@pytest.fixture(scope="module")
def catalogue() -> dc2.Catalogue:
    return dc2.load("validation", CACHE)


def test_training_and_validation_never_mix(catalogue: dc2.Catalogue) -> None:
    training = dc2.load("training", CACHE)
    assert (len(training), len(catalogue)) == (10_225, 20_449)
    assert not set(training.identifiers) & set(catalogue.identifiers)


def test_galaxies_not_detected_get_the_limit_of_their_band(catalogue: dc2.Catalogue) -> None:
    assert 0 < (~catalogue.detected).sum() < 0.05 * catalogue.detected.size
    assert np.isfinite(catalogue.magnitudes).all()
    limits = np.array([dc2.LIMITING_MAGNITUDE[band] for band in stamps.BANDS], np.float32)
    assert (catalogue.magnitudes <= limits).all()


def test_any_first_galaxies_are_a_fair_sample(catalogue: dc2.Catalogue) -> None:
    assert np.median(catalogue.redshift[:2000]) == pytest.approx(np.median(catalogue.redshift), abs=0.05)


def test_a_stamp_depends_on_its_galaxy_and_the_seed_alone(catalogue: dc2.Catalogue) -> None:
    some = catalogue[:300]
    together = np.concatenate(list(dc2.render(some, seed=5)))
    last = some[299:]
    alone = stamps.render(
        int(last.identifiers[0]),
        last.magnitudes[0],
        last.errors[0],
        last.detected[0],
        float(last.redshift[0]),
        5,
    )
    assert np.array_equal(together[299], alone)
    assert not np.array_equal(together, np.concatenate(list(dc2.render(some, seed=6))))


def test_a_matched_filter_measures_the_catalogue_flux_with_the_catalogue_error() -> None:
    """Over many noise realisations of one galaxy: mean and spread of the optimally measured flux."""
    magnitudes = np.array([24.5, 24.0, 23.6, 23.3, 23.1], np.float32)
    errors = np.array([0.2, 0.1, 0.05, 0.03, 0.06], np.float32)
    seen = np.ones(5, bool)
    noiseless = stamps.render(1, magnitudes, errors * 1e-6, seen, 0.7, 0)
    noisy = _same_shape_many_noises(magnitudes, errors, noiseless)
    weights = noiseless / noiseless.sum((1, 2), keepdims=True)
    measured = (noisy * weights).sum((2, 3)) / (weights**2).sum((1, 2))
    expected, sigma = stamps.flux(magnitudes), stamps.flux_error(magnitudes, errors)
    assert measured.mean(0) == pytest.approx(expected, abs=4 * sigma.max() / np.sqrt(len(noisy)))
    assert measured.std(0) == pytest.approx(sigma, rel=0.15)


def _same_shape_many_noises(magnitudes: np.ndarray, errors: np.ndarray, noiseless: np.ndarray) -> np.ndarray:
    """400 renderings whose noise differs but whose shape is that of `noiseless`."""
    renderings = []
    for seed in range(400):
        stamp = stamps.render(seed + 10, magnitudes, errors, np.ones(5, bool), 0.7, 0)
        clean = stamps.render(seed + 10, magnitudes, errors * 1e-6, np.ones(5, bool), 0.7, 0)
        scale = np.sqrt((noiseless**2).sum((1, 2)) / (clean**2).sum((1, 2)))[:, None, None]
        renderings.append(noiseless + (stamp - clean) / scale)
    return np.stack(renderings)


def test_magnitudes_are_an_observation_with_the_catalogue_errors(catalogue: dc2.Catalogue) -> None:
    """Fluxes scatter around the catalogue's by its errors, independently of each other and of the order."""
    some = catalogue[:4000]
    first, second = (stamps.flux(dc2.observed(some, seed).magnitudes) for seed in (0, 1))
    bright = some.magnitudes < 24.5  # far from the limit, below which a flux is cut
    true, sigma = stamps.flux(some.magnitudes), stamps.flux_error(some.magnitudes, some.errors)
    scatters = [((fluxes - true) / sigma)[bright] for fluxes in (first, second)]
    for scatter in scatters:
        assert scatter.mean() == pytest.approx(0, abs=0.03)
        assert scatter.std() == pytest.approx(1, abs=0.03)
    assert np.corrcoef(scatters)[0, 1] == pytest.approx(0, abs=0.03)
    assert np.array_equal(dc2.observed(some[100:], 0).magnitudes, dc2.observed(some, 0).magnitudes[100:])
    limits = np.array([dc2.LIMITING_MAGNITUDE[band] for band in stamps.BANDS], np.float32)
    assert (dc2.observed(some, 0).magnitudes <= limits).all()


def test_partitions_hold_that_observation_and_say_what_their_numbers_mean() -> None:
    folder = dc2.partitions("validation", 120, 1, CACHE, seed=3)
    files = sorted(folder.glob("*.pt"))
    held = torch.cat([torch.load(file, weights_only=False).tensors[1] for file in files]).numpy()
    assert np.array_equal(held, dc2.observed(dc2.load("validation", CACHE)[:120], 3).magnitudes)
    assert photometry.read(folder) == dc2.PHOTOMETRY
    assert dc2.PHOTOMETRY.unknown == []


def test_partitions_have_the_published_size_and_layout(tmp_path: Path) -> None:
    assert dc2.rows_per_partition(25) == 1278
    folder = dc2.partitions("validation", 120, 1, CACHE, seed=3)
    files = sorted(path.name for path in folder.glob("*.pt"))
    assert files == ["1.pt", "2.pt", "3.pt"]
    first, last = (torch.load(folder / name, weights_only=False) for name in ("1.pt", "3.pt"))
    assert [tuple(tensor.shape) for tensor in first.tensors] == [(51, 5, 32, 32), (51, 5), (51,)]
    assert {tensor.dtype for tensor in first.tensors} == {torch.float32}
    assert len(last) == 120 - 2 * 51


def test_partitions_name_their_galaxies_exactly(tmp_path: Path) -> None:
    """By the catalogue's identifiers, from the file to the prediction and the catalogue of a run."""
    folder = dc2.partitions("validation", 120, 1, CACHE, seed=3)
    expected = dc2.load("validation", CACHE).identifiers[:120]
    files = [folder / name for name in ("1.pt", "2.pt", "3.pt")]
    held = [PartitionFile.open(Buffer(file.read_bytes()), file.name, Layout()).objects for file in files]
    columns = joined([(objects, len(objects["id"])) for objects in held if objects is not None])
    assert list(columns) == ["id"]
    assert columns["id"].dtype == np.int64
    assert np.array_equal(columns["id"], expected)
    infer([str(folder)], tmp_path / "out", 64, 3)
    for rank, part in enumerate(held):
        with np.load(tmp_path / "out" / "predictions" / f"{rank}.npz") as predictions:
            assert part is not None
            assert np.array_equal(predictions["id"], part["id"])
            assert predictions["id"].dtype == np.int64


def test_the_same_call_gives_the_same_bytes(tmp_path: Path) -> None:
    contents = []
    for name in ("a", "b"):
        cache = tmp_path / name
        cache.mkdir()
        for file in CACHE.glob("*.hdf5"):
            (cache / file.name).write_bytes(file.read_bytes())
        folder = dc2.partitions("training", 60, 1, cache, seed=1)
        contents.append([path.read_bytes() for path in sorted(folder.glob("*.pt"))])
    assert contents[0] == contents[1]


def test_more_galaxies_than_there_are_is_an_error() -> None:
    with pytest.raises(ValueError, match="galaxies is 20450: the validation split has 1 to 20449"):
        dc2.partitions("validation", 20_450, 25, CACHE)


def test_a_damaged_catalogue_is_refused(tmp_path: Path) -> None:
    (tmp_path / "test_dc2_training_9816.hdf5").write_bytes(b"not it")
    with pytest.raises(dc2.CatalogueError, match="delete it and try again"):
        dc2.load("training", tmp_path)
