"""The jobs of a run on AWS Batch while it runs, as the user's own credentials may see them."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from botocore.exceptions import ClientError

from cosmicai.deploy.target import Target
from summarize.contract.batch_jobs import by_job, failures, job_id

_DENIED = ("AccessDeniedException", "AccessDenied")
_WAITING, _RUNNING = ("SUBMITTED", "PENDING", "RUNNABLE"), ("STARTING", "RUNNING")
NOTE = (
    "these credentials may not see the jobs of AWS Batch (batch:DescribeJobs, batch:ListJobs), so it is known "
    "only when the run has ended why ranks were killed"
)

Json = dict[str, Any]


@dataclass(frozen=True)
class Seen:
    """Jobs at one moment; None where AWS does not tell. failures: error and cause by rank."""

    running: int | None = None
    pending: int | None = None
    failures: dict[int, Json] = field(default_factory=dict)


class Jobs:
    """The job of one execution, which is an array if there are several ranks."""

    def __init__(self, target: Target, execution_arn: str) -> None:
        self._arn, self._stepfunctions = execution_arn, target.client("stepfunctions")
        self._batch, self._s3 = target.client("batch"), target.client("s3")
        self._job: str | None = None
        self._ranks: dict[str, int] = {}  # by the ids of their jobs
        self._failures: dict[int, Json] = {}
        self.denied = False

    def look(self, bucket: str, folder: str, recorded: Collection[int]) -> Seen:
        """recorded: ranks that have left a record of their failure. Raises botocore's errors."""
        if self.denied or not self._is_submitted(bucket, folder):
            return Seen()
        try:
            return self._look(recorded)
        except ClientError as error:
            if error.response["Error"]["Code"] not in _DENIED:
                raise
            self.denied = True
            return Seen()

    def _look(self, recorded: Collection[int]) -> Seen:
        jobs = self._batch.describe_jobs(jobs=[self._job])["jobs"]
        if not jobs:  # AWS forgets jobs after a week
            return Seen()
        array = jobs[0].get("arrayProperties", {}).get("statusSummary")
        counts: dict[str, int] = array or {jobs[0]["status"]: 1}
        if counts.get("FAILED", 0) > len(self._failures):
            failed = self._failed() if array else [str(self._job)]
            new = {
                one: self._ranks[one] for one in failed if self._ranks.get(one) not in (None, *self._failures)
            }
            self._failures |= failures(self._batch, new, recorded)
        return Seen(_sum(counts, _RUNNING), _sum(counts, _WAITING), dict(self._failures))

    def _failed(self) -> list[str]:
        pages = self._batch.get_paginator("list_jobs").paginate(arrayJobId=self._job, jobStatus="FAILED")
        return [one["jobId"] for page in pages for one in page["jobSummaryList"]]

    def _is_submitted(self, bucket: str, folder: str) -> bool:
        """Whether the execution has submitted its job, whose ranks manifest.json then names."""
        if self._job is None:
            pages = self._stepfunctions.get_paginator("get_execution_history").paginate(executionArn=self._arn)
            events = (event for page in pages for event in page["events"])
            submitted = (event.get("taskSubmittedEventDetails", {}) for event in events)
            ids = (job_id(one.get("output", "")) for one in submitted if one.get("resourceType") == "batch")
            self._job = next((one for one in ids if one is not None), None)
        if self._job is not None and not self._ranks:
            body = self._s3.get_object(Bucket=bucket, Key=f"{folder}/manifest.json")["Body"].read()
            self._ranks = by_job(self._job, [one["RANK"] for one in json.loads(body)])
        return self._job is not None


def _sum(counts: dict[str, int], statuses: tuple[str, ...]) -> int:
    return sum(counts.get(status, 0) for status in statuses)
