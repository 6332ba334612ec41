"""Downloads the results of one run: the objects that are its own, and no others under its path."""

from __future__ import annotations

import errno
import json
import re
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from cosmicai.results.runfolder import run_folder
from cosmicai.runs.client import OverwrittenError, RunError
from inference.contract.paths import PathError, below, is_marker
from summarize.contract.run_records import COPIES

_TRANSFERS = 8  # objects in flight
_CLOCKS = timedelta(seconds=5)  # how far the clocks of S3 and Step Functions may differ
_FILE_AND_FOLDER = "it would be a file and a folder at once; rename one of them"
_KEY_FAULTS = {
    errno.EEXIST: _FILE_AND_FOLDER,
    errno.ENOTDIR: _FILE_AND_FOLDER,
    errno.EISDIR: _FILE_AND_FOLDER,
    errno.ENAMETOOLONG: "its name is too long for this file system; rename it",
}
"""Errors of the file system that come from an object's key, and their remedies."""
OF_ANOTHER_RUN = "of another run"
_OF_COPIES = f"{COPIES}/"
_OF_A_RANK = re.compile(r"(?:failures/)?(0|[1-9][0-9]{0,8})\.json|predictions/(0|[1-9][0-9]{0,8})\.npz")
_WITH_A_RUN_ID = ("run.json", "metrics.json", "summary.json", "combined_data.json", "manifest.json")
_NO_ID = object()

Json = dict[str, Any]
Progress = Callable[[int, int], None]
"""Called with (finished, total) objects."""


@dataclass(frozen=True)
class Downloaded:
    """The files that were downloaded, and the reasons why objects were not, by their keys."""

    files: list[Path]
    left_out: dict[str, str]


def download(
    s3: Any,
    bucket: str,
    folder: str,
    name: str,
    target: Path,
    progress: Progress = lambda finished, total: None,
    finish: Callable[[Path], None] = lambda folder: None,
    overwrite: bool = False,
    copies: bool = False,
) -> Downloaded:
    """Downloads what the run has left under s3://bucket/folder/ to `target`; name: its execution's.

    The files appear together at the end, in place of those of an earlier call, or of another run if
    `overwrite` is set; finish: adds more before that. copies: those of the run's copies too, to copies/ below
    `target`. Objects that mark folders are skipped. Those of other runs, and those whose keys lead outside
    `target`, are left out. Raises RunError if another run has overwritten the path or nothing is there, and
    OutputError; then nothing has changed.
    """
    place = f"s3://{bucket}/{folder}/"
    times = _written(s3, bucket, f"{folder}/")
    if "run.json" not in times:
        raise RunError(f"{place} holds no run.json: the run {name} has left nothing there")
    run = _plan(s3, bucket, f"{folder}/run.json", place, name)
    if "originals" in run and not copies:
        times = {name: time for name, time in times.items() if not name.startswith(_OF_COPIES)}

    def fetch(name: str) -> str | None:
        """Why an object is left out; None if it is in the scratch folder."""
        try:
            below(target, name)  # the limit on lengths is for this path, not for the scratch folder's
            path = below(scratch, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            s3.download_file(bucket, f"{folder}/{name}", str(path))
        except PathError as error:
            return str(error)
        except OSError as error:
            if error.errno not in _KEY_FAULTS:
                raise
            return _KEY_FAULTS[error.errno]
        if not _is_of(run, name, path, times[name]):
            path.unlink()
            return OF_ANOTHER_RUN
        return None

    files, left_out = list[Path](), dict[str, str]()
    with run_folder(target, str(run["run_id"]), overwrite) as scratch:
        with ThreadPoolExecutor(_TRANSFERS) as pool:
            for finished, (name, reason) in enumerate(zip(times, pool.map(fetch, times), strict=True), 1):
                if reason is None:
                    files.append(target / name)
                else:
                    left_out[f"{folder}/{name}"] = reason
                progress(finished, len(times))
        finish(scratch)
    return Downloaded(files, left_out)


def _written(s3: Any, bucket: str, prefix: str) -> dict[str, datetime]:
    """When each object below a prefix was written, by its name there."""
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    objects = [item for page in pages for item in page.get("Contents", []) if not is_marker(item["Key"])]
    return {item["Key"].removeprefix(prefix): item["LastModified"] for item in objects}


def _plan(s3: Any, bucket: str, key: str, place: str, name: str) -> Json:
    """run.json. Raises RunError unless it is that of the run."""
    try:
        run = json.load(s3.get_object(Bucket=bucket, Key=key)["Body"])
        run["world_size"] = int(run["world_size"])
        taken_by, started_as = run["run_id"], {run["run_id"], run.get("execution"), *run.get("executions", [])}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RunError(f"{place}run.json is not what a run writes: something has replaced it") from error
    if name not in started_as:
        raise OverwrittenError(taken_by, name, place)
    return dict(run)


def _is_of(run: Json, name: str, path: Path, modified: datetime) -> bool:
    """Whether an object is the run's: by the run id in it, else because it is not older than the run."""
    name = name.removeprefix(_OF_COPIES)
    rank = _OF_A_RANK.fullmatch(name)
    if rank is not None and int(rank[1] or rank[2]) >= run["world_size"]:
        return False
    if rank is not None or name in _WITH_A_RUN_ID:
        written_by = _run_id(path)
        if written_by is not _NO_ID:
            return bool(written_by == run["run_id"])
    try:
        return modified >= datetime.fromisoformat(run["started"]) - _CLOCKS
    except (KeyError, TypeError, ValueError):
        return True


def _run_id(path: Path) -> object:
    """The run id in a result of a rank or of the whole run; _NO_ID if there is none."""
    try:
        if path.suffix == ".npz":
            with np.load(path) as arrays:
                return str(arrays["run_id"])
        content = json.loads(path.read_bytes())
        first = content[0] if isinstance(content, list) else content
        return first["run_id"] if "run_id" in first else first["RUN_ID"]
    except (OSError, ValueError, KeyError, IndexError, TypeError, EOFError, RecursionError, zipfile.BadZipFile):
        return _NO_ID
