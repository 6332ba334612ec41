"""Starting a run on a deployment, following it, and fetching what it left: the same on AWS and emulated."""

from __future__ import annotations

import errno
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inference.paths import PathError, below, is_marker

_POLL_SECONDS = 1.0
_TRANSFERS = 8  # objects in flight
_FILE_AND_FOLDER = "it would be a file and a folder at once; rename one of them"
_UNFIT = {
    errno.EEXIST: _FILE_AND_FOLDER,
    errno.ENOTDIR: _FILE_AND_FOLDER,
    errno.EISDIR: _FILE_AND_FOLDER,
    errno.ENAMETOOLONG: "its name is too long for this file system; rename it",
}
"""Errors of the file system that are the key's fault, and what to tell."""

Json = dict[str, Any]
Progress = Callable[[int, int], None]
"""Called with (done, total)."""


@dataclass(frozen=True)
class Ended:
    """How an execution ended: Step Functions' status, and error and cause unless it succeeded."""

    status: str
    error: str
    cause: str

    @property
    def succeeded(self) -> bool:
        return self.status == "SUCCEEDED"


def upload_partitions(s3: Any, folder: Path, bucket: str, prefix: str, progress: Progress) -> int:
    """Uploads the folder's .pt files to s3://bucket/prefix/; returns their bytes."""
    files = sorted(folder.glob("*.pt"))
    total, sent = sum(file.stat().st_size for file in files), 0
    with ThreadPoolExecutor(_TRANSFERS) as pool:
        uploads = [
            (file, pool.submit(s3.upload_file, str(file), bucket, f"{prefix}/{file.name}")) for file in files
        ]
        for file, upload in uploads:
            upload.result()
            sent += file.stat().st_size
            progress(sent, total)
    return total


def follow(
    stepfunctions: Any,
    s3: Any,
    execution_arn: str,
    payload: Json,
    progress: Progress,
    poll: float = _POLL_SECONDS,
) -> Ended:
    """Waits for the execution's end, reporting ranks done of all while it runs."""
    while True:
        execution = stepfunctions.describe_execution(executionArn=execution_arn)
        ranks = _ranks(s3, payload)
        if ranks is not None:
            progress(*ranks)
        if execution["status"] != "RUNNING":
            return Ended(execution["status"], execution.get("error", ""), execution.get("cause", ""))
        time.sleep(poll)


def _ranks(s3: Any, payload: Json) -> tuple[int, int] | None:
    """(ranks with a result, all ranks); None before Initialize has written the plan."""
    bucket, folder = payload["bucket"], payload["result_path"]
    try:
        world_size = int(
            json.load(s3.get_object(Bucket=bucket, Key=f"{folder}/run.json")["Body"])["world_size"]
        )
    except s3.exceptions.NoSuchKey:
        return None
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{folder}/", Delimiter="/")
    names = (item["Key"].rpartition("/")[2] for page in pages for item in page.get("Contents", []))
    return sum(name.removesuffix(".json").isdigit() for name in names), world_size


@dataclass(frozen=True)
class Downloaded:
    """The files that were fetched, and why an object was not, by its key."""

    files: list[Path]
    left_out: dict[str, str]


def download(
    s3: Any, bucket: str, folder: str, target: Path, progress: Progress = lambda done, total: None
) -> Downloaded:
    """Everything under s3://bucket/folder/ as files of `target`; progress in files.

    Objects that stand for folders are skipped. Those whose keys lead outside `target` are left out.
    """
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{folder}/")
    keys = [item["Key"] for page in pages for item in page.get("Contents", []) if not is_marker(item["Key"])]

    def fetch(key: str) -> Path | str:
        try:
            path = below(target, key.removeprefix(f"{folder}/"))
            path.parent.mkdir(parents=True, exist_ok=True)
            s3.download_file(bucket, key, str(path))
        except PathError as error:
            return str(error)
        except OSError as error:
            if error.errno not in _UNFIT:
                raise
            return _UNFIT[error.errno]
        return path

    files, left_out = list[Path](), dict[str, str]()
    with ThreadPoolExecutor(_TRANSFERS) as pool:
        for done, (key, outcome) in enumerate(zip(keys, pool.map(fetch, keys), strict=True), 1):
            if isinstance(outcome, Path):
                files.append(outcome)
            else:
                left_out[key] = outcome
            progress(done, len(keys))
    return Downloaded(files, left_out)
