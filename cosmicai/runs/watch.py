"""The state of a run: ranks, speed, cost so far, errors. Asks AWS no more often than its limits allow."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from cosmicai.deploy.target import Target
from cosmicai.runs import batch_jobs
from cosmicai.runs.client import described, overwritten
from summarize.contract.images import are_redshifts, copied, counted, images_text, is_exact
from summarize.contract.pricing import cost
from summarize.contract.rank_info import MOST_BYTES, RankInfo, is_result, parse
from summarize.contract.run_records import COPIES, Run, Summary
from summarize.contract.untrusted import UntrustedError

# DescribeMapRun is refilled once a second, DescribeExecution and GetExecutionHistory faster
# (https://docs.aws.amazon.com/step-functions/latest/dg/service-quotas.html).
POLL_SECONDS = 2.0
_READ_AT_ONCE = 500  # rank infos a look
_MOST_NOTES = 5
_EVER = datetime.min.replace(tzinfo=UTC)
_RANK = re.compile(r"(0|[1-9][0-9]{0,8})\.json")

Json = dict[str, Any]


@dataclass
class Snapshot:
    """A run at one moment; counts of ranks are None until they are planned.

    taken_by: the run that has since overwritten the result path; then no part of this run can be counted.

    seconds: of this execution. wall_seconds: from the run's start to its last rank's end, as in summary.json
    and report.html; None until there is a summary. usd_so_far: of the ranks that have finished and the
    rendezvous host; the summary's total once there is one.
    """

    name: str
    status: str
    state: str | None
    started: str
    seconds: float
    result: str
    wall_seconds: float | None = None
    ranks: int | None = None
    finished: int = 0  # ranks that have a result
    failed: int = 0
    running: int | None = None
    pending: int | None = None
    images: int | None = 0  # None if no rank gives a number; a user's script may not
    images_from: dict[str, int] = field(default_factory=dict)  # ranks by the field they were counted by
    copied_images: int | None = None  # that copies have computed again; None of a run without copies
    are_redshifts: bool = True  # what the model gives of each image; an imported network may give other things
    images_per_second: float | None = 0.0
    gigabytes_read: float = 0.0
    usd_so_far: float = 0.0
    cost_notes: list[str] = field(default_factory=list)  # on prices that vary or are not known
    notes: list[str] = field(default_factory=list)  # from Initialize: files left out, idle ranks
    channel: str | None = None  # over which the ranks reduce their metrics; None until it is planned
    channel_reason: str = ""  # where the payload has not named it
    taken_by: str | None = None
    errors: dict[int, str] = field(default_factory=dict)
    error: str = ""
    cause: str = ""

    @property
    def ended(self) -> bool:
        return self.status != "RUNNING"

    @property
    def overwritten_text(self) -> str:
        """That another run has overwritten the path; '' if none has."""
        return "" if self.taken_by is None else overwritten(self.taken_by, self.name, self.result)

    @property
    def images_text(self) -> str:
        """The number of images, how those of a script's ranks were counted, and what copies have computed."""
        text = images_text(self.images, self.images_from)
        return text if self.copied_images is None else f"{text}, and {self.copied_images:,} again by copies"

    @property
    def computed(self) -> int:
        """The images that all ranks have computed, each as often as it was computed."""
        return (self.images or 0) + (self.copied_images or 0)

    @property
    def fault(self) -> str:
        """How an unsuccessful run ended: status, error, cause."""
        cause = self.cause
        with suppress(ValueError, AttributeError):  # Lambda's JSON, whose message is what matters
            cause = json.loads(cause).get("errorMessage", cause)
        return ": ".join(str(part) for part in (self.status.lower(), self.error, cause) if part)

    def to_json(self) -> Json:
        return asdict(self)


class Watcher:
    """Looks at one execution; the results of a rank are read once."""

    def __init__(self, target: Target, execution_arn: str) -> None:
        self._arn = execution_arn
        self._target = target
        self._stepfunctions, self._s3 = target.client("stepfunctions"), target.client("s3")
        self._run: Run | None = None
        self._taken_by: str | None = None
        self._results: dict[int, Json] = {}
        self._failures: dict[int, Json] = {}
        self._summary: Summary | None = None
        self._map_run: str | None = None
        self._jobs: batch_jobs.Jobs | None = None  # of a run on AWS Batch
        self.payload: Json = {}

    def look(self) -> Snapshot:
        """The run as it is now. Raises botocore's errors."""
        execution = described(self._target, self._stepfunctions, self._arn)
        self.payload = json.loads(execution["input"])
        end = execution.get("stopDate") or datetime.now(UTC)
        bucket, folder = self.payload.get("bucket", ""), str(self.payload.get("result_path", "")).rstrip("/")
        snapshot = Snapshot(
            name=execution["name"],
            status=execution["status"],
            state=None if execution["status"] != "RUNNING" else self._state(),
            started=execution["startDate"].astimezone(UTC).isoformat(timespec="seconds"),
            seconds=max((end - execution["startDate"]).total_seconds(), 0.0),
            result=f"s3://{bucket}/{folder}",
            error=execution.get("error", ""),
            cause=execution.get("cause", ""),
        )
        self._read_run(execution, bucket, folder)
        snapshot.taken_by = self._taken_by
        if self._run is not None:
            snapshot.notes = (self._run.notes or [])[:_MOST_NOTES]
            snapshot.channel, snapshot.channel_reason = self._run.channel, self._run.channel_reason
            self._count(snapshot, bucket, folder, execution["startDate"])
            self._total(snapshot, bucket, folder, execution["startDate"])
        return snapshot

    def states(self, pause: float = POLL_SECONDS) -> Iterator[Snapshot]:
        """One look after another, `pause` seconds apart, until the run has ended."""
        while True:
            snapshot = self.look()
            yield snapshot
            if snapshot.ended:
                return
            time.sleep(pause)

    def _read_run(self, execution: Json, bucket: str, folder: str) -> None:
        """Reads run.json if it is of this run or of one that this one resumes; else notes whose it is.

        A run keeps its path as long as it runs, so that only one that has ended can have lost it.
        """
        if self._run is not None or not bucket or not folder:
            return
        try:
            answer = self._s3.get_object(Bucket=bucket, Key=f"{folder}/run.json")
            run = Run.from_json(json.load(answer["Body"]))
        except (self._s3.exceptions.NoSuchKey, self._s3.exceptions.NoSuchBucket, ValueError, RecursionError):
            return
        if run.was_run_by(execution["name"]):
            self._run = run
        elif execution["status"] != "RUNNING" and answer["LastModified"] >= _second(execution["startDate"]):
            self._taken_by = run.run_id

    def _count(self, snapshot: Snapshot, bucket: str, folder: str, began: datetime) -> None:
        assert self._run is not None  # noqa: S101 - for the type checker
        for place in (folder, *([f"{folder}/{COPIES}"] if self._run.has_copies else [])):
            self._read_new(bucket, f"{place}/", self._results, is_result)
            # A resumed run has records of earlier failures, which are not failures of this execution.
            self._read_new(bucket, f"{place}/failures/", self._failures, _is_of, _second(began))
        infos = [
            replace(RankInfo.from_json(info), copy=self._run.copy_of(rank))
            for rank, info in self._results.items()
        ]
        failures = {rank: record for rank, record in self._failures.items() if rank not in self._results}
        snapshot.ranks, snapshot.finished = self._run.world_size, len(infos)
        snapshot.images, snapshot.images_from = counted(infos)
        snapshot.copied_images = copied(infos) if self._run.has_copies else None
        snapshot.are_redshifts = are_redshifts(infos)
        exact = snapshot.images is not None and is_exact(snapshot.images_from)
        snapshot.images_per_second = snapshot.computed / max(snapshot.seconds, 1e-3) if exact else None
        host = snapshot.seconds if self._run.channel == "direct" else 0.0
        sizes = self._run.bytes_per_rank or []
        snapshot.gigabytes_read = sum(sizes[rank] for rank in self._results if rank < len(sizes)) / 1e9
        spent = cost(infos, host, self._run.child_type, self._run.on_batch)
        snapshot.usd_so_far, snapshot.cost_notes = spent.total, spent.notes or []
        if self._run.on_batch:
            failures |= self._killed(snapshot, bucket, folder, began, failures)
        elif not snapshot.ended:
            snapshot.running, snapshot.pending = self._map_counts()
        if snapshot.ended:
            snapshot.running, snapshot.pending = 0, 0
        snapshot.failed = len(failures)
        snapshot.errors = {rank: _message(record) for rank, record in sorted(failures.items())}

    def _killed(
        self, snapshot: Snapshot, bucket: str, folder: str, began: datetime, recorded: dict[int, Json]
    ) -> dict[int, Json]:
        """Failures of ranks that left no record, by the summary or, until there is one, by AWS Batch."""
        if snapshot.ended and (summary := self._read_summary(bucket, folder, began)) is not None:
            return {int(rank): record for rank, record in summary.failed_ranks.items()}
        if self._jobs is None:
            self._jobs = batch_jobs.Jobs(self._target, self._arn)
        seen = self._jobs.look(bucket, folder, recorded.keys())
        snapshot.running, snapshot.pending = seen.running, seen.pending
        if self._jobs.denied:
            snapshot.notes = [*snapshot.notes, batch_jobs.NOTE]
        return {rank: record for rank, record in seen.failures.items() if rank not in self._results}

    def _total(self, snapshot: Snapshot, bucket: str, folder: str, began: datetime) -> None:
        """Time, speed and cost of a run that has ended, as its summary has them."""
        if not snapshot.ended:
            return
        summary = self._read_summary(bucket, folder, began)
        if summary is not None:
            snapshot.wall_seconds = summary.wall_seconds
            if summary.cost is not None:
                snapshot.usd_so_far = summary.cost.total
                snapshot.cost_notes = summary.cost.notes or []
            if snapshot.images_per_second is not None and snapshot.wall_seconds:
                snapshot.images_per_second = snapshot.computed / snapshot.wall_seconds

    def _read_summary(self, bucket: str, folder: str, began: datetime) -> Summary | None:
        """The summary that this execution has written; one that was stopped leaves that of an earlier one."""
        if self._summary is not None:
            return self._summary
        try:
            answer = self._s3.get_object(Bucket=bucket, Key=f"{folder}/summary.json")
            summary = Summary.from_json(json.load(answer["Body"]))
        except (self._s3.exceptions.NoSuchKey, ValueError, RecursionError):
            return None
        ours = self._run is not None and summary.run_id == self._run.run_id
        if ours and answer["LastModified"] >= _second(began):
            self._summary = summary
        return self._summary

    def _read_new(
        self,
        bucket: str,
        prefix: str,
        known: dict[int, Json],
        is_valid: Callable[[Any, str, int], bool],
        since: datetime = _EVER,
    ) -> None:
        """Reads the objects PREFIX{rank}.json of ranks that are not known, if written at `since` or later."""
        pages = self._s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix, Delimiter="/")
        listed = (item for page in pages for item in page.get("Contents", []))
        objects = [item for item in listed if item["Size"] <= MOST_BYTES and item["LastModified"] >= since]
        names = (_RANK.fullmatch(item["Key"].removeprefix(prefix)) for item in objects)
        ranks = [int(name[1]) for name in names if name]
        new = [rank for rank in ranks if rank not in known][:_READ_AT_ONCE]

        def read(rank: int) -> tuple[int, Any]:
            body = self._s3.get_object(Bucket=bucket, Key=f"{prefix}{rank}.json")["Body"]
            try:
                return rank, parse(body.read())[0]
            except UntrustedError:
                return rank, None  # a script may write anything to this key before its rank does

        with ThreadPoolExecutor(16) as pool:
            for rank, content in pool.map(read, new):
                if self._run is not None and is_valid(content, self._run.run_id, rank):
                    known[rank] = content

    def _state(self) -> str | None:
        """The state that the execution has entered last."""
        history = self._stepfunctions.get_execution_history(
            executionArn=self._arn, reverseOrder=True, maxResults=20, includeExecutionData=False
        )
        entered = (event.get("stateEnteredEventDetails", {}).get("name") for event in history["events"])
        return next((name for name in entered if name), None)

    def _map_counts(self) -> tuple[int | None, int | None]:
        if self._map_run is None:
            runs = self._stepfunctions.list_map_runs(executionArn=self._arn)["mapRuns"]
            self._map_run = runs[0]["mapRunArn"] if runs else None
        if self._map_run is None:
            return None, None
        counts = self._stepfunctions.describe_map_run(mapRunArn=self._map_run)["itemCounts"]
        return counts.get("running"), counts.get("pending")


def _is_of(record: Any, run_id: str, _: int) -> bool:
    return isinstance(record, dict) and record.get("run_id") == run_id


def _second(time: datetime) -> datetime:
    """The time rounded down to the second, as S3 rounds it."""
    return time - timedelta(microseconds=time.microsecond)


def _message(record: Json) -> str:
    """A rank's error in one line."""
    cause = str(record.get("cause", ""))
    with suppress(ValueError, KeyError, TypeError, RecursionError):
        cause = str(json.loads(cause)["errorMessage"])
    return f"{record.get('error', 'unknown')}: {cause}".replace("\n", " ")
