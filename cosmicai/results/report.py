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
from summarize.contract.run_records import COPIES, Summary
from summarize.report import report

_AGAIN = "download the run again: `cosmicai results NAME`, with the --team or --local of its deployment"


class ResultsError(RuntimeError):
    """A folder does not hold the results of a run."""


def write(folder: Path) -> Path:
    """Writes report.html and the historic files. Raises ResultsError and OutputError.

    The report lists the ranks of copies where they have been downloaded.
    """
    summary, infos = read(folder)
    copies = read_copies(folder) if (folder / COPIES / "combined_data.json").exists() else []
    page = folder / "report.html"
    try:
        text = report(summary, [*infos, *copies])
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
    """summary.json and combined_data.json, which has no copies. Raises ResultsError and OutputError."""
    check_complete(folder)
    path = folder / "summary.json"
    try:
        return Summary.from_json(_json(path)), _infos(folder)
    except RecordError as error:
        raise _not_of_a_run(path, error) from error


def read_copies(folder: Path) -> list[RankInfo]:
    """The rank infos of copies, which are in copies/ of a download. Raises ResultsError."""
    return _infos(folder / COPIES)


def _infos(folder: Path) -> list[RankInfo]:
    path = folder / "combined_data.json"
    infos = _json(path)
    try:
        if not isinstance(infos, list):
            raise RecordError("it is not a list")
        return [RankInfo.from_json(info) for info in infos]
    except RecordError as error:
        raise _not_of_a_run(path, error) from error


def _not_of_a_run(path: Path, error: RecordError) -> ResultsError:
    return ResultsError(f"{path} is not what a run writes ({error}); {_AGAIN}")


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ResultsError(f"{path} is missing: give a folder of downloaded results, or {_AGAIN}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ResultsError(f"{path} cannot be read: {error}") from error
