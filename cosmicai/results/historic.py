"""Results.json and inference.png as the historic one-machine script wrote them, for a run of any kind."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosmicai.results.outputs import new_file, write_text
from inference.contract.accuracy import NMAD_FACTOR
from inference.data.missing import known_redshifts
from summarize.contract.images import counted, is_exact
from summarize.contract.rank_info import RankInfo
from summarize.contract.run_records import Summary

Json = dict[str, Any]
Redshifts = NDArray[np.float64]

RESULTS = "Results.json"
IN_RANK_INFO = {
    "total cpu time (second)": "total_cpu_time (seconds)",
    "total gpu time (second)": "total_gpu_time (seconds)",
    "execution time per batch (second)": "execution_time (seconds/batch)",
    "cpu memory (MB)": "total_cpu_memory (MB)",
    "gpu memory (MB)": "total_gpu_memory (MB)",
    "throughput(bps)": "throughput_bps",
    "batch size": "batch_size",
    "number of batches": "num_batches",
    "device": "device",
}
"""Keys of Results.json, and the fields of a rank info that hold the same of one rank."""
MEASURES = {"MAE": "MAE", "MSE": "MSE", "Bias": "bias", "Precision": "precision (NMAD)", "R2": "R2"}
"""Keys of Results.json, and the measures of summary.json's accuracy."""


def write(folder: Path, summary: Summary, infos: Sequence[RankInfo]) -> None:
    """Writes Results.json and, if redshifts are known, inference.png to a folder laid out like a run."""
    accuracy = summary.accuracy
    measured = infos if accuracy is not None and accuracy["count"] > 0 else ()
    pairs = [_redshifts(folder, info.rank) for info in measured]
    known = [pair for pair in pairs if pair is not None and known_redshifts(pair[1]).any()]
    if known and accuracy is not None:
        predicted, true = (np.concatenate(columns) for columns in zip(*known, strict=True))
        _draw(predicted, true, accuracy, folder / "inference.png")
        if np.count_nonzero(known_redshifts(true)) == accuracy["count"]:
            accuracy = {**accuracy, "precision (NMAD)": nmad(predicted, true)}
    write_text(folder / RESULTS, json.dumps(results(infos, accuracy), indent=1))


def _draw(predicted: Redshifts, true: Redshifts, accuracy: Json, path: Path) -> None:
    """Draws the picture, if matplotlib is installed."""
    try:
        from cosmicai.results.plots import predicted_against_true
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "matplotlib":
            raise
        return
    known = known_redshifts(true)
    with new_file(path) as scratch:
        predicted_against_true(predicted[known], true[known], accuracy, scratch)


def nmad(predicted: Redshifts, true: Redshifts) -> float:
    """1.48 median|d - median d| with d = (z_pred - z) / (1 + z), over all galaxies whose redshift is known.

    Exact, while that of summary.json comes from a histogram.
    """
    known = known_redshifts(true)
    scaled = (predicted[known] - true[known]) / (1 + true[known])
    return float(NMAD_FACTOR * np.median(np.abs(scaled - np.median(scaled))))


def results(infos: Sequence[RankInfo], accuracy: Json | None) -> Json:
    """The historic figures of a whole run under their historic names, followed by ours.

    Times are sums over the ranks, memory is that of the largest rank, and throughput is bits of images and
    magnitudes per second of inference in one rank. A figure that not every rank has is None, and so is accuracy
    without known redshifts. accuracy: that of summary.json.
    """
    columns = {historic: _column(infos, historic) for historic in IN_RANK_INFO}
    batches, device = _total(columns["number of batches"]), _common(columns["device"])
    per_batch, rates = columns["execution time per batch (second)"], columns["throughput(bps)"]
    seconds = _products(per_batch, columns["number of batches"])
    time, bits = _total(seconds), _total(_products(rates, seconds))
    on_cpu = 0.0 if device == "cpu" else None
    figures = {
        "total cpu time (second)": _total(columns["total cpu time (second)"]),
        "total gpu time (second)": _total(columns["total gpu time (second)"], on_cpu),
        "execution time per batch (second)": _ratio(time, batches),
        "cpu memory (MB)": _largest(columns["cpu memory (MB)"]),
        "gpu memory (MB)": _largest(columns["gpu memory (MB)"], on_cpu),
        "throughput(bps)": _ratio(bits, time),
        "batch size": _common(columns["batch size"]),
        "number of batches": batches,
        "device": device,
    }
    measures = {name: None if accuracy is None else accuracy[ours] for name, ours in MEASURES.items()}
    return {**figures, **measures, **_ours(infos, figures, accuracy, time)}


def _ours(infos: Sequence[RankInfo], figures: Json, accuracy: Json | None, seconds: float | None) -> Json:
    """The same figures under the names of rank infos, and those that the historic script did not have."""
    samples, sources = counted(infos)
    return {
        **{ours: figures[historic] for historic, ours in IN_RANK_INFO.items()},
        "num_samples": samples,
        "num_samples_from": sources,
        "sample_persec": _ratio(samples, seconds) if is_exact(sources) else None,
        "outlier fraction": None if accuracy is None else accuracy["outlier fraction"],
    }


def _column(infos: Sequence[RankInfo], historic: str) -> list[Any] | None:
    """A field of every rank, which a script may have written under either name; None if one rank lacks it."""
    ours = IN_RANK_INFO[historic]
    if historic == "device":
        values: list[Any] = [info.device for info in infos]
    else:
        pairs = ((info.figure(ours), info.figure(historic)) for info in infos)
        values = [mine if mine is not None else theirs for mine, theirs in pairs]
    return None if not values or None in values else values


def _total(values: list[Any] | None, otherwise: float | None = None) -> Any:
    return otherwise if values is None else sum(values)


def _largest(values: list[Any] | None, otherwise: float | None = None) -> Any:
    return otherwise if values is None else max(values)


def _common(values: list[Any] | None) -> Any:
    """The value of all ranks; None if they differ."""
    return values[0] if values and all(value == values[0] for value in values) else None


def _products(first: list[Any] | None, second: list[Any] | None) -> list[float] | None:
    return None if first is None or second is None else [a * b for a, b in zip(first, second, strict=True)]


def _ratio(amount: float | None, by: float | None) -> float | None:
    return amount / by if amount is not None and by else None


def _redshifts(folder: Path, rank: int) -> tuple[Redshifts, Redshifts] | None:
    """(z_pred, z_true) of a rank; None if it saved none, or no redshift is known."""
    path = folder / "predictions" / f"{rank}.npz"
    try:
        with np.load(path) as arrays:
            predicted, true = (arrays[name].astype(np.float64) for name in ("z_pred", "z_true"))
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        return None  # not there, or not what a rank writes
    if predicted.ndim != 1 or predicted.shape != true.shape:
        return None
    has = np.isfinite(predicted)  # a galaxy without a redshift is not in the picture
    return predicted[has], true[has]
