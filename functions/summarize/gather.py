"""Collecting a run's results from S3 and writing combined_data.json and summary.json."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from .contract.fields import RecordError
from .contract.rank_info import MOST_BYTES, RankInfo, is_result, parse
from .contract.run_records import Run
from .contract.s3 import put_json, read, repeated
from .contract.untrusted import UntrustedError
from .jobs import killed
from .report import report
from .summary import failure_cause, summary

READERS = 32  # parallel GETs
CLOCK_TOLERANCE = 60.0  # seconds by which a rank's clock may differ from S3's

Json = dict[str, Any]


def _no_batch() -> Any:
    raise GatherError("no client of AWS Batch was given")


class GatherError(RuntimeError):
    """A run cannot be summarised; the message says why."""


def summarize_run(s3: Any, event: Json, batch: Callable[[], Any] = _no_batch) -> Json:
    """Summarises what the run `event["run_id"]` wrote under its result_path, and ignores other runs.

    batch: makes a client of AWS Batch, which is asked about the ranks that were killed there.

    Returns what the state machine needs to decide: failed ranks as a percentage, whether that is within
    the tolerance, and the cause to fail with otherwise.
    """
    bucket, folder = event["bucket"], event["result_path"]
    run = _plan(s3, event)
    written: dict[int, tuple[RankInfo, float]] = {}
    failures: dict[int, Json] = {}
    for object_ in _objects(s3, bucket, f"{folder}/", run):
        if is_result(object_.content, run.run_id, object_.rank):
            written[object_.rank] = (
                RankInfo.from_json(object_.content, object_.faults),
                object_.modified,
            )
        elif object_.fault or object_.is_of(run):
            failures[object_.rank] = _unusable(object_, f"s3://{bucket}/{folder}/{object_.rank}.json")
    failures |= {
        one.rank: one.content for one in _objects(s3, bucket, f"{folder}/failures/", run) if one.is_of(run)
    }
    failures = {rank: record for rank, record in failures.items() if rank not in written}
    without = set(range(run.world_size)) - written.keys()
    failures |= killed(s3, batch, event, without, failures.keys())
    infos = [written[rank][0] for rank in sorted(written)]
    timed = [_by_one_clock(*written[rank]) for rank in sorted(written)]
    content = summary(run, timed, failures, _reduced(s3, bucket, folder, run))
    put_json(s3, bucket, f"{folder}/combined_data.json", [info.to_json() for info in infos])
    put_json(s3, bucket, f"{folder}/summary.json", content.to_json())
    page = report(content, timed).encode()
    s3.put_object(Bucket=bucket, Key=f"{folder}/report.html", Body=page, ContentType="text/html; charset=utf-8")
    _delete_private(s3, bucket, f".cosmicai/{event['run_id']}/")
    share = 100.0 * (run.world_size - len(infos)) / run.world_size
    return {
        **event,
        "finished_ranks": len(infos),
        "failed_percentage": share,
        "within_tolerance": share <= float(event["tolerated_failure_percentage"]),
        "cause": failure_cause(content, f"s3://{bucket}/{folder}/summary.json"),
    }


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


def _plan(s3: Any, event: Json) -> Run:
    """run.json. Raises GatherError if it is no longer what Initialize wrote."""
    bucket, key = event["bucket"], f"{event['result_path']}/run.json"
    wrong = f"s3://{bucket}/{key} is no longer that of run {event['run_id']}: something has replaced it"
    try:
        run = Run.from_json(_read(s3, bucket, key))
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


def _objects(s3: Any, bucket: str, prefix: str, run: Run) -> Iterator[_Object]:
    """The objects PREFIX{rank}.json of the run's ranks."""

    def listed() -> dict[str, tuple[int, float]]:
        pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix, Delimiter="/")
        items = (item for page in pages for item in page.get("Contents", []))
        return {item["Key"]: (item["Size"], item["LastModified"].timestamp()) for item in items}

    def parsed(key: str) -> tuple[Any, list[str], str]:
        size, _ = keys[key]
        if size > MOST_BYTES:
            return None, [], f"it has {size:,} bytes, and at most {MOST_BYTES:,} are read"
        try:
            return *parse(read(s3, bucket, key)[0]), ""
        except UntrustedError as error:
            return None, [], str(error)

    keys = repeated(listed)
    matches = ((key, re.fullmatch(r"(0|[1-9][0-9]{0,8})\.json", key.removeprefix(prefix))) for key in keys)
    ranks = {key: int(match[1]) for key, match in matches if match and int(match[1]) < run.world_size}
    with ThreadPoolExecutor(READERS) as pool:
        for (key, rank), (content, faults, fault) in zip(ranks.items(), pool.map(parsed, ranks), strict=True):
            yield _Object(rank, content, faults, keys[key][1], fault)


def _reduced(s3: Any, bucket: str, folder: str, run: Run) -> Json | None:
    """metrics.json of this run, if there is one."""
    try:
        content = _read(s3, bucket, f"{folder}/metrics.json")
    except s3.exceptions.NoSuchKey:
        return None
    return content if content.get("run_id") == run.run_id else None


def _delete_private(s3: Any, bucket: str, prefix: str) -> None:
    """Deletes the run's key and the messages between its ranks, which are no longer needed."""
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        keys = [{"Key": item["Key"]} for item in page.get("Contents", [])]
        if keys:
            answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": keys, "Quiet": True})
            for fault in answer.get("Errors", []):  # not a reason to fail the run
                print(json.dumps({"message": "could not be deleted", **fault}))


def _read(s3: Any, bucket: str, key: str) -> Json:
    """The JSON object, or {} for anything else: foreign files in the folder must not stop a summary."""
    try:
        content = json.loads(read(s3, bucket, key)[0])
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
