"""A deployment and its runs: what the commands on runs do, and programs that use `cosmicai.Deployment`."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from cosmicai.deploy import target as targets
from cosmicai.results.report import historic_of
from cosmicai.results.run_results import Results
from cosmicai.runs import client
from cosmicai.runs.client import OverwrittenError, Progress, RunError
from cosmicai.runs.download import download
from cosmicai.runs.watch import POLL_SECONDS, Snapshot, Watcher
from inference.contract.paths import below
from initialize.payload import PayloadError, resolve

Json = dict[str, Any]
_LONGEST_STEM = 55  # characters of a run's name before the time


class RunFailed(RunError):
    """A run has ended without success; `last` is its last state."""

    def __init__(self, message: str, last: Snapshot) -> None:
        super().__init__(message)
        self.last = last


class Deployment:
    """A deployed bundle: a team's on AWS, or with `local` that of `cosmicai local up`.

    team: not needed if there is only one deployment. profile: one of the AWS configuration; by default the
    environment's. Raises TargetError if there is no such deployment, or if there are several.
    """

    def __init__(self, team: str | None = None, *, local: bool = False, profile: str | None = None) -> None:
        self.target = targets.find(team, local, profile, targets.local_folder(os.environ))

    @property
    def bucket(self) -> str:
        """The bucket that holds data and results."""
        return self.target.bucket

    def run(
        self,
        payload: Mapping[str, Any] | str | Path,
        name: str | None = None,
        changes: Mapping[str, Any] | None = None,
    ) -> Run:
        """Starts a run, and returns at once.

        payload: its fields, or the path of a JSON file; its bucket is the deployment's by default. changes:
        fields that replace the payload's. name: by default the file's name and the time.

        Raises PayloadError with every fault of the payload, before anything is started, and botocore's errors.
        """
        fields = payload if isinstance(payload, Mapping) else _read(payload)
        content = {"bucket": self.bucket, **fields, **(changes or {})}
        resolve(content)
        stem = "run" if isinstance(payload, Mapping) else Path(payload).stem
        return self._started(content, name or _new_name(stem))

    def _started(self, content: Json, name: str) -> Run:
        return Run(self, client.start(self.target, content, name))

    def find(self, name: str | None = None) -> Run:
        """A run by its name or ARN, or the latest. Raises RunError if there is none yet."""
        return Run(self, client.execution_arn(self.target, name))

    def runs(self, limit: int = 20) -> list[Json]:
        """The latest runs, the newest first, as Step Functions lists executions: name, status, startDate, …"""
        return client.executions(self.target, limit)


@dataclass(frozen=True)
class Run:
    """One execution of a deployment's state machine."""

    deployment: Deployment
    arn: str

    @property
    def name(self) -> str:
        return self.arn.rpartition(":")[2]

    def command(self, verb: str) -> str:
        """The command `verb` for this run as messages write it."""
        return self.deployment.target.command(verb, self.name)

    def log_command(self, rank: int) -> str:
        """The same that prints the log of a rank."""
        return self.deployment.target.command("logs", str(rank), "--run", self.name)

    @cached_property
    def watcher(self) -> Watcher:
        """Looks at the run, and remembers what it has read."""
        return Watcher(self.deployment.target, self.arn)

    def state(self) -> Snapshot:
        """Ranks, images, cost and errors at this moment. Raises botocore's errors."""
        return self.watcher.look()

    def wait(self, seconds: float | None = None, on_change: Callable[[Snapshot], None] | None = None) -> Self:
        """Waits until the run has ended; returns itself.

        on_change: called with each state. Raises RunFailed if it did not succeed, TimeoutError if it has not
        ended after `seconds`; the run then continues.
        """
        until = None if seconds is None else time.monotonic() + seconds
        for snapshot in self.watcher.states(POLL_SECONDS):
            if on_change is not None:
                on_change(snapshot)
            if not snapshot.ended and until is not None and time.monotonic() > until:
                raise TimeoutError(f"{self.name} has not ended after {seconds:g} s; it continues")
        if snapshot.status != "SUCCEEDED":
            raise RunFailed(f"{self.name} {snapshot.fault}", snapshot)
        return self

    def results(
        self,
        out: str | Path | None = None,
        overwrite: bool = False,
        progress: Progress = lambda finished, total: None,
        copies: bool = False,
    ) -> Results:
        """Downloads the run's files, and those of no other run, and adds Results.json and inference.png.

        out: by default results/NAME in the current folder. overwrite: replace the results of another run.
        copies: download the results of copies too, to copies/ there.
        For a run that has failed or still runs, downloads what there is. Raises RunError if another run has
        overwritten its path, and OutputError; then nothing has changed.
        """
        execution = self._execution()
        payload, name = json.loads(execution["input"]), str(execution["name"])
        folder = below(Path("results"), name) if out is None else Path(out)
        place = payload["bucket"], str(payload["result_path"]).rstrip("/")
        s3 = self.deployment.target.client("s3")
        try:
            return fetched(s3, *place, name, folder, overwrite, progress, copies)
        except OverwrittenError as error:
            theirs = self.deployment.target.command("results", error.by)
            raise RunError(f"{error}; {theirs} downloads those of {error.by}") from error

    def resume(self) -> Run:
        """Starts a run of the ranks that have no result.

        Raises RunError while this one still runs, and if another run has overwritten its path.
        """
        execution = self._execution()
        if execution["status"] == "RUNNING":
            raise RunError(f"{self.name} is still running: wait for it, or stop it with {self.command('stop')}")
        snapshot = self.state()
        if snapshot.taken_by is not None:
            raise RunError(f"{snapshot.overwritten_text}; start it again with another result_path")
        content = {**json.loads(execution["input"]), "resume": True}
        base = self.name.partition("-resumed-")[0]
        return self.deployment._started(content, _new_name(base, "-resumed"))

    def stop(self) -> None:
        """Stops the run; what its ranks have written stays. Raises RunError if it has ended already."""
        if self._execution()["status"] != "RUNNING":
            raise RunError(f"{self.name} has ended already")
        stepfunctions = self.deployment.target.client("stepfunctions")
        stepfunctions.stop_execution(executionArn=self.arn, error="Stopped", cause="by `cosmicai stop`")

    def log(self, rank: int) -> list[str]:
        """The lines of every attempt of a rank. Raises RunError if there are none."""
        from cosmicai.runs.logs import of_rank

        lines = of_rank(self.deployment.target, self._execution(), rank)
        if not lines:
            raise RunError(
                f"there is no log of rank {rank} of {self.name}: it has not started, or the log has expired"
            )
        return lines

    def _execution(self) -> Json:
        target = self.deployment.target
        return client.described(target, target.client("stepfunctions"), self.arn)


def fetched(
    s3: Any,
    bucket: str,
    prefix: str,
    name: str,
    folder: Path,
    overwrite: bool,
    progress: Progress,
    copies: bool = False,
) -> Results:
    """Downloads what the run `name` has left under s3://bucket/prefix/, as Run.results."""

    def finish(scratch: Path) -> None:
        historic_of(scratch)

    downloaded = download(s3, bucket, prefix, name, folder, progress, finish, overwrite, copies)
    left_out = {f"s3://{bucket}/{key}": reason for key, reason in downloaded.left_out.items()}
    return Results(folder, tuple(downloaded.files), left_out)


def _read(file: str | Path) -> Json:
    """A payload's file. Raises PayloadError."""
    try:
        content = json.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise PayloadError(f"payload: {file} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise PayloadError(f"payload: {file} does not hold a JSON object")
    return content


def _new_name(stem: str, kind: str = "") -> str:
    """A name for a run: the name of what it was started from, and the time."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", stem) or "run"
    return f"{plain[:_LONGEST_STEM]}{kind}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
