"""Ranks as jobs of AWS Batch: the container's command, job by job, gives the results of Lambda."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cosmicai.emulator import Emulator
from cosmicai.emulator.environment import without_account
from cosmicai.packaging.places import BuildFolder
from inference.job import FAILED, TRY_AGAIN
from initialize.deployed import Deployed
from initialize.run import start
from summarize.gather import summarize_run
from tests.summaries import OF_DATA

from .conftest import Cloud, Json, Ran

DEPLOYED = Deployed(
    allow_scripts=False, has_redis=False, concurrency=lambda: 1, is_running=lambda name: False, has_batch=True
)


class Jobs:
    """An array job: for each index a process of the container's command, with the variables that Batch sets."""

    def __init__(self, cloud: Cloud, build: BuildFolder) -> None:
        self._cloud, self._build = cloud, build

    def plan(self, payload: Json) -> Json:
        return start(self._cloud.s3, payload, "on-batch", "2026-11-22T00:00:00Z", DEPLOYED)

    def run(self, planned: Json, index: int, **variables: str) -> subprocess.CompletedProcess[str]:
        array = {"AWS_BATCH_JOB_ARRAY_INDEX": str(index)} if planned["jobs"] > 1 else {}
        environment = {
            **without_account(os.environ), **self._cloud.aws.environment, **array,
            "MANIFEST": f"s3://{planned['bucket']}/{planned['manifest']}", "MEMORY_MB": "16384", "VCPUS": "4",
            "AWS_DEFAULT_REGION": "us-east-1", "CAPACITY": "fargate_spot", "PUBLIC_ADDRESS": "true",
            **variables,
        }  # fmt: skip
        environment.pop("PYTHONPATH", None)
        command = [str(self._build.python / "bin" / "python"), "-m", "inference", "rank"]
        folder = self._build.image("lean")
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)

    def finished(self, planned: Json, payload: Json) -> tuple[Ran, Json]:
        """What the run has left, and what the state machine decides by."""
        outcome = summarize_run(self._cloud.s3, planned)
        return Ran({"status": "SUCCEEDED"}, self._cloud, payload), outcome


@pytest.fixture
def jobs(cloud: Cloud, build: BuildFolder) -> Jobs:
    return Jobs(cloud, build)


@pytest.mark.parametrize("ranks", [1, 3])
def test_jobs_give_the_results_of_lambda(
    cloud: Cloud,
    jobs: Jobs,
    run: Callable[[Json], Ran],
    partitions: Callable[..., dict[str, bytes]],
    prefix: str,
    ranks: int,
) -> None:
    """Three ranks are an array; one is a job without an index."""
    cloud.put_all(prefix, partitions(ranks))
    on_lambda = run(cloud.payload(prefix))
    assert on_lambda.status == "SUCCEEDED", on_lambda.cause
    payload = cloud.payload(prefix, backend="batch", result_path=f"results/{prefix}-batch")
    planned = jobs.plan(payload)
    assert planned["backend"] == "batch"
    for index in range(planned["jobs"]):
        process = jobs.run(planned, index)
        assert process.returncode == 0, process.stderr
        assert '"message": "rank done"' in process.stdout
    on_batch, outcome = jobs.finished(planned, payload)
    assert outcome["within_tolerance"]
    for rank in range(ranks):
        ours, theirs = on_batch.predictions(rank), on_lambda.predictions(rank)
        assert ours.keys() == theirs.keys()
        assert all(
            np.array_equal(ours[name], theirs[name], equal_nan=theirs[name].dtype.kind == "f")
            for name in theirs
            if name != "run_id"
        )
    summaries = [one.read("summary.json") for one in (on_batch, on_lambda)]
    ours, theirs = ({name: summary[name] for name in OF_DATA} for summary in summaries)
    assert ours == theirs
    assert summaries[0]["children"] is None
    cost = summaries[0]["cost"]
    assert cost["AWS Batch compute (USD)"] == pytest.approx(ranks * _minute_of_fargate())
    assert cost["Lambda compute (USD)"] == cost["Lambda requests (USD)"] == 0
    assert "Spot costs up to 70 % less" in cost["notes"][0]
    assert b"on AWS Batch" in on_batch.summaries()["report.html"]
    info = on_batch.read("0.json")
    assert (info["memory_limit (MB)"], info["threads"]) == (16384, min(4, os.cpu_count() or 1))


def _minute_of_fargate() -> float:
    """USD for a rank of less than a minute, with 4 vCPUs, 16 GB and a public address."""
    vcpu_hour, gb_hour = (0.04048, 0.004445) if platform.machine() == "x86_64" else (0.03238, 0.00356)
    return (4 * vcpu_hour + 16 * gb_hour + 0.005) / 60


def test_a_rank_that_fails_leaves_a_record_and_no_other_one(
    cloud: Cloud, jobs: Jobs, partitions: Callable[..., dict[str, bytes]], prefix: str
) -> None:
    cloud.put_all(prefix, {**partitions(2), "2.pt": b"junk"})
    payload = cloud.payload(prefix, backend="batch")
    planned = jobs.plan(payload)
    assert planned["backend"] == "batch"
    assert [jobs.run(planned, index).returncode for index in range(2)] == [0, FAILED]
    ran, outcome = jobs.finished(planned, payload)
    assert not outcome["within_tolerance"]
    (failure,) = ran.read("summary.json")["failed_ranks"].items()
    assert failure[0] == "1"
    assert failure[1]["error"] == "PartitionError"
    assert "2.pt: is cut short or not a .pt file" in failure[1]["cause"]


def test_what_could_not_be_read_just_then_is_tried_again(
    cloud: Cloud, jobs: Jobs, partitions: Callable[..., dict[str, bytes]], prefix: str
) -> None:
    """And the record of the first attempt does not count any more."""
    bodies = partitions(2)
    cloud.put_all(prefix, bodies)
    payload = cloud.payload(prefix, backend="batch")
    planned = jobs.plan(payload)
    assert planned["backend"] == "batch"
    cloud.s3.delete_object(Bucket=cloud.bucket, Key=f"{prefix}/2.pt")
    process = jobs.run(planned, 1)
    assert process.returncode == TRY_AGAIN
    assert "ObjectError" in process.stdout
    cloud.put_all(prefix, bodies)
    assert [jobs.run(planned, index).returncode for index in range(2)] == [0, 0]
    ran, outcome = jobs.finished(planned, payload)
    assert outcome["within_tolerance"]
    assert ran.read("summary.json")["failed_ranks"] == {}


def test_an_index_beyond_the_ranks_is_told(
    cloud: Cloud, jobs: Jobs, partitions: Callable[..., dict[str, bytes]], prefix: str
) -> None:
    cloud.put_all(prefix, partitions(2))
    planned = jobs.plan(cloud.payload(prefix, backend="batch"))
    assert planned["backend"] == "batch"
    process = jobs.run(planned, 2)
    assert process.returncode == FAILED
    assert "AWS_BATCH_JOB_ARRAY_INDEX is 2, but" in process.stderr
    missing: dict[str, Any] = {**planned, "manifest": f"results/{prefix}/none.json"}
    assert jobs.run(missing, 0).returncode == TRY_AGAIN


def test_a_deployment_without_batch_refuses_the_payload(
    cloud: Cloud,
    run: Callable[[Json], Ran],
    partitions: Callable[..., dict[str, bytes]],
    prefix: str,
    aws: Emulator,
) -> None:
    cloud.put_all(prefix, partitions(1))
    ran = run(cloud.payload(prefix, backend="batch"))
    assert ran.status == "FAILED"
    assert "backend: this deployment has no AWS Batch" in ran.cause
