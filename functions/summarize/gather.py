"""Collecting a run's results from S3 and writing combined_data.json and summary.json."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import Any, TypeVar

from botocore.exceptions import BotoCoreError, ClientError

from .catalogue import grow
from .contract.fields import RecordError
from .contract.rank_files import READERS
from .contract.rank_info import RankInfo
from .contract.run_records import COPIES, Run, Summary, last_run_key
from .contract.s3 import BROKEN, ListUpload, put_json
from .jobs import killed
from .lean import Lean
from .reading import Bucket, Place
from .report import report
from .states import States
from .summary import failure_cause, last_run, summary

_MOST_CHARACTERS = 4000  # of a cause, of which Step Functions keeps 32,768
_TOGETHER = 500  # infos, of 100 kB each
CLOCK_TOLERANCE = 60.0  # seconds by which a rank's clock may differ from S3's

Json = dict[str, Any]
T = TypeVar("T")


def _no_batch() -> Any:
    raise GatherError("no client of AWS Batch was given")


class GatherError(RuntimeError):
    """A run cannot be summarised; the message says why."""


def summarize_run(s3: Any, event: Json, reads: Any = None, batch: Callable[[], Any] = _no_batch) -> Json:
    """Summarises what the run `event["run_id"]` wrote under its result_path, and ignores other runs.

    reads: the client that reads rank infos, of contract/s3_rest; None: s3. batch: makes a client of AWS
    Batch, which is asked about the ranks that were killed there. Returns what the state machine needs to
    decide: failed ranks as a percentage, whether that is within the tolerance, and the cause to fail with
    otherwise; and why a catalogue could not grow. Memory grows by 1.5 kB per rank.
    """
    with ExitStack() as uploads, ThreadPoolExecutor(READERS) as pool:  # which ends before they are given up
        bucket = Bucket(s3, event["bucket"], s3 if reads is None else reads, pool)
        return _summarized(bucket, uploads, event, batch)


def _summarized(bucket: Bucket, uploads: ExitStack, event: Json, batch: Callable[[], Any]) -> Json:
    folder = event["result_path"]
    reading = bucket.pool.submit(bucket.read, f"{folder}/metrics.json")
    first = Place.of(bucket, folder)
    run = _plan(bucket, event)
    folders = [_Folder(first, range(run.originals), _upload(bucket, uploads, folder))]
    if run.has_copies:
        place, ranks = f"{folder}/{COPIES}", range(run.originals, run.world_size)
        folders.append(_Folder(Place.of(bucket, place), ranks, _upload(bucket, uploads, place)))
    states = States(run, _of_run(reading.result(), run))
    # What a listing tells spares a second reading.
    left = _Left(states if states.cover_only(first.results.result().keys()) else States(run))
    for one in folders:
        left.take(run, one)
    if not left.states.cover_only(left.infos.keys()):
        left.states = _added_again(run, folders[0], left.infos)
    left.failures |= killed(bucket.s3, batch, event, left.without(run), left.failures.keys())
    # Copies that have ended must not make up for originals, whose redshifts are lost.
    share = max(_share_lost(left.infos, range(ranks)) for ranks in (run.originals, run.world_size))
    enough = share <= float(event["tolerated_failure_percentage"])
    infos = list(left.infos.values())
    content = summary(run, infos, left.failures, left.states)
    if enough:
        content = replace(content, catalogue=grow(bucket.s3, run, infos))
    _write(bucket, folder, run, content, infos, [one.combined for one in folders])
    fault = content.catalogue.fault if content.catalogue is not None else None
    return {
        **event,
        "finished_ranks": len(infos),
        "failed_percentage": share,
        "within_tolerance": enough,
        "cause": failure_cause(content, f"s3://{bucket.name}/{folder}/summary.json"),
        **({} if fault is None else {"catalogue_fault": fault[:_MOST_CHARACTERS]}),
    }


@dataclass(frozen=True)
class _Folder:
    """Where some ranks have left their results, and the list into which their infos are combined."""

    place: Place
    ranks: range
    combined: ListUpload


def _upload(bucket: Bucket, uploads: ExitStack, folder: str) -> ListUpload:
    """A new combined_data.json, which is not left unfinished."""
    return uploads.enter_context(ListUpload(bucket.s3, bucket.name, f"{folder}/combined_data.json"))


@dataclass
class _Left:
    """What the ranks have left: lean infos and failures by rank, and their added states."""

    states: States
    infos: dict[int, RankInfo] = field(default_factory=dict)
    failures: dict[int, Json] = field(default_factory=dict)
    lean: Lean = field(default_factory=Lean)

    def take(self, run: Run, folder: _Folder) -> None:
        """Reads all that the ranks of a folder have left there; each info is in memory only once."""
        unusable: dict[int, Json] = {}
        for info, modified in _in_groups(folder.place.finished(run, folder.ranks, unusable)):
            folder.combined.add(info.to_json())
            self.states.add(info)
            self.infos[info.rank] = _by_one_clock(self.lean.of(info), modified)
        errors = unusable | folder.place.failures(run, folder.ranks)
        self.failures |= {rank: error for rank, error in errors.items() if rank not in self.infos}

    def without(self, run: Run) -> set[int]:
        """The ranks that have left no result."""
        return set(range(run.world_size)) - self.infos.keys()


def _in_groups(infos: Iterable[T]) -> Iterator[T]:
    """The infos, of which _TOGETHER are read before the first is worked on: meanwhile the pool hardly reads.

    Otherwise each histogram that is unpacked would hand the interpreter's lock to the pool's threads, which
    takes a third of the CPU time.
    """
    remaining = iter(infos)
    while group := list(islice(remaining, _TOGETHER)):
        yield from group


def _added_again(run: Run, folder: _Folder, infos: dict[int, RankInfo]) -> States:
    """The states of these ranks in a folder, without metrics.json: they are read once more.

    A rank that has ended since the first reading has none of the infos, and still counts as missing.
    """
    states = States(run)
    for info, _ in _in_groups(folder.place.finished(run, folder.ranks, {})):
        if info.rank in infos:
            states.add(info)
    return states


def _share_lost(infos: dict[int, RankInfo], ranks: range) -> float:
    """The percentage of these ranks without a result."""
    return 100.0 * sum(rank not in infos for rank in ranks) / len(ranks)


def _write(
    bucket: Bucket, folder: str, run: Run, content: Summary, infos: list[RankInfo], combined: list[ListUpload]
) -> None:
    """All that Summarize leaves, at the same time; the run's key and messages are deleted."""

    def page() -> None:
        body, kind = report(content, infos).encode(), "text/html; charset=utf-8"
        s3.put_object(Bucket=bucket.name, Key=f"{folder}/report.html", Body=body, ContentType=kind)

    def totals() -> None:
        put_json(s3, bucket.name, f"{folder}/summary.json", content.to_json())

    s3 = bucket.s3
    tasks: list[Callable[[], None]] = [
        *(upload.finish for upload in combined),
        totals,
        page,
        partial(_remember, s3, bucket.name, run, content, infos),
        partial(_delete_private, s3, bucket.name, f".cosmicai/{run.run_id}/"),
    ]
    for written in [bucket.pool.submit(task) for task in tasks]:
        written.result()


def _plan(bucket: Bucket, event: Json) -> Run:
    """run.json. Raises GatherError where it is no longer what Initialize wrote."""
    key = f"{event['result_path']}/run.json"
    wrong = f"s3://{bucket.name}/{key} is no longer that of run {event['run_id']}: something has replaced it"
    try:
        run = Run.from_json(bucket.read(key))
    except RecordError as error:
        raise GatherError(f"{wrong}: {error}") from error
    if run.run_id != event["run_id"] or run.world_size != event["world_size"]:
        raise GatherError(wrong)
    return run


def _by_one_clock(info: RankInfo, modified: float) -> RankInfo:
    """The rank info; if the rank's clock is off, with S3's time as its end."""
    skewed = info.ended is not None and abs(info.ended - modified) > CLOCK_TOLERANCE
    return replace(info, ended=modified) if skewed else info


def _of_run(reduced: Json | None, run: Run) -> Json | None:
    """metrics.json, if it belongs to this run; otherwise None."""
    return reduced if reduced is not None and reduced.get("run_id") == run.run_id else None


def _remember(s3: Any, bucket: str, run: Run, content: Summary, infos: list[RankInfo]) -> None:
    """Writes the run's speed, for the plan of the model's next run. If that fails, the run does not fail."""
    speed = last_run(run, content, infos)
    if speed is None:
        return
    key = last_run_key(run.payload.get("model"))
    try:
        put_json(s3, bucket, key, speed.to_json())
    except (BotoCoreError, ClientError, *BROKEN) as error:
        print(json.dumps({"message": f"s3://{bucket}/{key} was not written: {error}"}))


def _delete_private(s3: Any, bucket: str, prefix: str) -> None:
    """Deletes the run's key and the messages between its ranks, which are no longer needed."""
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        keys = [{"Key": item["Key"]} for item in page.get("Contents", [])]
        if keys:
            answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": keys, "Quiet": True})
            for fault in answer.get("Errors", []):  # not a reason to fail the run
                print(json.dumps({"message": "could not be deleted", **fault}))
