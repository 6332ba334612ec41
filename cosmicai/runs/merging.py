"""Puts the shares of `cosmicai infer --share` together: the results of one run over all partitions."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cosmicai.commands import command
from cosmicai.results.run_results import Results
from cosmicai.results.runfolder import check_complete, run_folder
from cosmicai.runs.infer import finish
from cosmicai.runs.shares import FOLDER, Share
from summarize.contract.run_records import Run
from summarize.summary import error_of

_RANK = re.compile(r"(0|[1-9][0-9]*)\.json")
_SHOWN = 5  # shares or partitions that a message names


class MergeError(ValueError):
    """The shares in a folder are not those of one run, or some are missing; the message says which, and why."""


@dataclass(frozen=True)
class _Computed:
    """The folder of a share, its run, and the ranks that it computed or that failed in it."""

    folder: Path
    share: Share
    run: Run
    ranks: set[int]
    failures: dict[int, dict[str, Any]]


def merge(out: Path, overwrite: bool = False) -> Results:
    """The results of all shares in `out`, as one call of `infer` without shares writes them.

    The shares stay. Raises MergeError, or OutputError if other results are there; then nothing has changed.
    """
    shares = _shares(out)
    run, computed = _checked(out, shares)
    with run_folder(out, run.run_id, overwrite) as scratch:
        for share in shares:
            for path in share.folder.rglob("*"):
                name = path.relative_to(share.folder)
                if path.is_file() and (_RANK.fullmatch(name.name) or name.suffix == ".npz"):
                    _place(path, scratch / name)
        failures = {rank: record for share in shares for rank, record in share.failures.items()}
        finish(scratch, run, sorted(computed - failures.keys()), failures)
    return Results(out)


def _shares(out: Path) -> list[_Computed]:
    shares = ((path, Share.of_folder(path)) for path in sorted((out / FOLDER).glob("*")))
    folders = [(path, share) for path, share in shares if share is not None]
    if not folders:
        raise MergeError(
            f"{out} holds no shares; {command('infer', 'PARTITIONS', '--out', out, '--share', '0/2')} computes "
            "one of two"
        )
    return [_read(folder, share) for folder, share in folders]


def _read(folder: Path, share: Share) -> _Computed:
    check_complete(folder)
    try:
        run = Run.from_json(json.loads((folder / "run.json").read_text(encoding="utf-8")))
        failed = {
            int(path.stem): error_of(json.loads(path.read_text(encoding="utf-8")))
            for path in (folder / "failures").glob("*")
        }
    except (OSError, ValueError) as error:
        raise MergeError(f"{folder} is not what `infer --share` writes ({error}); compute it again") from error
    ranks = {int(path.stem) for path in folder.iterdir() if _RANK.fullmatch(path.name)}
    return _Computed(folder, share, run, ranks | failed.keys(), failed)


def _checked(out: Path, shares: list[_Computed]) -> tuple[Run, set[int]]:
    """The run, started when its first share was, and its ranks. Raises MergeError."""
    first = shares[0]
    for other in shares:
        if other.run.run_id != first.run.run_id:
            raise MergeError(
                f"{first.folder} and {other.folder} are not of one run: their partitions, the number of shares "
                "or the options differ; compute them in the same way, or delete those that you do not want"
            )
    count = sum(len(share.ranks) for share in shares)
    computed = {rank for share in shares for rank in share.ranks}
    run = replace(first.run, started=min(share.run.started for share in shares))
    if len(computed) < count or computed - set(range(run.world_size)):
        raise MergeError(
            f"{out / FOLDER}: two shares hold the same partition; delete them, and compute them again"
        )
    lacking = sorted(set(range(run.world_size)) - computed)
    if lacking:
        absent = sorted(set(range(first.share.of)) - {share.share.number for share in shares})
        names = ", ".join(f"{number}/{first.share.of}" for number in absent[:_SHOWN])
        more = f" and {len(absent) - _SHOWN} more" if len(absent) > _SHOWN else ""
        raise MergeError(
            f"{out / FOLDER}: {len(lacking)} of {run.world_size} partitions have no result yet; compute the "
            f"shares {names}{more}"
        )
    failed = {rank: record for share in shares for rank, record in share.failures.items()}
    if failed.keys() == computed:
        raise MergeError(f"{out / FOLDER}: no partition could be computed; the first: {failed[0]['cause']}")
    return run, computed


def _place(source: Path, target: Path) -> None:
    """Hard-links the file, or copies it if the file system has no hard links."""
    target.parent.mkdir(exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
