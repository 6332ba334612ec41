"""Why ranks on AWS Batch left no result: what AWS says about their jobs."""

from __future__ import annotations

import json
import signal
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any

Json = dict[str, Any]

FAILED = 1  # exit status of a rank that has left its record
TRY_AGAIN = 75  # EX_TEMPFAIL of sysexits.h: the job definition retries a job with this status
_DESCRIBED = 100  # jobs of one DescribeJobs
_MOST_CHARACTERS = 500  # of each of AWS's texts

# The beginnings of a job's statusReason and of its container's reason, and the errors that a run names. See
# https://docs.aws.amazon.com/batch/latest/userguide/job_retries.html and
# https://docs.aws.amazon.com/AmazonECS/latest/developerguide/stopped-task-error-codes.html.
_ERRORS = (
    ("OutOfMemoryError", "Batch.OutOfMemory"),
    ("Job attempt duration exceeded timeout", "Batch.TimedOut"),
    ("Your Spot Task was interrupted", "Batch.Interrupted"),
    ("Host EC2", "Batch.Interrupted"),
    ("CannotPullContainerError", "Batch.NotStarted"),
    ("ResourceInitializationError", "Batch.NotStarted"),
    ("CannotStartContainerError", "Batch.NotStarted"),
    ("Task failed to start", "Batch.NotStarted"),
)


def job_id(text: str) -> str | None:
    """The id of a job, from the answer to SubmitJob or from a failed task's cause."""
    with suppress(ValueError, RecursionError, AttributeError):
        answer = json.loads(text)
        job_id = answer.get("JobId") or answer.get("jobId")
        return job_id if isinstance(job_id, str) else None
    return None


def by_job(job: str, ranks: Sequence[int]) -> dict[str, int]:
    """The ranks of a manifest by the ids of their jobs. A single rank has no index in its id."""
    if len(ranks) == 1:
        return {job: ranks[0]}
    return {f"{job}:{index}": rank for index, rank in enumerate(ranks)}


def failures(batch: Any, jobs: Mapping[str, int], recorded: Collection[int]) -> dict[int, dict[str, str]]:
    """Error and cause by rank, of the jobs that have failed. Raises botocore's errors.

    jobs: ranks by the ids of their jobs. recorded: ranks that have left a record themselves, which stands
    unless a later attempt was killed. AWS keeps jobs for a week; those that it no longer knows are left out.
    """
    failures = {}
    ids = list(jobs)
    for first in range(0, len(ids), _DESCRIBED):
        for job in batch.describe_jobs(jobs=ids[first : first + _DESCRIBED])["jobs"]:
            rank = jobs.get(job["jobId"])
            failure = None if rank is None else _failure(job, rank in recorded)
            if rank is not None and failure is not None:
                failures[rank] = failure
    return failures


def _failure(job: Json, recorded: bool) -> dict[str, str] | None:
    """Error and cause of a job that has failed; None of another, and of one whose record says them."""
    attempts = job.get("attempts") or []
    container = (attempts[-1] if attempts else job).get("container") or {}
    code = container.get("exitCode")
    if job.get("status") != "FAILED" or (recorded and code in (FAILED, TRY_AGAIN)):
        return None
    reasons = [str(one)[:_MOST_CHARACTERS] for one in (container.get("reason"), job.get("statusReason")) if one]
    error = next(
        (name for start, name in _ERRORS if any(one.startswith(start) for one in reasons)), "Batch.Failed"
    )
    if error == "Batch.Failed" and code == 128 + signal.SIGKILL:
        error = "Batch.Killed"
    tried = [f"attempt {len(attempts)}"] if len(attempts) > 1 else []
    return {"error": error, "cause": "; ".join([*reasons, *_exit(code), *tried, f"job {job['jobId']}"])}


def _exit(code: object) -> list[str]:
    """'exit code 137 (SIGKILL)'; nothing where the container never ran."""
    if not isinstance(code, int):
        return []
    with suppress(ValueError):
        return [f"exit code {code} ({signal.Signals(code - 128).name})"]
    return [f"exit code {code}"]
