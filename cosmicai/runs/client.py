"""Finds and follows runs, and downloads their results; the same on AWS and embedded."""

from __future__ import annotations

import errno
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cosmicai.results.outputs import new_folder, publish_run
from inference.contract.paths import PathError, below, is_marker

if TYPE_CHECKING:
    from cosmicai.deploy.target import Target

_POLL_SECONDS = 1.0
_TRANSFERS = 8  # objects in flight
_FILE_AND_FOLDER = "it would be a file and a folder at once; rename one of them"
_UNFIT = {
    errno.EEXIST: _FILE_AND_FOLDER,
    errno.ENOTDIR: _FILE_AND_FOLDER,
    errno.EISDIR: _FILE_AND_FOLDER,
    errno.ENAMETOOLONG: "its name is too long for this file system; rename it",
}
"""Errors of the file system that come from an object's key, and their remedies."""

Json = dict[str, Any]
Progress = Callable[[int, int], None]
"""Called with (done, total)."""


class RunError(RuntimeError):
    """A run does not allow what was asked; the message says what to do."""


@dataclass(frozen=True)
class Ended:
    """How an execution ended: Step Functions' status, and error and cause unless it succeeded."""

    status: str
    error: str
    cause: str

    @property
    def succeeded(self) -> bool:
        return self.status == "SUCCEEDED"


def executions(target: Target, limit: int) -> list[Json]:
    """The latest executions as Step Functions lists them, the newest first."""
    pages = target.client("stepfunctions").get_paginator("list_executions")
    found = pages.paginate(
        stateMachineArn=target.state_machine_arn,
        PaginationConfig={"MaxItems": limit, "PageSize": min(limit, 100)},
    )
    return [item for page in found for item in page["executions"]]


def execution_arn(target: Target, name: str | None) -> str:
    """The ARN of a run by its name, or of the latest. Raises RunError if there is none."""
    if name is not None:
        return target.execution_arn(name)
    latest = executions(target, 1)
    if not latest:
        raise RunError("there is no run yet: start one with `cosmicai run payloads/demo.json`")
    return str(latest[0]["executionArn"])


def follow(
    stepfunctions: Any,
    s3: Any,
    execution_arn: str,
    payload: Json,
    progress: Progress,
    poll: float = _POLL_SECONDS,
) -> Ended:
    """Waits until the execution ends; reports the ranks that are done, and all."""
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
    """The files that were downloaded, and the reasons why objects were not, by their keys."""

    files: list[Path]
    left_out: dict[str, str]


def download(
    s3: Any,
    bucket: str,
    folder: str,
    target: Path,
    progress: Progress = lambda done, total: None,
    finish: Callable[[Path], None] = lambda folder: None,
) -> Downloaded:
    """Downloads everything under s3://bucket/folder/ to `target`; progress in files.

    The files appear together at the end, in place of those of an earlier run; finish: adds more before that.
    Objects that stand for folders are skipped. Those whose keys lead outside `target` are left out. Raises
    OutputError, and then nothing has changed.
    """
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{folder}/")
    keys = [item["Key"] for page in pages for item in page.get("Contents", []) if not is_marker(item["Key"])]

    def fetch(key: str) -> Path | str:
        try:
            name = key.removeprefix(f"{folder}/")
            below(target, name)  # whose bytes count, not those of the scratch folder
            path = below(scratch, name)
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
    if not keys:
        return Downloaded([], {})
    with new_folder(target) as scratch:
        with ThreadPoolExecutor(_TRANSFERS) as pool:
            for done, (key, outcome) in enumerate(zip(keys, pool.map(fetch, keys), strict=True), 1):
                if isinstance(outcome, Path):
                    files.append(target / outcome.relative_to(scratch))
                else:
                    left_out[key] = outcome
                progress(done, len(keys))
        if files:
            finish(scratch)
            publish_run(scratch, target)
    return Downloaded(files, left_out)
