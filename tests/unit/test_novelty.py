"""Galaxies unlike those of the network: real stars, swapped bands, wrong fluxes; and how rare others seem."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from torch.utils.data import TensorDataset

import cosmicai
from cosmicai.data import dc2
from cosmicai.model import calibrating
from cosmicai.model import novelty as learning
from cosmicai.model.calibrating import CalibratingError
from inference.contract.flags import Flag
from inference.contract.model_files import NOVELTY
from inference.engine.interface import EngineError
from inference.engine.loading import BUNDLED_MODEL, load
from inference.probability.novelty import Novelty, NoveltyError
from tests.conftest import CACHE

from .galaxies import made
from .test_real_data import SDSS, TO_MODEL

_CALIBRATED = 10_224  # the first galaxies of the validation split, by which the bundled network was calibrated
_STAR = 1  # label of SDSS's stamps
Arrays = tuple[np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def galaxies() -> Arrays:
    """Images and magnitudes of 400 DC2 galaxies that neither trained nor calibrated the network."""
    some = dc2.load("validation", CACHE)[_CALIBRATED : _CALIBRATED + 400]
    images = np.concatenate(list(dc2.render(some, seed=5)))
    return images, dc2.observed(some, seed=5).magnitudes


@pytest.fixture
def predictions(tmp_path: Path) -> Callable[[np.ndarray, np.ndarray], dict[str, np.ndarray]]:
    """ood_p and flags, as a rank writes them."""

    def find(images: np.ndarray, magnitudes: np.ndarray) -> dict[str, np.ndarray]:
        arrays = (np.ascontiguousarray(array, np.float32) for array in (images, magnitudes))
        torch.save(TensorDataset(*map(torch.from_numpy, arrays)), tmp_path / "1.pt")
        cosmicai.infer(tmp_path / "1.pt", tmp_path / "out", max_bad_fraction=1, overwrite=True)
        with np.load(tmp_path / "out" / "predictions" / "0.npz") as content:
            return dict(content)

    return find


def _flagged(arrays: dict[str, np.ndarray]) -> np.ndarray:
    flagged: np.ndarray = (arrays["flags"] & Flag.UNFAMILIAR) != 0
    return flagged


def test_galaxies_of_the_survey_are_rarely_flagged(galaxies: Arrays, predictions: Callable[..., Any]) -> None:
    """p is uniform: the bounds are three standard errors."""
    arrays = predictions(*galaxies)
    assert _flagged(arrays).mean() <= 0.01
    for level in (0.05, 0.2, 0.5):
        assert (arrays["ood_p"] <= level).mean() == pytest.approx(
            level, abs=3 * np.sqrt(level * (1 - level) / 400)
        )
    assert np.array_equal(_flagged(arrays), arrays["ood_p"] < 0.001)


def test_real_stars_are_flagged_and_real_galaxies_are_not(
    tmp_path: Path, predictions: Callable[..., Any]
) -> None:
    """Except one of each. SDSS's stamps, brought to the network's bands, pixel scale and zero point."""
    prepared, _ = made(SDSS, tmp_path / "sdss", TO_MODEL)
    arrays = predictions(prepared["images"], prepared["magnitudes"])
    with np.load(SDSS) as source:
        stars = source["label"] == _STAR
    assert (stars.sum(), (~stars).sum()) == (5, 15)
    assert _flagged(arrays)[stars].sum() == 4
    assert (arrays["ood_p"][stars] < 0.01).all()
    assert _flagged(arrays)[~stars].sum() == 1


@pytest.mark.parametrize(
    ("change", "flagged", "rare"),
    [
        (lambda images, magnitudes: (images[:, ::-1], magnitudes[:, ::-1]), 0.3, 0.5),
        (lambda images, magnitudes: (images[:, ::-1], magnitudes), 0.4, 0.6),
        (lambda images, magnitudes: (images, np.roll(magnitudes, 1, axis=0)), 0.3, 0.5),
        (lambda images, magnitudes: (10 * images, magnitudes), 0.99, 0.99),
        (lambda images, magnitudes: (images, magnitudes + 4.5), 0.9, 0.95),
        (
            lambda images, magnitudes: (np.random.default_rng(0).normal(0, 0.1, images.shape), magnitudes),
            0.99,
            0.99,
        ),
    ],
    ids=[
        "bands reversed",
        "bands of the images reversed",
        "magnitudes of others",
        "flux",
        "zero point",
        "noise",
    ],
)
def test_what_is_wrong_with_all_galaxies_shows(
    galaxies: Arrays,
    predictions: Callable[..., Any],
    change: Callable[..., Arrays],
    flagged: float,
    rare: float,
) -> None:
    arrays = predictions(*change(*galaxies))
    assert _flagged(arrays).mean() > flagged
    assert (arrays["ood_p"] < 0.05).mean() > rare


def test_galaxies_that_lack_something_have_no_p_value(
    galaxies: Arrays, predictions: Callable[..., Any]
) -> None:
    images, magnitudes = galaxies[0][:5].copy(), galaxies[1][:5].copy()
    images[1, 0, 0, 0], magnitudes[2, 3], images[3] = np.nan, np.nan, 0
    arrays = predictions(images, magnitudes)
    assert np.isnan(arrays["ood_p"]).tolist() == np.isnan(arrays["ood_score"]).tolist()
    assert np.isnan(arrays["ood_p"]).tolist() == [False, True, True, True, False]
    assert not _flagged(arrays)[1:4].any()


# The density and its file


@pytest.fixture(scope="module")
def learnt() -> tuple[Novelty, np.ndarray]:
    """Of vectors with long tails: three numbers of an embedding, two magnitudes."""
    random = np.random.default_rng(1)
    vectors = (random.standard_t(4, (4000, 5)) @ random.normal(0, 1, (5, 5)) + 20).astype(np.float32)
    fits = np.arange(4000) % 2 == 0
    return learning.learn("0" * 64, vectors[:, :3], vectors[:, 3:], fits), vectors


def test_the_score_is_that_of_the_mixture(learnt: tuple[Novelty, np.ndarray]) -> None:
    novelty, vectors = learnt
    logs = []
    for constant, centre, whitening in zip(novelty.constants, novelty.centres, novelty.whitenings, strict=True):
        covariance = np.linalg.inv(whitening.astype(float) @ whitening.T.astype(float))
        normal = multivariate_normal(centre, covariance)
        weight = constant - normal.logpdf(centre)
        logs.append(weight + normal.logpdf(vectors[:100]))
    expected = -logsumexp(logs, axis=0) / 5
    assert novelty.score(vectors[:100, :3], vectors[:100, 3:]) == pytest.approx(expected, abs=1e-4)
    assert (len(novelty.constants), novelty.fitted, len(novelty.scores)) == (8, 2000, 2000)


def test_p_values_are_uniform_whatever_the_density(learnt: tuple[Novelty, np.ndarray]) -> None:
    novelty, _ = learnt
    random = np.random.default_rng(1)
    random.standard_t(4, (4000, 5))
    mixing = random.normal(0, 1, (5, 5))
    others = (np.random.default_rng(2).standard_t(4, (4000, 5)) @ mixing + 20).astype(np.float32)
    p = novelty.p_value(novelty.score(others[:, :3], others[:, 3:]))
    for level in (0.01, 0.1, 0.5):
        assert (p <= level).mean() == pytest.approx(level, abs=4 * np.sqrt(level * (1 - level) / 2000))
    assert p.min() >= np.float32(1 / 2001)
    assert novelty.p_value(np.array([np.nan, np.inf, -np.inf], np.float32)) == pytest.approx(
        [np.nan, 1 / 2001, 1], nan_ok=True
    )
    assert novelty.score(np.empty((0, 3), np.float32), np.empty((0, 2), np.float32)).shape == (0,)


def test_the_file_gives_the_same_scores(learnt: tuple[Novelty, np.ndarray], tmp_path: Path) -> None:
    novelty, vectors = learnt
    novelty.write(tmp_path)
    again = Novelty.read(tmp_path)
    assert np.array_equal(
        again.score(vectors[:, :3], vectors[:, 3:]), novelty.score(vectors[:, :3], vectors[:, 3:])
    )
    assert np.array_equal(again.scores, novelty.scores)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"format": 2}, "format is not 1"),
        ({"embedding": 0}, "embedding is not a whole number from 1"),
        ({"components": 65}, "components is not a whole number from 1 to 64"),
        ({"components": 7}, "constants is not 7 numbers"),
        ({"galaxies": {"fitted": 1, "calibrated": 3}}, "scores is not 3 numbers"),
        ({"centres": "!"}, "malformed"),
        ({"scores": base64.b64encode(np.arange(2000, 0, -1).astype("<f4").tobytes()).decode()}, "do not rise"),
        ({"whitenings": base64.b64encode(np.full(200, np.nan, "<f4").tobytes()).decode()}, "within bounds"),
    ],
)
def test_a_malformed_file_says_what_is_wrong(
    learnt: tuple[Novelty, np.ndarray], tmp_path: Path, changes: dict[str, Any], fault: str
) -> None:
    (tmp_path / NOVELTY).write_text(json.dumps({**learnt[0].to_json(), **changes}))
    with pytest.raises(NoveltyError, match=fault) as error:
        Novelty.read(tmp_path)
    assert "run `cosmicai model calibrate`" in str(error.value)


def test_a_file_of_another_network_is_refused() -> None:
    novelty, engine = Novelty.read(BUNDLED_MODEL), load(BUNDLED_MODEL, "auto", "float32", 1)
    novelty.check(novelty.network, engine.embedding_width, engine.layout.magnitudes)
    with pytest.raises(NoveltyError, match="was made for another network"):
        replace(novelty, network="0" * 64).check(novelty.network, engine.embedding_width, 5)
    with pytest.raises(EngineError, match=r"gives no embedding.*cosmicai model optimise"):
        novelty.check(novelty.network, 0, 5)


def test_calibrating_writes_it(tmp_path: Path) -> None:
    """Of a network whose graphs have no embedding, it says what to do."""
    shutil.copytree(BUNDLED_MODEL, tmp_path / "model")
    (tmp_path / "model" / NOVELTY).unlink()
    partitions = dc2.partitions("validation", 1530, 5, CACHE)
    files = sorted(partitions.glob("*.pt"))
    calibrating.calibrate_folder(tmp_path / "model", files, "a test")
    novelty = Novelty.read(tmp_path / "model")
    card = json.loads((tmp_path / "model" / "card.json").read_text())
    assert card["calibration"]["galaxies whose scores give p-values"] == len(novelty.scores) == 765
    assert novelty.network == Novelty.read(BUNDLED_MODEL).network
    graph_file = tmp_path / "model" / "model.onnx"
    graph = onnx.load(graph_file, load_external_data=False)
    del graph.graph.output[1]
    graph_file.write_bytes(graph.SerializeToString())
    with pytest.raises(CalibratingError, match=r"earlier version.*run `cosmicai model optimise`"):
        calibrating.calibrate_folder(tmp_path / "model", files, "a test")
