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
from inference.contract.missing import MAGNITUDE_MARKERS
from inference.data.missing import blank_rows, finite_rows, row_sums
from inference.data.partition import Partition, PartitionError
from inference.data.quality import Quality
from inference.data.rules import Rules
from inference.engine import astromae
from inference.engine.loading import BUNDLED_MODEL
from tests.conftest import CACHE

from .galaxies import galaxies, made

NAN, INF = float("nan"), float("inf")


def _galaxies(count: int = 4) -> Partition:
    random = np.random.default_rng(1)
    images = random.normal(0, 1, (count, 5, 32, 32)).astype(np.float32)
    return Partition(images, _faint(count), None)


def _faint(count: int) -> np.ndarray:
    return np.full((count, 5), 24, np.float32)


def _flags(*flags: Flag) -> list[int]:
    return [int(flag) for flag in flags]


HIDDEN = np.arange(5, dtype=np.float32)
HIDING = Rules(hidden_magnitudes=HIDDEN, hides_images=True)


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("rules", [HIDING, Rules()])
def test_values_that_are_not_finite_reach_no_network(value: float, rules: Rules) -> None:
    rows, quality = _galaxies(), Quality(rules)
    before = rows.images[2].copy()
    rows.images[0, 3, 5, 7] = rows.images[1, 0, 0, 0] = value
    rows.magnitudes[1, 4] = rows.magnitudes[3, 0] = value
    usable = quality.usable(rows)
    assert np.isfinite(usable.images).all()
    assert np.isfinite(usable.magnitudes).all()
    assert not usable.images[0].any()
    assert np.array_equal(usable.images[2], before)
    if rules.hidden_magnitudes is not None:
        assert np.array_equal(usable.magnitudes[3], rules.hidden_magnitudes)
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
    usable = Quality(HIDING).usable(rows)
    assert usable.images is rows.images
    assert usable.magnitudes is rows.magnitudes


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
    rows, quality = _galaxies(), Quality(Rules(HIDDEN, True, None, (low, high), (0.1, 2.0)))
    rows.magnitudes[1, 0], rows.magnitudes[2, 4], rows.magnitudes[3, 1] = 17.9, 25.1, NAN
    quality.usable(rows)
    z = quality.redshifts(np.array([0.05, 1, 2.5, NAN], np.float32))
    outside, far = Flag.FAINT_OR_BRIGHT, Flag.FAR_OR_NEAR
    assert quality.flags.tolist() == _flags(far, outside, outside | far, Flag.MAGNITUDES | Flag.NO_REDSHIFT)
    assert np.isnan(z).tolist() == [False, False, False, True]
    assert quality.counts() == {
        **dict.fromkeys(NAMES, 0), "magnitudes": 1, "no_redshift": 1, "faint_or_bright": 2, "far_or_near": 2,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("count", "bad", "most", "fails"),
    [
        *((20, 10, 0.0, True), (20, 10, 0.49, True), (20, 10, 0.5, False), (20, 20, 1.0, False)),
        *((1278, 63, 0.05, False), (1278, 64, 0.05, True)),
        *((2, 1, 0.05, False), (4, 2, 0.05, False), (19, 1, 0.05, False), (10, 5, 0.05, False)),  # a few
        *((2, 2, 0.05, True), (1, 1, 0.05, True), (4, 3, 0.05, True)),  # more than half of them
        *((12, 6, 0.05, True), (19, 1, 0.0, True)),
    ],
)
def test_more_than_the_share_that_is_allowed_fails_with_the_counts(
    count: int, bad: int, most: float, fails: bool
) -> None:
    quality, rows = Quality(HIDING), Partition(np.ones((count, 5, 1, 1), np.float32), _faint(count), None)
    rows.images[: (bad + 1) // 2], rows.magnitudes[(bad + 1) // 2 : bad] = NAN, -99
    quality.usable(rows)
    quality.redshifts(np.ones(count, np.float32))
    if not fails:
        return quality.check(most, "1.pt")
    message = rf"{bad} of {count:,} galaxies lack something \({(bad + 1) // 2}: the image holds NaN .*\)"
    with pytest.raises(PartitionError, match=rf"^1\.pt: {message}, and max_bad_fraction {most:g} allows fewer"):
        quality.check(most, "1.pt")
    return None


LIMITS = np.array([27.79, 29.04, 29.06, 28.62, 27.98], np.float32)


@pytest.mark.parametrize("value", [99.0, 99.9, 99.99, 99.999, 999.0, INF])
def test_a_magnitude_of_no_detection_becomes_the_limit(value: float) -> None:
    rows, quality = _galaxies(), Quality(Rules(HIDDEN, True, LIMITS, in_ab=True))
    before = rows.magnitudes.copy()
    rows.magnitudes[1, 2] = value
    magnitudes = quality.usable(rows).magnitudes
    before[1, 2] = LIMITS[2]
    assert np.array_equal(magnitudes, before)
    assert quality.flags.tolist() == _flags(Flag(0), Flag.NOT_DETECTED, Flag(0), Flag(0))
    assert np.array_equal(quality.magnitudes(5), before)
    assert quality.counts()["not_detected"] == 1
    without = Quality(Rules(HIDDEN, True, in_ab=True))  # a card without limits: nothing can stand for it
    assert np.array_equal(without.usable(rows).magnitudes[1], HIDDEN)
    assert without.flags[1] == Flag.MAGNITUDES


@pytest.mark.parametrize(
    "value", [-99.0, -99.9, -999.0, -9999.0, -99999.0, 9999.0, -9.0, -1.0, 0.0, NAN, -INF, 37.0, 7.9]
)
def test_a_magnitude_that_is_not_known_hides_all_of_them(value: float) -> None:
    rows, quality = _galaxies(), Quality(Rules(HIDDEN, True, LIMITS, in_ab=True))
    rows.magnitudes[1, 2] = value
    magnitudes = quality.usable(rows).magnitudes
    assert np.array_equal(magnitudes[1], HIDDEN)
    assert np.array_equal(magnitudes[[0, 2, 3]], rows.magnitudes[[0, 2, 3]])
    assert quality.flags.tolist() == _flags(Flag(0), Flag.MAGNITUDES, Flag(0), Flag(0))
    assert np.isnan(quality.magnitudes(5)[1]).tolist() == [False, False, True, False, False]


def test_a_magnitude_fainter_than_the_limit_becomes_it_as_in_prepare() -> None:
    rows, quality = _galaxies(), Quality(Rules(HIDDEN, True, LIMITS, in_ab=True))
    rows.magnitudes[:] = LIMITS
    rows.magnitudes[1, 4] += 0.5
    assert np.array_equal(quality.usable(rows).magnitudes, np.tile(LIMITS, (4, 1)))
    assert quality.flags.tolist() == _flags(Flag(0), Flag.NOT_DETECTED, Flag(0), Flag(0))


def test_raw_partitions_are_judged_as_prepared_ones(tmp_path: Path) -> None:
    """Every marker of the table, values beyond surveys and beyond the limit: the same at both ends."""
    arrays = galaxies()
    strange = [*MAGNITUDE_MARKERS, 36.1, 28.5, 27.79, 27.8]
    arrays["magnitudes"][: len(strange), 0], arrays["magnitudes"][3, 1] = strange, 7.9
    np.savez(tmp_path / "source.npz", **arrays)
    written, _ = made(tmp_path / "source.npz", tmp_path / "out")
    cleaned, _ = Rules.of_folder(BUNDLED_MODEL).cleaned(arrays["magnitudes"])
    assert np.array_equal(cleaned, written["magnitudes"], equal_nan=True)
    assert np.isnan(cleaned).any()
    again, undetected = Rules.of_folder(BUNDLED_MODEL).cleaned(written["magnitudes"])
    assert np.array_equal(again, cleaned, equal_nan=True)
    assert not undetected.any()


@pytest.mark.parametrize(("in_ab", "known"), [(None, [-1.5, 40]), (False, [-1.5, 40, 0, -1, 99])])
def test_markers_are_those_of_ab_magnitudes(in_ab: bool | None, known: list[float]) -> None:
    """Scaled magnitudes are 0 and -1 where nothing is missing; of an unknown kind only markers are missing."""
    values = np.array([-1.5, 40, 0, -1, 99], np.float32)
    rows, quality = _galaxies(5), Quality(Rules(HIDDEN, True, in_ab=in_ab))
    rows.magnitudes[:, 0] = values
    quality.usable(rows)
    assert values[(quality.flags & Flag.MAGNITUDES) == 0].tolist() == known


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        (Rules(HIDDEN, True), [False, False, False]),
        (Rules(HIDDEN, False), [True, True, False]),
        (Rules(None, True), [False, False, True]),
        (Rules(), [True, True, True]),
    ],
)
def test_a_network_that_cannot_do_without_an_input_gives_nan(rules: Rules, expected: list[bool]) -> None:
    rows, quality = _galaxies(), Quality(rules)
    rows.images[0, 0, 0, 0], rows.images[1], rows.magnitudes[2, 0] = NAN, 0, NAN
    quality.usable(rows)
    assert np.isnan(quality.redshifts(np.ones(4, np.float32))).tolist() == [*expected, False]


@pytest.mark.parametrize(
    ("recipe", "hides"),
    [
        ({"images_weight": 0.5, "magnitudes_weight": 0.5}, (True, True)),
        ({"images_weight": 0.0, "magnitudes_weight": 0.5}, (False, True)),
        ({"images_weight": 0.5, "magnitudes_weight": 0.0}, (True, False)),
        ({"images_weight": 0.5, "magnitudes_weight": 0.0, "without_images": True}, (False, True)),
        ({}, (False, False)),
    ],
)
def test_the_recipe_says_what_a_network_can_do_without(
    recipe: dict[str, object], hides: tuple[bool, bool], tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"hidden_magnitudes": [30.0] * 5}))
    (tmp_path / "card.json").write_text(json.dumps({"recipe": recipe}))
    rules = Rules.of_folder(tmp_path)
    assert (rules.hidden_magnitudes is not None, rules.hides_images) == hides


@pytest.mark.parametrize(
    ("card", "in_ab"),
    [
        ({"photometry": {"magnitude_limits": [28.0] * 5}}, True),
        ({"trained on": {"magnitudes, 0.1 and 99.9 percent": [[17] * 5, [27] * 5]}}, True),
        ({"trained on": {"magnitudes, 0.1 and 99.9 percent": [[-2] * 5, [2] * 5]}}, False),
        ({}, None),
    ],
)
def test_the_card_says_whether_magnitudes_are_ab(card: dict[str, object], in_ab: bool, tmp_path: Path) -> None:
    (tmp_path / "card.json").write_text(json.dumps(card))
    assert Rules.of_folder(tmp_path).in_ab is in_ab


def test_finite_and_blank_rows_are_told_by_their_values_not_their_sums() -> None:
    array = np.zeros((9, 2, 40), np.float32)
    array[1:3], array[2, 1, 3] = 3e38, INF  # sums beyond float32
    array[3, 0, 0], array[4, 1, 39], array[5, 0, :2] = NAN, -INF, (INF, -INF)
    array[6, 0, :2], array[7, 0, 0] = (1, -1), 1e-45  # a sum of zero, and the least value
    sums = row_sums(array)
    assert finite_rows(array).tolist() == np.isfinite(array).all((1, 2)).tolist()
    assert blank_rows(array, sums).tolist() == (array == 0).all((1, 2)).tolist()
    assert finite_rows(array[:0]).tolist() == []


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
    assert vars(Rules.of_folder(tmp_path)) == vars(Rules())
    for text in (
        "[",
        "[]",
        '{"trained on": 3, "hidden_magnitudes": "x"}',
        '{"trained on": {"redshift": [1e999]}}',
        '{"recipe": [1], "photometry": {"magnitude_limits": [28, 28]}, "hidden_magnitudes": [1]}',
        '{"recipe": {"images_weight": "1", "without_images": 1}, "hidden_magnitudes": [1]}',
    ):
        (tmp_path / "card.json").write_text(text)
        (tmp_path / "config.json").write_text(text)
        assert vars(Rules.of_folder(tmp_path)) == vars(Rules())


def test_every_flag_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "payload.md").read_text()
    for flag, meaning in FLAGS.items():
        assert f"| {int(flag)} | {name(flag)} | {meaning} |" in page
    assert sum(list(FLAGS)[:4]) == BAD


@pytest.mark.parametrize("engine", ["onnxruntime", "torch"])
def test_a_partition_with_bad_galaxies(tmp_path: Path, saved: Callable[[object], bytes], engine: str) -> None:
    """The other galaxies' redshifts are bit-identical; those of bad ones come from the input that is left."""
    folder = dc2.partitions("validation", 120, 1, CACHE, seed=3)
    images, magnitudes, z = (t.clone() for t in torch.load(folder / "1.pt", weights_only=False).tensors)
    whole = tmp_path / "whole.pt"
    shutil.copy(folder / "1.pt", whole)
    clean = _predicted(whole, tmp_path / "clean", engine, 0.0)
    images[3, 1, 4, 4], magnitudes[5, 0], images[7, 0, 0, 0], magnitudes[7, 1] = NAN, -99, INF, NAN
    magnitudes[9, 0] = 99
    bad = tmp_path / "bad.pt"
    bad.write_bytes(saved(TensorDataset(images, magnitudes, z)))
    with pytest.raises(InferenceError, match=r"3 of .* galaxies lack something"):
        infer([str(bad)], tmp_path / "refused", 64, 1, engine=engine, precision="float32", max_bad_fraction=0.0)
    predictions = _predicted(bad, tmp_path / "out", engine, 0.2)
    others = np.delete(np.arange(len(z)), [3, 5, 7, 9])
    assert np.array_equal(predictions["z_pred"][others], clean["z_pred"][others])
    assert not (predictions["flags"][others] & BAD).any()
    model = astromae.load(BUNDLED_MODEL)
    hidden = torch.tensor([model.config.hidden_magnitudes])
    with torch.inference_mode():
        by_magnitudes = model(torch.zeros_like(images[3:4]), magnitudes[3:4])
        by_image = model(images[5:6], hidden)
        magnitudes[9, 0] = dc2.LIMITING_MAGNITUDE["u"]
        by_limit = model(images[9:10], magnitudes[9:10])
    assert predictions["z_pred"][3] == pytest.approx(by_magnitudes.numpy()[0], abs=1e-5)
    assert predictions["z_pred"][5] == pytest.approx(by_image.numpy()[0], abs=1e-5)
    assert predictions["z_pred"][9] == pytest.approx(by_limit.numpy()[0], abs=1e-5)
    assert np.isnan(predictions["z_pred"][7])
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
