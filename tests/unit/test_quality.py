"""One bad galaxy costs one galaxy: its flags, and the redshift that the rules give it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from cosmicai.data import dc2
from cosmicai.runs.infer import InferenceError, infer
from inference.contract.flags import BAD, FLAGS, NAMES, Flag, name
from inference.data.partition import Partition, PartitionError
from inference.data.quality import Quality, Rules
from inference.engine import astromae
from inference.engine.loading import BUNDLED_MODEL
from tests.conftest import CACHE

NAN, INF = float("nan"), float("inf")


def _galaxies(count: int = 4) -> Partition:
    random = np.random.default_rng(1)
    images = random.normal(0, 1, (count, 5, 32, 32)).astype(np.float32)
    return Partition(images, np.full((count, 5), 24, np.float32), None)


def _flags(*given: Flag) -> list[int]:
    return [int(flag) for flag in given]


HIDING = Rules(hidden_magnitudes=np.arange(5, dtype=np.float32))


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("rules", [HIDING, Rules()])
def test_values_that_are_not_finite_reach_no_network(value: float, rules: Rules) -> None:
    rows, quality = _galaxies(), Quality(rules)
    before = rows.images[2].copy()
    rows.images[0, 3, 5, 7] = rows.images[1, 0, 0, 0] = value
    rows.magnitudes[1, 4] = rows.magnitudes[3, 0] = value
    given = quality.usable(rows)
    assert np.isfinite(given.images).all()
    assert np.isfinite(given.magnitudes).all()
    assert not given.images[0].any()
    assert np.array_equal(given.images[2], before)
    if rules.hidden_magnitudes is not None:
        assert np.array_equal(given.magnitudes[3], rules.hidden_magnitudes)
    z = quality.redshifts(np.ones(4, np.float32))
    expected = [False, True, False, False] if rules is HIDING else [True, True, False, True]
    assert np.isnan(z).tolist() == expected
    none = [Flag.NO_REDSHIFT if missing else Flag(0) for missing in expected]
    assert quality.flags.tolist() == _flags(
        Flag.IMAGE | none[0], Flag.IMAGE | Flag.MAGNITUDES | none[1], Flag(0), Flag.MAGNITUDES | none[3]
    )


def test_sums_that_overflow_are_no_fault_of_a_galaxy() -> None:
    rows, quality = _galaxies(), Quality(HIDING)
    rows.images[1], rows.images[2, 0, 0] = 3e38, -3e38
    assert quality.usable(rows).images is rows.images
    assert quality.flags.tolist() == [0] * 4


def test_clean_galaxies_are_passed_on_as_they_are() -> None:
    rows = _galaxies()
    given = Quality(HIDING).usable(rows)
    assert given.images is rows.images
    assert given.magnitudes is rows.magnitudes


def test_a_blank_image_beside_unusable_magnitudes_leaves_nothing() -> None:
    rows, quality = _galaxies(2), Quality(HIDING)
    rows.images[:] = 0
    rows.magnitudes[1, 2] = NAN
    quality.usable(rows)
    z = quality.redshifts(np.ones(2, np.float32))
    assert np.isnan(z).tolist() == [False, True]
    assert quality.flags.tolist() == _flags(Flag.BLANK, Flag.BLANK | Flag.MAGNITUDES | Flag.NO_REDSHIFT)


def test_what_is_unlike_the_training_is_told() -> None:
    low, high = np.full(5, 18, np.float32), np.full(5, 25, np.float32)
    rows, quality = _galaxies(), Quality(Rules(HIDING.hidden_magnitudes, (low, high), (0.1, 2.0)))
    rows.magnitudes[1, 0], rows.magnitudes[2, 4], rows.magnitudes[3, 1] = 17.9, 25.1, NAN
    quality.usable(rows)
    z = quality.redshifts(np.array([0.05, 1, 2.5, NAN], np.float32))
    outside, far = Flag.FAINT_OR_BRIGHT, Flag.FAR_OR_NEAR
    assert quality.flags.tolist() == _flags(far, outside, outside | far, Flag.MAGNITUDES | Flag.NO_REDSHIFT)
    assert np.isnan(z).tolist() == [False, False, False, True]
    assert quality.counts() == {
        **dict.fromkeys(NAMES, 0), "magnitudes": 1, "no_redshift": 1, "faint_or_bright": 2, "far_or_near": 2,
    }  # fmt: skip


@pytest.mark.parametrize(("most", "fails"), [(0.0, True), (0.49, True), (0.5, False), (1.0, False)])
def test_more_than_the_share_that_is_allowed_fails_with_the_counts(most: float, fails: bool) -> None:
    rows, quality = _galaxies(), Quality(HIDING)
    rows.images[0, 0, 0, 0] = rows.magnitudes[1, 0] = NAN
    quality.usable(rows)
    quality.redshifts(np.ones(4, np.float32))
    if not fails:
        return quality.check(most, "1.pt")
    told = (
        r"^1\.pt: 2 of 4 galaxies lack something \(1: the image holds NaN .*; 1: a magnitude is NaN .*\), and "
    )
    with pytest.raises(PartitionError, match=told + f"max_bad_fraction {most:g} allows fewer"):
        quality.check(most, "1.pt")
    return None


def test_an_empty_rank_has_no_flags() -> None:
    quality = Quality()
    assert len(quality.redshifts(np.empty(0, np.float32))) == 0
    quality.check(0.0, "1.pt")


def test_the_rules_come_from_the_models_folder(tmp_path: Path) -> None:
    config = json.loads((BUNDLED_MODEL / "config.json").read_text())
    card = json.loads((BUNDLED_MODEL / "card.json").read_text())["trained on"]
    rules = Rules.of_folder(BUNDLED_MODEL)
    assert rules.hidden_magnitudes is not None
    assert rules.hidden_magnitudes.tolist() == pytest.approx(config["hidden_magnitudes"])
    assert rules.redshift == pytest.approx(card["redshift"])
    assert rules.magnitudes is not None
    assert rules.magnitudes[1].tolist() == pytest.approx(card["magnitudes, 0.1 and 99.9 percent"][1])
    assert Rules.of_folder(tmp_path) == Rules()
    for text in (
        "[",
        "[]",
        '{"trained on": 3, "hidden_magnitudes": "x"}',
        '{"trained on": {"redshift": [1e999]}}',
    ):
        (tmp_path / "card.json").write_text(text)
        (tmp_path / "config.json").write_text(text)
        assert Rules.of_folder(tmp_path) == Rules()


def test_every_flag_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "payload.md").read_text()
    for flag, meaning in FLAGS.items():
        assert f"| {int(flag)} | {name(flag)} | {meaning} |" in page
    assert sum(list(FLAGS)[:4]) == BAD


@pytest.mark.parametrize("engine", ["onnxruntime", "torch"])
def test_a_partition_with_bad_galaxies(tmp_path: Path, saved: Callable[[object], bytes], engine: str) -> None:
    """The others' redshifts are the same to the last bit; the bad ones' those of what is left of them."""
    folder = dc2.partitions("validation", 120, 1, CACHE, seed=3)
    images, magnitudes, z = (t.clone() for t in torch.load(folder / "1.pt", weights_only=False).tensors)
    whole = tmp_path / "whole.pt"
    shutil.copy(folder / "1.pt", whole)
    clean = _predicted(whole, tmp_path / "clean", engine, 0.0)
    images[3, 1, 4, 4], magnitudes[5, 0], images[7, 0, 0, 0], magnitudes[7, 1] = NAN, INF, INF, NAN
    bad = tmp_path / "bad.pt"
    bad.write_bytes(saved(TensorDataset(images, magnitudes, z)))
    with pytest.raises(InferenceError, match=r"3 of .* galaxies lack something"):
        infer([str(bad)], tmp_path / "refused", 64, 1, engine=engine, precision="float32", max_bad_fraction=0.0)
    found = _predicted(bad, tmp_path / "out", engine, 0.2)
    others = np.delete(np.arange(len(z)), [3, 5, 7])
    assert np.array_equal(found["z_pred"][others], clean["z_pred"][others])
    assert not (found["flags"][others] & BAD).any()
    model = astromae.load(BUNDLED_MODEL)
    hidden = torch.tensor([model.config.hidden_magnitudes])
    with torch.inference_mode():
        by_magnitudes = model(torch.zeros_like(images[3:4]), magnitudes[3:4])
        by_image = model(images[5:6], hidden)
    assert found["z_pred"][3] == pytest.approx(by_magnitudes.numpy()[0], abs=1e-5)
    assert found["z_pred"][5] == pytest.approx(by_image.numpy()[0], abs=1e-5)
    assert np.isnan(found["z_pred"][7])
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["accuracy"]["count"] == len(z) - 1
    assert summary["num_samples"] == len(z)
    kinds = {"image": 2, "blank": 0, "magnitudes": 2, "no_redshift": 1}
    assert {kind: summary["flags"][kind] for kind in kinds} == kinds
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Galaxies with flags" in page
    assert FLAGS[Flag.NO_REDSHIFT] in page
    assert "Galaxies with flags" not in (tmp_path / "clean" / "report.html").read_text()


def _predicted(file: Path, out: Path, engine: str, most: float) -> dict[str, np.ndarray]:
    infer([str(file)], out, 64, 1, engine=engine, precision="float32", max_bad_fraction=most)
    with np.load(out / "predictions" / "0.npz") as arrays:
        return dict(arrays)
