"""Accuracy from mergeable states equals accuracy computed at once."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.contract.accuracy import (
    NAMES,
    NMAD_ERROR,
    NORMAL_NMAD_FACTOR,
    Accuracy,
    BinnedAccuracy,
    exact_nmad,
)


def _reference(predicted: np.ndarray, true: np.ndarray) -> dict[str, float]:
    scaled = (predicted - true) / (1 + true)
    return {
        "MAE": np.mean(np.abs(predicted - true)),
        "MSE": np.mean((predicted - true) ** 2),
        "bias": np.mean(scaled),
        "precision (NMAD)": 1.48 * np.median(np.abs(scaled - np.median(scaled))),
        "R2": 1 - np.sum((predicted - true) ** 2) / np.sum((true - true.mean()) ** 2),
        "outlier fraction": np.mean(np.abs(scaled) > 0.15),
    }


def _galaxies(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    true = rng.uniform(0.02, 3, count)
    return true + rng.standard_t(2, count) * 0.03 * (1 + true), true


@pytest.mark.parametrize("count", [2, 3, 100, 5001])
def test_measures_equal_their_definitions(count: int) -> None:
    predicted, true = _galaxies(count)
    measures = Accuracy.of(predicted, true).measures()
    reference = _reference(predicted, true)
    assert list(measures) == list(NAMES)
    for name in NAMES:
        tolerance = NMAD_ERROR if "NMAD" in name else 1e-9
        assert measures[name] == pytest.approx(reference[name], abs=tolerance)


@given(st.lists(st.integers(0, 60), min_size=1, max_size=8), st.randoms())
def test_the_order_and_the_split_over_ranks_do_not_matter(counts: list[int], order: object) -> None:
    predicted, true = _galaxies(sum(counts))
    edges = np.cumsum([0, *counts])
    parts = [Accuracy.of(predicted[a:b], true[a:b]) for a, b in pairwise(edges)]
    order.shuffle(parts)  # type: ignore[attr-defined]
    merged = Accuracy()
    for part in parts:
        merged.add(Accuracy.from_json(json.loads(json.dumps(part.to_json()))))
    whole = Accuracy.of(predicted, true)
    assert merged.histogram == whole.histogram
    assert merged.measures() == pytest.approx(whole.measures())


def test_undefined_measures_are_none_with_the_reason() -> None:
    assert Accuracy().measures() == dict.fromkeys(NAMES)
    assert Accuracy().undefined()["MAE"] == "no galaxy with a known redshift"
    same = Accuracy.of([0.5, 0.6], [0.5, 0.5])
    assert same.measures()["R2"] is None
    assert same.undefined() == {"R2": "all known redshifts are the same"}
    assert Accuracy.of([0.5, 0.6], [0.5, 0.7]).undefined() == {}


@pytest.mark.parametrize("count", [2, 3, 1001])
def test_nmad_of_one_rank_is_exact_with_either_factor(count: int) -> None:
    predicted, true = _galaxies(count)
    expected = _reference(predicted, true)["precision (NMAD)"]
    assert exact_nmad(predicted, true) == pytest.approx(expected, abs=1e-12)
    assert exact_nmad(predicted, true, NORMAL_NMAD_FACTOR) == pytest.approx(expected * 1.4826 / 1.48)
    assert exact_nmad([], []) is None


def test_bins_hold_the_galaxies_between_their_edges_and_merge() -> None:
    predicted, true = _galaxies(4000)
    edges = (0.0, 0.5, 1.0, 1.5, 4.0, 9.0)
    parts = [
        BinnedAccuracy.of(edges, true[rows], predicted[rows], true[rows])
        for rows in (slice(0, 100), slice(100, None))
    ]
    total = BinnedAccuracy.from_json(json.loads(json.dumps(parts[0].to_json())), edges)
    total.add(parts[1])
    table = total.table()
    assert [(row["from"], row["to"]) for row in table] == list(pairwise(edges))[:4]
    for row in table:
        inside = (true >= row["from"]) & (true < row["to"])
        assert row["count"] == inside.sum()
        assert row["bias"] == pytest.approx(_reference(predicted[inside], true[inside])["bias"])
    with pytest.raises(ValueError, match="edges"):
        total.add(BinnedAccuracy.of((0.0, 1.0), [], [], []))


def test_galaxies_without_a_redshift_are_left_out() -> None:
    state = Accuracy.of([0.5, 9.9, 0.7], [0.5, float("nan"), 0.6])
    assert (state.count, state.outliers) == (2, 0)


def test_far_outliers_are_counted_and_the_state_stays_small() -> None:
    predicted, true = _galaxies(100_000)
    predicted[::100] += 1e6
    state = Accuracy.of(predicted, true)
    assert state.outliers >= 1000
    assert len(json.dumps(state.to_json())) < 24_000


def test_a_state_of_another_resolution_is_refused() -> None:
    with pytest.raises(ValueError, match="bin_width"):
        Accuracy.from_json({**Accuracy().to_json(), "bin_width": 0.5})
