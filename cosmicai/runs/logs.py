"""The log of one rank, found among those of all invocations by what the handler writes at its beginning."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

from cosmicai.deploy.target import Target
from cosmicai.runs.client import RunError, overwritten
from summarize.contract.run_records import Run

Json = dict[str, Any]


def of_rank(target: Target, execution: Json, rank: int) -> list[str]:
    """The lines of every attempt of a rank, in their order; [] if there is none."""
    client, run_id = target.client("logs"), _run_id(target, execution)
    on_batch = json.loads(execution["input"]).get("backend") == "batch"
    group = target.batch_logs if on_batch else f"/aws/lambda/{target.inference_function}"
    attempt = _job if on_batch else _invocation
    since = int(execution["startDate"].timestamp() * 1000) - 60_000
    pages = client.get_paginator("filter_log_events").paginate(
        logGroupName=group, startTime=since, filterPattern='"rank starts"'
    )
    lines: list[str] = []
    for page in pages:
        for event in page["events"]:
            if _starts(event["message"], run_id, rank):
                lines += attempt(client, group, event)
    return lines


def _run_id(target: Target, execution: Json) -> str:
    """The execution's name; if it resumes a run, that run's id, from run.json under the result path.

    Raises RunError if another run has overwritten that path.
    """
    payload = json.loads(execution["input"])
    if not payload.get("resume"):
        return str(execution["name"])
    name, bucket, folder = execution["name"], payload["bucket"], str(payload["result_path"]).rstrip("/")
    body = target.client("s3").get_object(Bucket=bucket, Key=f"{folder}/run.json")["Body"]
    run = Run.from_json(json.load(body))
    if not run.was_run_by(name):
        raise RunError(overwritten(run.run_id, name, f"s3://{bucket}/{folder}"))
    return run.run_id


def _starts(message: str, run_id: str, rank: int) -> bool:
    start_record = {"message": "rank starts", "rank": rank, "run_id": run_id}
    for line in message.splitlines():
        with suppress(ValueError):
            if json.loads(line) == start_record:
                return True
    return False


def _job(client: Any, group: str, event: Json) -> list[str]:
    """All lines of the event's stream: each attempt of a job has a stream of its own."""
    pages = client.get_paginator("filter_log_events").paginate(
        logGroupName=group, logStreamNames=[event["logStreamName"]]
    )
    return [line for page in pages for entry in page["events"] for line in entry["message"].splitlines()]


def _invocation(client: Any, group: str, event: Json) -> list[str]:
    """From the START before the event to the REPORT after it, in the event's own stream."""
    pages = client.get_paginator("filter_log_events").paginate(
        logGroupName=group, logStreamNames=[event["logStreamName"]], startTime=event["timestamp"] - 60_000
    )
    lines: list[str] = []
    inside = False
    for page in pages:
        for entry in page["events"]:
            for line in entry["message"].splitlines():
                if line.startswith("START "):
                    lines, inside = [], False
                lines.append(line)
                inside |= line in event["message"].splitlines()
                if line.startswith("REPORT ") and inside:
                    return lines
    return lines if inside else []
