"""Metrics of classes and other quantities: exact sums in any order, and states that no rank has written."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, f1_score, log_loss, r2_score, root_mean_squared_error

from inference.contract.accuracy import Metrics
from inference.contract.classification import NAMES, Classification
from inference.contract.metrics import AnyMetrics, added, read_metrics
from inference.contract.regression import Regression
from inference.metrics.reduction import Share
from summarize.contract.rank_info import RankInfo
from summarize.contract.run_records import Run
from summarize.summary import summary

CLASSES = ("a", "b", "c")
RUN = Run(run_id="r", started="2026-11-22T00:00:00Z", payload={}, world_size=8, bytes=1)


def _classified(seed: int, count: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """True classes (N,) and probabilities (N, 3)."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 3, count), rng.dirichlet(np.ones(3), count).astype(np.float32).astype(np.float64)


def _state(seed: int) -> Classification:
    true, probabilities = _classified(seed)
    hits = np.eye(3)[true]
    return Classification.of(
        "type", CLASSES, true.tolist(), probabilities.argmax(1).tolist(), probabilities[hits > 0].tolist(),
        ((probabilities - hits) ** 2).sum(1).tolist(),
    )  # fmt: skip


def _numbers(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    true = rng.normal(5, 2, 40)
    return true + rng.normal(0.1, 0.5, 40), true


def _merged(states: list[AnyMetrics]) -> AnyMetrics:
    total = None
    for one in states:
        total = added(total, copy.deepcopy(one))
    assert total is not None
    return total


@given(st.permutations(range(8)), st.booleans())
def test_ranks_add_up_to_the_same_bits_in_any_order(order: list[int], classes: bool) -> None:
    states: list[AnyMetrics] = [
        _state(seed) if classes else Regression.of("mass", *_numbers(seed)) for seed in range(8)
    ]
    assert _merged([states[rank] for rank in order]).to_json() == _merged(states).to_json()


def test_merged_classes_are_measured_as_scikit_learn_does() -> None:
    parts = [_classified(seed) for seed in range(8)]
    true, probabilities = (np.concatenate(column) for column in zip(*parts, strict=True))
    report = _merged([_state(seed) for seed in range(8)]).report()
    assert report["confusion"] == confusion_matrix(true, probabilities.argmax(1)).tolist()
    assert report["log loss"] == pytest.approx(
        log_loss(true, probabilities / probabilities.sum(1, keepdims=True)), abs=1e-6
    )
    scores = f1_score(true, probabilities.argmax(1), average=None)
    assert [one["F1"] for one in report["classes"]] == pytest.approx(scores)


def test_merged_numbers_are_measured_as_scikit_learn_does() -> None:
    parts = [_numbers(seed) for seed in range(8)]
    predicted, true = (np.concatenate(column) for column in zip(*parts, strict=True))
    report = _merged([Regression.of("mass", *_numbers(seed)) for seed in range(8)]).report()
    assert report["RMSE"] == pytest.approx(root_mean_squared_error(true, predicted))
    assert report["R2"] == pytest.approx(r2_score(true, predicted))


def test_large_numbers_keep_their_spread() -> None:
    true = [1e30, 1e30 * (1 + 1e-5), -3e38]
    report = Regression.of("x", true, true).report()
    assert (report["R2"], report["RMSE"]) == (1.0, 0.0)
    same = Regression.of("x", [1.0, 2.0], [5.0, 5.0])
    assert same.report()["undefined"] == {"R2": "all true values are the same"}


def test_without_objects_nothing_is_defined() -> None:
    empty = Classification.of("type", CLASSES, [], [], [], [])
    assert empty.measures() == dict.fromkeys(NAMES)
    assert set(empty.report()["undefined"]) == set(NAMES)
    assert Regression.of("x", [], []).report()["MAE"] is None


def test_a_certain_mistake_has_a_finite_log_loss() -> None:
    wrong = Classification.of("type", CLASSES, [0], [1], [0.0], [2.0])
    assert wrong.measures()["log loss"] == pytest.approx(-np.log(np.finfo(np.float32).eps))


def test_a_share_carries_every_kind() -> None:
    for state in (_state(0), Regression.of("mass", *_numbers(0)), Metrics.of([0.5], [0.6], [20.0])):
        assert Share.unpack(Share([3], 40, state).pack()) == Share([3], 40, state)


def test_metrics_of_other_kinds_or_classes_are_not_added() -> None:
    share = Share([0], 1, _state(0))
    before = _state(0)
    for other in (
        Regression.of("mass", *_numbers(0)),
        Metrics.of([0.5], [0.6], [20.0]),
        Classification("type", ("a", "b")),
        Classification("kind", CLASSES),
    ):
        with pytest.raises(ValueError, match=r"kinds|classes"):
            share.add(Share([1], 1, other))
        assert share == Share([0], 1, before)


def _info(rank: int, state: Any) -> RankInfo:
    return RankInfo(rank=rank, run_id="r", memory_limit=1.0, duration=1.0, accuracy_state=state)


def test_a_rank_of_another_model_counts_not_and_is_named() -> None:
    infos = [_info(0, _state(0).to_json()), _info(1, Metrics.of([0.5], [0.6], [20.0]).to_json())]
    run_summary = summary(RUN, infos, {})
    assert run_summary.accuracy == _state(0).report()
    assert run_summary.left_out == {
        "1": ["accuracy_state: metrics of different kinds: the ranks ran different models"]
    }


def test_a_hostile_state_is_refused_and_named() -> None:
    """Every field of a state removed, or replaced by something else, in all kinds."""
    values = [None, "x", -1, 1e400, [], {}, True, 10**200, ["a"] * 101, [1, 2]]
    for state in (_state(0), Regression.of("mass", *_numbers(0))):
        content: dict[str, Any] = json.loads(json.dumps(state.to_json()))
        assert read_metrics(content) == state
        for name in content:
            for value in values:
                wrong = {**content, name: value}
                try:
                    read = read_metrics(wrong)
                except ValueError:
                    continue
                assert json.loads(json.dumps(read.to_json())) == wrong, (name, value)
            less = {key: value for key, value in content.items() if key != name}
            with pytest.raises(ValueError, match="is missing"):
                read_metrics(less)
    for kind in ("guess", None, 3, ["redshift"]):
        with pytest.raises(ValueError, match=r"unknown kind|is missing"):
            read_metrics({"kind": kind})


def test_a_report_never_costs_the_run() -> None:
    """Whatever the counts, the measures are finite numbers or None."""
    rng = random.Random(0)
    for _ in range(200):
        count = rng.randint(1, 3)
        true = [rng.randrange(3) for _ in range(count)]
        predicted = [rng.randrange(3) for _ in range(count)]
        report = Classification.of("t", CLASSES, true, predicted, [1.0] * count, [0.0] * count).report()
        json.dumps(report, allow_nan=False)
        assert sum(map(sum, report["confusion"])) == count
