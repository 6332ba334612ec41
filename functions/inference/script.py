"""A user's own script: fetched from S3 into the scratch folder and run as a process of its own."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path

from .event import RankEvent
from .storage import Storage

_FOR_SCRIPTS = Path(__file__).parent / "for_scripts"  # fmi and fmilib, under the names that scripts import
_LAST_LINES = 20  # of the output, in the error of a script that fails
_NO_TORCH = ': this lean image has no torch, deploy with image_variant = "torch"'
_PR_SET_DUMPABLE = 4  # linux/prctl.h
_STREAM_LIMIT = 2000  # characters of a line that are kept for it


class ScriptError(RuntimeError):
    """The user's script is missing or has failed; the message holds its exit status and last lines."""


class Scripts:
    """The folders of scripts that this sandbox has fetched; fetched again only when one has changed in S3."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._fetched: dict[Path, dict[str, str]] = {}

    def fetch(self, event: RankEvent, storage: Storage) -> Path:
        """The folder SCRATCH/<S3_object_name> with all objects below that name in the run's bucket."""
        target = self._scratch / str(event.script_folder)
        prefix = f"{event.script_folder}/"
        wanted = storage.list_etags(event.bucket, prefix)
        if not wanted:
            raise ScriptError(
                f"S3_object_name: s3://{event.bucket}/{prefix} holds no object; upload the script there"
            )
        held = self._fetched.get(target, {})
        for key, etag in wanted.items():
            if held.get(key) != etag:
                self._fetch_one(event.bucket, key, target / key.removeprefix(prefix), storage)
        for key in set(held) - set(wanted):
            (target / key.removeprefix(prefix)).unlink(missing_ok=True)
        self._fetched[target] = wanted
        return target

    def _fetch_one(self, bucket: str, key: str, path: Path, storage: Storage) -> None:
        if ".." in path.parts:
            raise ScriptError(f"S3_object_name: s3://{bucket}/{key} would be written outside its folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(storage.read(bucket, key))


def run(event: RankEvent, folder: Path, scratch: Path, more: Mapping[str, str]) -> float:
    """Runs the script to its end; returns the seconds that it took. more: environment variables for it.

    Its output goes to the log line by line. Raises ScriptError when it is missing or ends with another
    status than 0.
    """
    script = scratch / str(event.script).removeprefix("/tmp/")  # noqa: S108 - the name users write
    if not script.is_file():
        inside = sorted(str(path.relative_to(scratch)) for path in folder.rglob("*.py"))[:10]
        raise ScriptError(
            f"script: there is no {event.script}; the folder has {', '.join(inside) or 'no .py file'}"
        )
    shield()
    start = time.perf_counter()
    last: deque[str] = deque(maxlen=_LAST_LINES)
    process = subprocess.Popen(
        [sys.executable, "-u", str(script)],
        cwd=folder,
        env={**_environment(event, folder, os.environ), **more},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    with process:
        for line in process.stdout or ():
            print(line, end="")
            last.append(line[:_STREAM_LIMIT].rstrip("\n"))
    if process.returncode:
        ending = (
            f"exit status {process.returncode}" if process.returncode > 0 else f"signal {-process.returncode}"
        )
        remedy = _NO_TORCH if any("No module named 'torch'" in line for line in last) else ""
        raise ScriptError(
            f"script {event.script} ended with {ending}{remedy}; its last lines:\n" + "\n".join(last)
        )
    return time.perf_counter() - start


def shield() -> None:
    """Keeps this process's memory and environment from others of its user, as a script is one: without
    PR_SET_DUMPABLE they can neither trace it nor open its /proc/PID/mem (prctl(2), ptrace(2))."""
    if sys.platform == "linux" and ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_DUMPABLE)")


def _environment(event: RankEvent, folder: Path, inherited: Mapping[str, str]) -> dict[str, str]:
    task_root = inherited.get("LAMBDA_TASK_ROOT", "")
    paths = [str(folder), task_root, str(_FOR_SCRIPTS), inherited.get("PYTHONPATH", "")]
    single = event.data_paths[0] if len(event.data_paths) == 1 else json.dumps(event.data_paths)
    return {
        **inherited,
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "RANK": str(event.rank),
        "WORLD_SIZE": str(event.world_size),
        "DATA_BUCKET": event.data_bucket,
        "DATA_PREFIX": event.data_prefix,
        "DATA_PATH": single,
        "RESULT_PATH": event.result_path,
        "BATCH_SIZE": str(event.batch_size),
        "S3_BUCKET": event.bucket,
        "RUN_ID": event.run_id,
    }


def written_info(event: RankEvent, storage: Storage, before: str | None) -> dict[str, object] | None:
    """The rank info that the script itself has written into data_bucket since `before`, its ETag then."""
    key = f"{event.result_path}/{event.rank}.json"
    now = info_etag(event, storage)
    if now is None or now == before:
        return None
    try:
        content = json.loads(storage.read(event.data_bucket, key))
    except ValueError as error:
        raise ScriptError(
            f"s3://{event.data_bucket}/{key}, which the script wrote, is no JSON: {error}"
        ) from None
    return content if isinstance(content, dict) else {"result": content}


def info_etag(event: RankEvent, storage: Storage) -> str | None:
    """ETag of {rank}.json in data_bucket, None where there is none."""
    key = f"{event.result_path}/{event.rank}.json"
    return storage.list_etags(event.data_bucket, key).get(key)
