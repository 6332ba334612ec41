"""Ranks on AWS Batch that were killed: they leave no record, but AWS knows why their jobs ended."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from .contract.batch_jobs import by_job, failures, job_id
from .contract.s3 import read

Json = dict[str, Any]

_MOST_ASKED = 1000  # ranks, the first ones, which are ten requests; the others are listed as missing


def killed(
    s3: Any, batch: Callable[[], Any], event: Json, without: Collection[int], recorded: Collection[int]
) -> dict[int, Json]:
    """Error and cause by rank, of the ranks without a result.

    event: has `batch_failure` if not every job has succeeded. recorded: the ranks among `without` that have
    left a record themselves. If AWS does not answer, the result is empty: the run gets its summary anyway.
    """
    failure = event.get("batch_failure")
    if not isinstance(failure, dict) or not without:
        return {}
    job = job_id(str(failure.get("Cause", "")))
    asked = sorted(without)[:_MOST_ASKED]
    if job is None:  # none was submitted
        failure = {
            "error": str(failure.get("Error", "Batch.Failed")),
            "cause": str(failure.get("Cause", ""))[:300],
        }
        return {rank: failure for rank in asked if rank not in recorded}
    ranks = [one["RANK"] for one in json.loads(read(s3, event["bucket"], event["manifest"])[0])]
    jobs = {one: rank for one, rank in by_job(job, ranks).items() if rank in set(asked)}
    try:
        return dict(failures(batch(), jobs, recorded))
    except (BotoCoreError, ClientError) as error:
        print(json.dumps({"message": "AWS Batch does not say why jobs failed", "error": str(error)}))
        return {}
