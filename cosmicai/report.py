"""What is made of downloaded results: report.html, and the historic inference.png and Results.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from cosmicai.infer import historic_results
from cosmicai.plots import predicted_against_true
from summarize.report import report

Json = dict[str, Any]


class ResultsError(RuntimeError):
    """A folder holds no results of a run."""


def write(folder: Path) -> Path:
    """report.html of downloaded results, and what `historic` adds. Raises ResultsError."""
    summary, infos = _read(folder)
    page = folder / "report.html"
    page.write_text(report(summary, infos))
    historic(folder)
    return page


def historic(folder: Path) -> None:
    """Results.json, and inference.png where redshifts are known, for scripts that look for them."""
    if not (folder / "summary.json").exists():
        return  # a run that was ended before its summary
    summary, infos = _read(folder)
    ours = [info for info in infos if isinstance(info.get("num_batches"), int)]
    if ours:
        (folder / "Results.json").write_text(json.dumps(historic_results(ours), indent=1))
    pairs = [_redshifts(folder / "predictions" / f"{info['rank']}.npz") for info in ours]
    known = [pair for pair in pairs if pair is not None]
    if known and summary["accuracy"] is not None:
        predicted, true = (np.concatenate(columns) for columns in zip(*known, strict=True))
        predicted_against_true(predicted, true, summary["accuracy"], folder / "inference.png")


def _redshifts(path: Path) -> tuple[Any, Any] | None:
    if not path.exists():
        return None
    with np.load(path) as arrays:
        return (arrays["z_pred"], arrays["z_true"]) if "z_true" in arrays else None


def _read(folder: Path) -> tuple[Json, list[Json]]:
    try:
        found = [json.loads((folder / f"{name}.json").read_text()) for name in ("summary", "combined_data")]
    except FileNotFoundError as error:
        raise ResultsError(f"{error.filename} is missing: fetch a run with `cosmicai results NAME`") from None
    return found[0], found[1]
