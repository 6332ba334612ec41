"""Finds and follows runs; the same on AWS and embedded."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from summarize.contract.run_records import COPIES

if TYPE_CHECKING:
    from cosmicai.deploy.target import Target

_POLL_SECONDS = 1.0

Json = dict[str, Any]
Progress = Callable[[int, int], None]
"""Called with (finished, total)."""


class RunError(RuntimeError):
    """A run does not allow what was asked; the message says what to do."""


@dataclass(frozen=True)
class Ended:
    """How an execution ended: Step Functions' status, and error and cause unless it succeeded."""

    status: str
    error: str
    cause: str

    @property
    def succeeded(self) -> bool:
        return self.status == "SUCCEEDED"


def start(target: Target, payload: Json, name: str) -> str:
    """Starts an execution; returns its ARN."""
    started = target.client("stepfunctions").start_execution(
        stateMachineArn=target.state_machine_arn, name=name, input=json.dumps(payload)
    )
    return str(started["executionArn"])


def executions(target: Target, limit: int) -> list[Json]:
    """The latest executions as Step Functions lists them, the newest first."""
    pages = target.client("stepfunctions").get_paginator("list_executions")
    listing = pages.paginate(
        stateMachineArn=target.state_machine_arn,
        PaginationConfig={"MaxItems": limit, "PageSize": min(limit, 100)},
    )
    return [item for page in listing for item in page["executions"]]


def execution_arn(target: Target, name: str | None) -> str:
    """The ARN of a run by its name, or of the latest. Raises RunError if there is none."""
    if name is not None:
        return target.execution_arn(name)
    latest = executions(target, 1)
    if not latest:
        raise RunError(f"nothing has run here yet: {target.command('run', 'PAYLOAD.json')} starts a run")
    return str(latest[0]["executionArn"])


def described(target: Target, stepfunctions: Any, arn: str) -> Json:
    """A run as Step Functions describes its execution. Raises RunError if there is no such run."""
    try:
        execution: Json = stepfunctions.describe_execution(executionArn=arn)
    except stepfunctions.exceptions.ExecutionDoesNotExist as error:
        raise RunError(
            f"no run has the name {arn.rpartition(':')[2]}: {target.command('list')} shows the runs"
        ) from error
    return execution


class OverwrittenError(RunError):
    """Another run, `by`, has overwritten the result path of a run."""

    def __init__(self, by: str, name: str, place: str) -> None:
        super().__init__(overwritten(by, name, place))
        self.by = by


def overwritten(by: str, name: str, place: str) -> str:
    """The message on a run whose result path another run has since overwritten; place: that path."""
    return f"another run, {by}, has overwritten {place}: the results of {name} are no longer there"


def follow(
    stepfunctions: Any,
    s3: Any,
    execution_arn: str,
    payload: Json,
    progress: Progress,
    poll: float = _POLL_SECONDS,
) -> Ended:
    """Waits until the execution ends; reports (ranks that are done, all ranks)."""
    while True:
        execution = stepfunctions.describe_execution(executionArn=execution_arn)
        ranks = _ranks(s3, payload)
        if ranks is not None:
            progress(*ranks)
        if execution["status"] != "RUNNING":
            return Ended(execution["status"], execution.get("error", ""), execution.get("cause", ""))
        time.sleep(poll)


def _ranks(s3: Any, payload: Json) -> tuple[int, int] | None:
    """(ranks with a result, all ranks); None before Initialize has written the plan."""
    bucket, folder = payload["bucket"], payload["result_path"]
    try:
        run = json.load(s3.get_object(Bucket=bucket, Key=f"{folder}/run.json")["Body"])
    except s3.exceptions.NoSuchKey:
        return None
    paginator = s3.get_paginator("list_objects_v2")
    pages = (
        page
        for place in (folder, *([f"{folder}/{COPIES}"] if "originals" in run else []))
        for page in paginator.paginate(Bucket=bucket, Prefix=f"{place}/", Delimiter="/")
    )
    names = (item["Key"].rpartition("/")[2] for page in pages for item in page.get("Contents", []))
    return sum(name.removesuffix(".json").isdigit() for name in names), int(run["world_size"])
