"""A user's own script: fetched from S3 into the scratch folder and run as a process of its own."""

from __future__ import annotations

import ctypes
import json
import os
import re
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from .contract.event import RankEvent
from .contract.paths import PathError, below
from .contract.rank_info import LEFT_OUT, RankInfo
from .contract.untrusted import UntrustedError, load
from .data.storage import ObjectError, Storage

_SHIMS = Path(__file__).parent / "shims"  # fmi and fmilib, under the names that scripts import
_LAST_LINES = 20  # of the output, in the error of a script that fails
_NO_TORCH = ': this lean image has no torch; set image.variant = "torch" in the team\'s tfvars and deploy'
_NO_MODULE = (
    ": the module {} is neither in the script's folder nor in the image; upload it with the script, or name "
    "its package in image.extra_packages and deploy"
)
_UNMET = (
    "the image does not have what requirements.txt asks for, and nothing is installed while a rank runs: add "
    "what the script needs to image.extra_packages"
)
_MISSING_MODULE = re.compile(r"ModuleNotFoundError: No module named '([A-Za-z_]\w*)")
_REQUIREMENT = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*)\s*(?:==\s*(?P<version>[\w.+!-]+)|[<>=!~][^;]*)?")
_PR_SET_DUMPABLE = 4  # linux/prctl.h
_MOST_BYTES = 1 << 18  # of a script's rank info
_MOST_DIGITS = 15  # of its whole numbers
_STREAM_LIMIT = 2000  # characters of a line that are kept for it

# Fields of a rank info that the script knows better than the rank.
_S3_FIGURES = ("s3_num_requests", "s3_total_time", "s3_avg_time", "s3_min_time", "s3_max_time")
_SCRIPTS_OWN = frozenset(("num_samples", "data_path", "result_path", "versions", *_S3_FIGURES))

Versions = dict[str, tuple[str, datetime] | None]


class ScriptError(RuntimeError):
    """The user's script is missing or has failed; the message has its exit status and last lines."""


class Scripts:
    """The folders of scripts that this sandbox has fetched; fetched again only when one has changed in S3."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._fetched: dict[Path, dict[str, str]] = {}

    def fetch(self, event: RankEvent, storage: Storage) -> Path:
        """The folder SCRATCH/<S3_object_name> with all objects below that name in the run's bucket."""
        target = _below("S3_object_name", self._scratch, str(event.script_folder))
        prefix = f"{event.script_folder}/"
        etags = storage.list_etags(event.bucket, prefix)
        if not etags:
            raise ScriptError(
                f"S3_object_name: s3://{event.bucket}/{prefix} holds no object; upload the script there"
            )
        fetched = self._fetched.get(target, {})
        where = f"S3_object_name: s3://{event.bucket}/{prefix}"
        paths = {key: _below(where, target, key.removeprefix(prefix)) for key in etags}
        for key, path in paths.items():
            if fetched.get(key) != etags[key]:
                _fetch_one(storage, event.bucket, key, path)
        for key in set(fetched) - set(etags):
            below(target, key.removeprefix(prefix)).unlink(missing_ok=True)
        self._fetched[target] = etags
        return target


def _below(what: str, folder: Path, name: str) -> Path:
    try:
        return below(folder, name)
    except PathError as error:
        raise ScriptError(f"{what}: {error}") from error


def _fetch_one(storage: Storage, bucket: str, key: str, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(storage.read(bucket, key))
    except (FileExistsError, NotADirectoryError, IsADirectoryError):
        raise ScriptError(
            f"S3_object_name: s3://{bucket}/{key} would be a file and a folder at once; rename one of them"
        ) from None


def run(event: RankEvent, folder: Path, scratch: Path, more: Mapping[str, str]) -> float:
    """Runs the script to its end; returns the seconds that it took. more: additional environment variables.

    Its output goes to the log line by line. Raises ScriptError if it is missing or its exit status is not 0.
    """
    script = _below("script", scratch, str(event.script).removeprefix("/tmp/"))  # noqa: S108 - as users write it
    if not script.is_file():
        inside = sorted(str(path.relative_to(scratch)) for path in folder.rglob("*.py"))[:10]
        raise ScriptError(
            f"script: there is no {event.script}; the folder has {', '.join(inside) or 'no .py file'}"
        )
    if unmet := unmet_requirements(folder):
        print(json.dumps({"message": _UNMET, "packages": unmet}))
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
        raise ScriptError(
            f"script {event.script} ended with {ending}{_remedy(last)}; its last lines:\n" + "\n".join(last)
        )
    return time.perf_counter() - start


def _remedy(last: Iterable[str]) -> str:
    """What to do about a module that the script lacks; '' if that is not why it failed."""
    missing = [match[1] for line in last if (match := _MISSING_MODULE.search(line))]
    if not missing:
        return ""
    return _NO_TORCH if missing[-1] == "torch" else _NO_MODULE.format(missing[-1])


def unmet_requirements(folder: Path) -> list[str]:
    """The lines of the folder's requirements.txt whose package the image lacks or has in another version.

    Lines with an option, a URL or a marker are ignored: what they ask for is not known here.
    """
    file = folder / "requirements.txt"
    lines = file.read_text(errors="replace").splitlines() if file.is_file() else []
    matches = (_REQUIREMENT.fullmatch(line.partition("#")[0].strip()) for line in lines)
    return [match[0] for match in matches if match and not _is_met(folder, match["name"], match["version"])]


def _is_met(folder: Path, name: str, version: str | None) -> bool:
    """Whether the script's folder or the image has the package, in the given version if there is one."""
    from importlib import metadata  # only here, as it would lengthen every cold start

    installed = [one.version for one in metadata.distributions(name=name, path=[str(folder), *sys.path])]
    return version in (installed[0], installed[0].partition("+")[0], None) if installed else False


def shield() -> None:
    """Hides this process's memory and environment from other processes of its user, such as a script: without
    PR_SET_DUMPABLE they can neither trace it nor open its /proc/PID/mem (prctl(2), ptrace(2))."""
    if sys.platform == "linux" and ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_DUMPABLE)")


def _environment(event: RankEvent, folder: Path, inherited: Mapping[str, str]) -> dict[str, str]:
    task_root = inherited.get("LAMBDA_TASK_ROOT", "")
    paths = [str(folder), task_root, str(_SHIMS), inherited.get("PYTHONPATH", "")]
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


def info_versions(event: RankEvent, storage: Storage) -> Versions:
    """ETag and time of {rank}.json in each bucket to which the script may write it; None if it is missing."""
    key, versions = f"{event.result_path}/{event.rank}.json", Versions()
    for bucket in dict.fromkeys([event.bucket, event.data_bucket]):
        versions[bucket] = None
        try:
            versions[bucket] = storage.list_versions(bucket, key).get(key)
        except ObjectError:
            if bucket == event.bucket:
                raise  # in another bucket the role may read only the partitions
    return versions


def written_info(event: RankEvent, storage: Storage, before: Versions) -> dict[str, Any]:
    """The rank info that the script itself has written since `before`; {} if it has written none.

    A number out of bounds becomes null, and the field left_out names it, as it does an object that is not JSON.
    Such faults do not cost the rank its result.
    """
    now = info_versions(event, storage)
    bucket = next((bucket for bucket in now if now[bucket] not in (None, before[bucket])), None)
    if bucket is None:
        return {}
    key = f"{event.result_path}/{event.rank}.json"
    body = storage.get_range(bucket, key, 0, _MOST_BYTES + 1).body
    try:
        content, faults = load(body, _MOST_BYTES, _MOST_DIGITS)
    except UntrustedError as error:
        content, faults = {}, [f"s3://{bucket}/{key}, which the script wrote, is not used: {error}"]
    info = content if isinstance(content, dict) else {"result": content}
    info.pop(LEFT_OUT, None)
    return {**info, LEFT_OUT: faults} if faults else info


def rank_info(measured: RankInfo, written: Mapping[str, Any]) -> dict[str, Any]:
    """What the rank has measured, followed by the script's own fields.

    Summarize and the cost use the measured fields, so a script cannot replace them; what it wrote under their
    names is kept in `script_values`.
    """
    info = replace(measured, engine="script").to_json()
    ours = info.keys() - _SCRIPTS_OWN
    requests = written.get("s3_num_requests")  # part of the cost
    if type(requests) is not int or requests < 0:
        ours.add("s3_num_requests")
    others = ours.intersection(written) - {"rank", "run_id"}
    differing = {name: written[name] for name in sorted(others) if written[name] != info[name]}
    info |= {name: value for name, value in written.items() if name not in ours}
    return {**info, "script_values": differing} if differing else info
