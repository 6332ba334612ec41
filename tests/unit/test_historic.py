"""Results.json has the keys of the historic one-machine script, with their units and meanings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cosmicai import reference
from cosmicai.results import historic
from inference.contract.accuracy import Metrics
from summarize.contract.rank_info import RankInfo
from summarize.contract.run_records import Run
from summarize.summary import summary

Json = dict[str, Any]

# As the historic script wrote them, from the project's facts.
KEYS = (
    "total cpu time (second)", "total gpu time (second)", "execution time per batch (second)",
    "cpu memory (MB)", "gpu memory (MB)", "throughput(bps)", "batch size", "number of batches", "device",
    "MAE", "MSE", "Bias", "Precision", "R2",
)  # fmt: skip
_SAMPLE_BITS = 8 * 4 * (32 * 32 * 5 + 5)  # float32 images and magnitudes
_RUN = Run(run_id="r", started="2026-11-22T00:00:00Z", payload={}, world_size=2, bytes=1)


def _rank(number: int, samples: int, seconds: float, **more: Any) -> RankInfo:
    """A rank of the engine with batches of 8."""
    batches = -(-samples // 8)
    return RankInfo.from_json({
        "rank": number, "run_id": "r", "engine": "onnxruntime", "device": "cpu", "num_samples": samples,
        "num_batches": batches, "batch_size": 8, "execution_time (seconds/batch)": seconds / batches,
        "total_cpu_time (seconds)": 1.5 * seconds, "total_cpu_memory (MB)": 100.0 + number,
        "throughput_bps": samples * _SAMPLE_BITS / seconds, "sample_persec": samples / seconds,
        "memory_limit (MB)": 1769, "duration (seconds)": seconds + 1, "architecture": "x86_64",
        "cold_start": True, "s3_num_requests": 3, "accuracy_state": None, **more,
    })  # fmt: skip


def _script(number: int, **written: Any) -> RankInfo:
    """What a rank that runs a script measures, with what the script wrote."""
    return RankInfo.from_json({
        "rank": number, "run_id": "r", "engine": "script", "num_samples": None, "memory_limit (MB)": 1769,
        "duration (seconds)": 3.0, "architecture": "x86_64", "cold_start": True, "s3_num_requests": 3,
        "accuracy_state": None, **written,
    })  # fmt: skip


def test_the_keys_are_the_historic_ones_to_the_letter() -> None:
    assert tuple(historic.results([_rank(0, 20, 2.0)], None))[: len(KEYS)] == KEYS
    assert tuple(historic.results([], None))[: len(KEYS)] == KEYS
    assert tuple(reference.RESULTS) == KEYS


def test_units_and_sums() -> None:
    figures = historic.results([_rank(0, 20, 2.0), _rank(1, 30, 3.0)], None)
    assert figures["total cpu time (second)"] == pytest.approx(7.5)
    assert figures["number of batches"] == 3 + 4
    assert figures["execution time per batch (second)"] == pytest.approx(5.0 / 7)
    assert figures["throughput(bps)"] == pytest.approx(50 * _SAMPLE_BITS / 5.0)
    assert figures["cpu memory (MB)"] == 101.0
    assert (figures["batch size"], figures["device"]) == (8, "cpu")
    assert (figures["total gpu time (second)"], figures["gpu memory (MB)"]) == (0.0, 0.0)
    assert (figures["num_samples"], figures["sample_persec"]) == (50, pytest.approx(10.0))
    assert [figures[name] for name in ("MAE", "MSE", "Bias", "Precision", "R2")] == [None] * 5


def test_what_is_not_measured_on_a_gpu_is_not_zero() -> None:
    figures = historic.results([_rank(0, 20, 2.0, device="cuda")], None)
    assert (figures["device"], figures["total gpu time (second)"], figures["gpu memory (MB)"]) == (
        "cuda",
        None,
        None,
    )


def test_accuracy_is_that_of_all_predictions(tmp_path: Path) -> None:
    """Against numpy, from the definitions; the precision of summary.json is that of a histogram."""
    rng = np.random.default_rng(1)
    infos, columns = [], []
    (tmp_path / "predictions").mkdir()
    for rank, size in enumerate((301, 200)):
        true = rng.uniform(0.1, 2, size).astype(np.float32)
        predicted = true + rng.normal(0.01, 0.05, size).astype(np.float32)
        true[0] = np.nan  # one is not known
        np.savez(tmp_path / "predictions" / f"{rank}.npz", z_pred=predicted, z_true=true)
        state = Metrics.of(predicted.tolist(), true.tolist(), [20.0] * size).to_json()
        infos.append(_rank(rank, size, 2.0, accuracy_state=state))
        columns.append((predicted[1:].astype(float), true[1:].astype(float)))
    historic.write(tmp_path, summary(_RUN, infos, {}), infos)
    figures = json.loads((tmp_path / "Results.json").read_text())
    predicted, true = (np.concatenate(parts) for parts in zip(*columns, strict=True))
    scaled = (predicted - true) / (1 + true)
    assert figures["MAE"] == pytest.approx(np.mean(np.abs(predicted - true)), rel=1e-9)
    assert figures["MSE"] == pytest.approx(np.mean((predicted - true) ** 2), rel=1e-9)
    assert figures["Bias"] == pytest.approx(np.mean(scaled), rel=1e-9)
    assert figures["Precision"] == pytest.approx(1.48 * np.median(np.abs(scaled - np.median(scaled))), rel=1e-9)
    assert figures["R2"] == pytest.approx(
        1 - np.sum((predicted - true) ** 2) / np.sum((true - true.mean()) ** 2)
    )
    assert (tmp_path / "inference.png").exists()


def test_without_predictions_the_precision_is_that_of_the_summary(tmp_path: Path) -> None:
    state = Metrics.of([0.5, 0.9, 1.4], [0.6, 0.8, 1.5], [20.0] * 3).to_json()
    infos = [_rank(0, 3, 1.0, accuracy_state=state)]
    content = summary(_RUN, infos, {})
    historic.write(tmp_path, content, infos)
    figures = json.loads((tmp_path / "Results.json").read_text())
    assert figures["Precision"] == (content.accuracy or {})["precision (NMAD)"]
    assert not (tmp_path / "inference.png").exists()


def test_redshifts_that_are_all_unknown_give_no_accuracy_and_no_picture(tmp_path: Path) -> None:
    (tmp_path / "predictions").mkdir()
    unknown = np.full(3, np.nan, np.float32)
    np.savez(tmp_path / "predictions" / "0.npz", z_pred=np.ones(3, np.float32), z_true=unknown)
    state = Metrics.of([1.0] * 3, unknown.tolist(), [20.0] * 3).to_json()
    infos = [_rank(0, 3, 1.0, accuracy_state=state)]
    historic.write(tmp_path, summary(_RUN, infos, {}), infos)
    figures = json.loads((tmp_path / "Results.json").read_text())
    assert [figures[name] for name in ("MAE", "MSE", "Bias", "Precision", "R2")] == [None] * 5
    assert not (tmp_path / "inference.png").exists()


def test_a_scripts_figures_count_by_either_name() -> None:
    ours = {"num_batches": 3, "batch_size": 8, "execution_time (seconds/batch)": 0.5, "device": "cpu"}
    theirs = {
        "number of batches": 1,
        "batch size": 8,
        "execution time per batch (second)": 2.5,
        "device": "cpu",
    }
    infos = [_script(0, **ours), _script(1, **theirs)]
    figures = historic.results(infos, None)
    assert figures["execution time per batch (second)"] == pytest.approx((3 * 0.5 + 2.5) / 4)
    assert (figures["batch size"], figures["number of batches"], figures["device"]) == (8, 4, "cpu")
    assert figures["num_samples"] == 32
    assert figures["num_samples_from"] == {
        "num_batches * batch_size": 1, "number of batches * batch size": 1,
    }  # fmt: skip
    assert figures["sample_persec"] is None  # 32 is an upper bound
    assert figures["throughput(bps)"] is None  # which no script said


def test_a_figure_that_one_rank_lacks_is_null() -> None:
    figures = historic.results([_script(0, num_batches=3, batch_size=8, device="cpu"), _script(1)], None)
    assert [figures[name] for name in KEYS] == [None] * len(KEYS)
    assert figures["num_samples_from"] == {"num_batches * batch_size": 1, "unknown": 1}
