"""report.html of downloaded results, with the historic Results.json and inference.png beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cosmicai import historic
from summarize.report import report

Json = dict[str, Any]


class ResultsError(RuntimeError):
    """A folder holds no results of a run."""


def write(folder: Path) -> Path:
    """report.html of downloaded results, and the historic files. Raises ResultsError."""
    summary, infos = read(folder)
    page = folder / "report.html"
    page.write_text(report(summary, infos))
    historic.write(folder, summary, infos)
    return page


def read(folder: Path) -> tuple[Json, list[Json]]:
    """summary.json and combined_data.json. Raises ResultsError."""
    try:
        found = [json.loads((folder / f"{name}.json").read_text()) for name in ("summary", "combined_data")]
    except FileNotFoundError as error:
        raise ResultsError(f"{error.filename} is missing: fetch a run with `cosmicai results NAME`") from None
    return found[0], found[1]
