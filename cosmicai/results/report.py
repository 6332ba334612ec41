"""report.html of downloaded results, and the historic Results.json and inference.png."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cosmicai.results import historic
from cosmicai.results.outputs import write_text
from cosmicai.results.runfolder import check_complete
from summarize.contract.fields import RecordError
from summarize.contract.rank_info import RankInfo
from summarize.contract.run_records import Summary
from summarize.report import report

_AGAIN = "download the run again: `cosmicai results NAME`, with the --team or --local of its deployment"


class ResultsError(RuntimeError):
    """A folder does not hold the results of a run."""


def write(folder: Path) -> Path:
    """Writes report.html and the historic files. Raises ResultsError and OutputError."""
    summary, infos = read(folder)
    page = folder / "report.html"
    try:
        text = report(summary, infos)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ResultsError(
            f"{folder / 'summary.json'} is not what a run writes ({type(error).__name__}: {error}); {_AGAIN}"
        ) from error
    write_text(page, text)
    historic.write(folder, summary, infos)
    return page


def historic_of(folder: Path) -> list[RankInfo] | None:
    """Adds Results.json and inference.png; the rank infos, or None if the run ended before its summary."""
    if not (folder / "summary.json").exists():
        return None
    summary, infos = read(folder)
    historic.write(folder, summary, infos)
    return infos


def read(folder: Path) -> tuple[Summary, list[RankInfo]]:
    """summary.json and combined_data.json. Raises ResultsError and OutputError."""
    check_complete(folder)
    summary, infos = (_json(folder / f"{name}.json") for name in ("summary", "combined_data"))
    if not isinstance(summary, dict) or not isinstance(infos, list):
        raise ResultsError(f"{folder}: its summary.json and combined_data.json are not those of a run")
    try:
        return Summary.from_json(summary), [RankInfo.from_json(info) for info in infos]
    except RecordError as error:
        raise ResultsError(
            f"{folder}: its summary.json and combined_data.json are not what a run writes ({error}); {_AGAIN}"
        ) from error


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ResultsError(f"{path} is missing: give a folder of downloaded results, or {_AGAIN}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ResultsError(f"{path} cannot be read: {error}") from error
