"""Collecting a run's results from S3 and writing combined_data.json and summary.json."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from .aws import repeated
from .infos import is_result
from .report import report
from .summary import failure_cause, summary

READERS = 32  # parallel GETs
CLOCK_TOLERANCE = 60.0  # seconds by which a rank's clock may differ from S3's

Json = dict[str, Any]


def summarize_run(s3: Any, event: Json) -> Json:
    """Reads all that the run `event["run_id"]` left under its result_path, and nothing of any other run.

    Returns what the state machine needs to decide: failed ranks as a percentage, whether that is within
    the tolerance, and the cause to fail with otherwise.
    """
    bucket, folder = event["bucket"], event["result_path"]
    run = _read(s3, bucket, f"{folder}/run.json")
    found = _results(s3, bucket, f"{folder}/", run)
    ended = [(info, modified) for info, modified in found if is_result(info, run["run_id"])]
    written = sorted(ended, key=lambda one: int(one[0]["rank"]))
    infos = [info for info, _ in written]
    done = {int(info["rank"]) for info in infos}
    failures = {
        int(record["rank"]): record
        for record, _ in _results(s3, bucket, f"{folder}/failures/", run)
        if int(record["rank"]) not in done
    }
    timed = [_by_one_clock(info, modified) for info, modified in written]
    content = summary(run, timed, failures, _reduced(s3, bucket, folder, run))
    _put(s3, bucket, f"{folder}/combined_data.json", infos)
    _put(s3, bucket, f"{folder}/summary.json", content)
    page = report(content, timed).encode()
    s3.put_object(Bucket=bucket, Key=f"{folder}/report.html", Body=page, ContentType="text/html; charset=utf-8")
    _delete_private(s3, bucket, f".cosmicai/{run['run_id']}/")
    share = 100.0 * (run["world_size"] - len(infos)) / run["world_size"]
    return {
        **event,
        "finished_ranks": len(infos),
        "failed_percentage": share,
        "within_tolerance": share <= float(event["tolerated_failure_percentage"]),
        "cause": failure_cause(content, f"s3://{bucket}/{folder}/summary.json"),
    }


def _by_one_clock(info: Json, modified: float) -> Json:
    """The rank info; of a rank whose clock is off, with S3's word for when it ended."""
    ended = info.get("ended (unix seconds)")
    skewed = isinstance(ended, int | float) and abs(ended - modified) > CLOCK_TOLERANCE
    return {**info, "ended (unix seconds)": modified} if skewed else info


def _results(s3: Any, bucket: str, prefix: str, run: Json) -> Iterator[tuple[Json, float]]:
    """The JSON objects PREFIX{rank}.json that belong to the run, and when S3 got them, in Unix seconds."""

    def listed() -> dict[str, float]:
        pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix, Delimiter="/")
        found = (item for page in pages for item in page.get("Contents", []))
        return {item["Key"]: item["LastModified"].timestamp() for item in found}

    keys = repeated(listed)
    ranks = [key for key in keys if re.fullmatch(r"\d+\.json", key.removeprefix(prefix))]
    with ThreadPoolExecutor(READERS) as pool:
        for key, content in zip(ranks, pool.map(lambda key: _read(s3, bucket, key), ranks), strict=True):
            if content.get("run_id") == run["run_id"]:
                yield content, keys[key]


def _reduced(s3: Any, bucket: str, folder: str, run: Json) -> Json | None:
    """metrics.json of this very run, where there is one."""
    try:
        content = _read(s3, bucket, f"{folder}/metrics.json")
    except s3.exceptions.NoSuchKey:
        return None
    return content if content.get("run_id") == run["run_id"] else None


def _delete_private(s3: Any, bucket: str, prefix: str) -> None:
    """The run's key and the messages between its ranks, which nobody needs any more."""
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        keys = [{"Key": item["Key"]} for item in page.get("Contents", [])]
        if keys:
            answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": keys, "Quiet": True})
            for fault in answer.get("Errors", []):  # no fault of the run
                print(json.dumps({"message": "could not be deleted", **fault}))


def _read(s3: Any, bucket: str, key: str) -> Json:
    """The object, or {} where it is none of ours: foreign files in the folder must not stop a summary."""
    try:
        content = json.loads(repeated(lambda: s3.get_object(Bucket=bucket, Key=key)["Body"].read()))
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _put(s3: Any, bucket: str, key: str, content: object) -> None:
    body = json.dumps(content, indent=1).encode()
    s3.put_object(Bucket=bucket, Key=key, Body=body, ContentType="application/json")
