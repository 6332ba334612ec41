"""Collecting a run's results from S3 and writing combined_data.json and summary.json."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Self

from botocore.exceptions import BotoCoreError, ClientError

from .catalogue import grow
from .contract.fields import RecordError
from .contract.rank_info import MOST_BYTES, RankInfo, is_result, parse
from .contract.run_records import COPIES, Run, Summary, last_run_key
from .contract.s3 import BROKEN, put_json, put_list, read, read_small, repeated
from .contract.untrusted import UntrustedError
from .jobs import killed
from .report import report
from .summary import failure_cause, last_run, summary

READERS = 32  # parallel GETs
_MOST_CHARACTERS = 4000  # of a cause, of which Step Functions keeps 32,768
CLOCK_TOLERANCE = 60.0  # seconds by which a rank's clock may differ from S3's

Json = dict[str, Any]
Listed = dict[str, tuple[int, float]]  # by key: bytes, and when S3 got them, in Unix seconds
Written = dict[int, tuple[RankInfo, float]]  # infos by rank, and when S3 got them


def _no_batch() -> Any:
    raise GatherError("no client of AWS Batch was given")


class GatherError(RuntimeError):
    """A run cannot be summarised; the message says why."""


def summarize_run(s3: Any, event: Json, reads: Any = None, batch: Callable[[], Any] = _no_batch) -> Json:
    """Summarises what the run `event["run_id"]` wrote under its result_path, and ignores other runs.

    reads: the client that reads rank infos, of contract/s3_rest; None: s3. batch: makes a client of AWS
    Batch, which is asked about the ranks that were killed there. Returns what the state machine needs to
    decide: failed ranks as a percentage, whether that is within the tolerance, and the cause to fail with
    otherwise; and why a catalogue could not grow.
    """
    with ThreadPoolExecutor(READERS) as pool:
        return _summarized(_Bucket(s3, event["bucket"], s3 if reads is None else reads, pool), event, batch)


def _summarized(bucket: _Bucket, event: Json, batch: Callable[[], Any]) -> Json:
    folder = event["result_path"]
    reduced = bucket.pool.submit(bucket.read, f"{folder}/metrics.json")
    place = _Place.of(bucket, folder)
    run = _plan(bucket, event)
    copies = _Place.of(bucket, f"{folder}/{COPIES}") if run.has_copies else None
    written, failures = _results_in(bucket, run, place, range(run.originals))
    if copies is not None:
        of_copies = _results_in(bucket, run, copies, range(run.originals, run.world_size))
        written, failures = written | of_copies[0], failures | of_copies[1]
    without = set(range(run.world_size)) - written.keys()
    failures |= killed(bucket.s3, batch, event, without, failures.keys())
    infos = [written[rank][0] for rank in sorted(written)]
    timed = [_by_one_clock(*written[rank]) for rank in sorted(written)]
    # Copies that have ended must not make up for originals, whose redshifts are lost.
    share = max(_share_lost(written, range(ranks)) for ranks in (run.originals, run.world_size))
    enough = share <= float(event["tolerated_failure_percentage"])
    content = summary(run, timed, failures, _of_run(reduced.result(), run))
    if enough:
        content = replace(content, catalogue=grow(bucket.s3, run, infos))
    _write(bucket, folder, run, content, infos, timed)
    fault = content.catalogue.fault if content.catalogue is not None else None
    return {
        **event,
        "finished_ranks": len(infos),
        "failed_percentage": share,
        "within_tolerance": enough,
        "cause": failure_cause(content, f"s3://{bucket.name}/{folder}/summary.json"),
        **({} if fault is None else {"catalogue_fault": fault[:_MOST_CHARACTERS]}),
    }


def _share_lost(written: Written, ranks: range) -> float:
    """The percentage of these ranks without a result."""
    return 100.0 * sum(rank not in written for rank in ranks) / len(ranks)


@dataclass(frozen=True)
class _Place:
    """A folder in which ranks leave their results; what it and the folder of failures below it hold."""

    folder: str
    results: Future[Listed]
    failed: Future[Listed]

    @classmethod
    def of(cls, bucket: _Bucket, folder: str) -> Self:
        """Begins to list them."""
        listed = (bucket.pool.submit(bucket.listed, f"{folder}/{name}") for name in ("", "failures/"))
        return cls(folder, *listed)


def _results_in(bucket: _Bucket, run: Run, place: _Place, ranks: range) -> tuple[Written, dict[int, Json]]:
    """What these ranks have left in their folder: infos of those that finished, failures of others."""
    written: Written = {}
    failures: dict[int, Json] = {}
    for object_ in _objects(bucket, place.results.result(), f"{place.folder}/", ranks):
        if is_result(object_.content, run.run_id, object_.rank):
            info = RankInfo.from_json(object_.content, object_.faults)
            info = replace(info, copy=run.copy_of(object_.rank))
            written[object_.rank] = info, object_.modified
        elif object_.fault or object_.is_of(run):
            where = f"s3://{bucket.name}/{place.folder}/{object_.rank}.json"
            failures[object_.rank] = _unusable(object_, where)
    records = _objects(bucket, place.failed.result(), f"{place.folder}/failures/", ranks)
    failures |= {one.rank: one.content for one in records if one.is_of(run)}
    return written, {rank: record for rank, record in failures.items() if rank not in written}


def _write(
    bucket: _Bucket, folder: str, run: Run, content: Summary, infos: list[RankInfo], timed: list[RankInfo]
) -> None:
    """All that Summarize leaves, at the same time; the run's key and messages are deleted."""

    def page() -> None:
        body, kind = report(content, timed).encode(), "text/html; charset=utf-8"
        s3.put_object(Bucket=bucket.name, Key=f"{folder}/report.html", Body=body, ContentType=kind)

    def combined(place: str, ranks: list[RankInfo]) -> None:
        put_list(s3, bucket.name, f"{place}/combined_data.json", (info.to_json() for info in ranks))

    def totals() -> None:
        put_json(s3, bucket.name, f"{folder}/summary.json", content.to_json())

    s3 = bucket.s3
    tasks: list[Callable[[], None]] = [
        partial(combined, folder, [info for info in infos if info.copy is None]),
        totals,
        page,
        partial(_remember, s3, bucket.name, run, content, infos),
        partial(_delete_private, s3, bucket.name, f".cosmicai/{run.run_id}/"),
    ]
    if run.has_copies:
        tasks.append(partial(combined, f"{folder}/{COPIES}", [info for info in infos if info.copy is not None]))
    for written in [bucket.pool.submit(task) for task in tasks]:
        written.result()


@dataclass(frozen=True)
class _Bucket:
    """The run's bucket, from which `pool` reads several objects at a time."""

    s3: Any
    name: str
    reads: Any
    pool: ThreadPoolExecutor

    def listed(self, prefix: str) -> Listed:
        """Size and time of the objects below the prefix, but not of those in folders there, by key."""

        def listing() -> Listed:
            paginator = self.s3.get_paginator("list_objects_v2")
            pages = paginator.paginate(Bucket=self.name, Prefix=prefix, Delimiter="/")
            items = (item for page in pages for item in page.get("Contents", []))
            return {item["Key"]: (item["Size"], item["LastModified"].timestamp()) for item in items}

        return repeated(listing)

    def read(self, key: str) -> Json | None:
        """The object; {} if it is not ours, since foreign files must not stop a summary; None if missing."""
        try:
            content = json.loads(read(self.s3, self.name, key)[0])
        except self.s3.exceptions.NoSuchKey:
            return None
        except (ValueError, RecursionError):
            return {}
        return content if isinstance(content, dict) else {}


@dataclass(frozen=True)
class _Object:
    """PREFIX{rank}.json: its content, the faults left out of it, and when S3 received it, in Unix seconds.

    fault: why no part of it can be used; '' if it can.
    """

    rank: int
    content: Any
    faults: list[str]
    modified: float
    fault: str = ""

    def is_of(self, run: Run) -> bool:
        return isinstance(self.content, dict) and self.content.get("run_id") == run.run_id


def _plan(bucket: _Bucket, event: Json) -> Run:
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


def _unusable(object_: _Object, where: str) -> Json:
    """The failure record of a rank whose info is not valid."""
    reason = object_.fault or "it lacks what a rank measures when it ends, or names another rank"
    return {"error": "RankInfoError", "cause": f"{where} is not the info of a finished rank: {reason}"}


def _by_one_clock(info: RankInfo, modified: float) -> RankInfo:
    """The rank info; if the rank's clock is off, with S3's time as its end."""
    skewed = info.ended is not None and abs(info.ended - modified) > CLOCK_TOLERANCE
    return replace(info, ended=modified) if skewed else info


def _objects(bucket: _Bucket, keys: Listed, prefix: str, ranks: range) -> Iterator[_Object]:
    """The objects PREFIX{rank}.json of these ranks among the listed."""

    def fetched(key: str) -> bytes | ValueError:
        try:
            return read_small(bucket.reads, bucket.name, key, MOST_BYTES)
        except ValueError as error:
            return error

    matches = ((key, re.fullmatch(r"(0|[1-9][0-9]{0,8})\.json", key.removeprefix(prefix))) for key in keys)
    theirs = {key: int(match[1]) for key, match in matches if match and int(match[1]) in ranks}
    # Parsed here and not by the pool, whose threads would hinder each other.
    for (key, rank), body in zip(theirs.items(), bucket.pool.map(fetched, theirs), strict=True):
        _, modified = keys[key]
        if isinstance(body, ValueError):
            yield _Object(rank, None, [], modified, str(body))
            continue
        try:
            yield _Object(rank, *parse(body), modified)
        except UntrustedError as error:
            yield _Object(rank, None, [], modified, str(error))


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
