"""What Initialize plans for AWS Batch, and how a job finds out which rank it is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto import mock_aws

from cosmicai.deploy.target import Target
from cosmicai.packaging.places import ROOT
from cosmicai.runs.logs import of_rank
from inference.job import FAILED, Job, JobError
from initialize.deployed import Deployed
from initialize.payload import PayloadError
from initialize.run import start

BUCKET = "team3-cosmicai"
DEPLOYED = Deployed(
    allow_scripts=False,
    has_redis=False,
    concurrency=lambda: 2,  # of Lambda
    is_running=lambda name: False,
    memory_mb=3008,
    has_batch=True,
)
PAYLOAD = {"bucket": BUCKET, "data_prefix": "25MB", "result_path": "r", "backend": "batch"}
Json = dict[str, Any]


@pytest.fixture(autouse=True)
def partitions(s3: Any) -> None:
    for number in range(1, 6):
        s3.put_object(Bucket=BUCKET, Key=f"25MB/{number}.pt", Body=b"galaxies")


def _start(s3: Any, payload: Json = PAYLOAD, name: str = "run-1", deployed: Deployed = DEPLOYED) -> Json:
    return start(s3, payload, name, "2026-11-22T00:00:00Z", deployed)


def _read(s3: Any, key: str) -> Any:
    return json.load(s3.get_object(Bucket=BUCKET, Key=key)["Body"])


def test_the_index_of_a_job_is_its_rank(s3: Any) -> None:
    answer = _start(s3)
    assert [event["RANK"] for event in _read(s3, "r/manifest.json")] == [0, 1, 2, 3, 4]
    assert (answer["backend"], answer["jobs"], answer["job_name"]) == ("batch", 5, "rank-run-1")
    assert (answer["collectives"], answer["max_concurrency"]) == ("none", 5)
    run = _read(s3, "r/run.json")
    assert "start minutes apart" in run["collectives"]["reason"]
    assert run.get("children") is None


def test_a_resumed_run_has_jobs_for_the_missing_ranks_alone(s3: Any) -> None:
    _start(s3)
    info = {"run_id": "run-1", "duration (seconds)": 2.0, "memory_limit (MB)": 3008}
    for rank in (0, 1, 3):
        s3.put_object(Bucket=BUCKET, Key=f"r/{rank}.json", Body=json.dumps({**info, "rank": rank}).encode())
    answer = _start(s3, {**PAYLOAD, "resume": True}, "run-2")
    ranks = [event["RANK"] for event in _read(s3, "r/manifest.json")]
    assert answer["jobs"] == len(ranks)
    assert ranks == [2, 4]


def test_a_run_that_was_too_much_for_lambda_is_resumed_on_batch(s3: Any) -> None:
    """And back, where the default is written out or left out."""
    on_lambda = {name: value for name, value in PAYLOAD.items() if name != "backend"}
    assert _start(s3, on_lambda)["backend"] == "lambda"
    assert _start(s3, {**PAYLOAD, "resume": True}, "run-2")["backend"] == "batch"
    assert _read(s3, "r/run.json")["payload"]["backend"] == "batch"
    answer = _start(s3, {**on_lambda, "resume": True}, "run-3")
    assert (answer["backend"], answer["max_concurrency"]) == ("lambda", 2)
    assert "backend" not in _read(s3, "r/run.json")["payload"]


def test_what_a_name_of_a_job_may_not_hold(s3: Any) -> None:
    assert _start(s3, name="süß.run" + "x" * 150)["job_name"] == ("rank-s---run" + "x" * 150)[:128]


def test_a_bound_that_does_not_count_is_told(s3: Any) -> None:
    (note,) = _start(s3, {**PAYLOAD, "max_concurrency": 2})["notes"]
    assert note.startswith("max_concurrency has no effect on AWS Batch")


def test_a_deployment_without_batch_refuses_it(s3: Any) -> None:
    with pytest.raises(PayloadError, match="backend: this deployment has no AWS Batch; set batch = "):
        _start(s3, deployed=replace(DEPLOYED, has_batch=False))
    with pytest.raises(PayloadError, match='backend: "slurm" is not allowed; give one of lambda, batch'):
        _start(s3, {**PAYLOAD, "backend": "slurm"})


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({}, "MANIFEST is ''; give s3://BUCKET"),
        ({"MANIFEST": "r/manifest.json"}, "MANIFEST is 'r/manifest.json'"),
        ({"MANIFEST": "s3://b"}, "MANIFEST is 's3://b'"),
        ({"MANIFEST": "s3://b/k", "AWS_BATCH_JOB_ARRAY_INDEX": "-1"}, "AWS_BATCH_JOB_ARRAY_INDEX is '-1'"),
        ({"MANIFEST": "s3://b/k", "MEMORY_MB": "much"}, "MEMORY_MB is 'much'"),
    ],
)
def test_a_variable_that_is_wrong_is_named(variables: dict[str, str], message: str) -> None:
    with pytest.raises(JobError) as caught:
        Job.of(variables)
    assert message in str(caught.value)


def test_the_containers_command_without_its_variables_ends_with_a_sentence(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "inference", "rank"]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT / "functions")}
    process = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert process.returncode == FAILED
    assert process.stderr == "error: MANIFEST is ''; give s3://BUCKET/RESULT_PATH/manifest.json\n"


def test_the_log_of_a_rank_is_that_of_its_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each attempt has a stream; the streams of other ranks and of other runs are left out."""
    for name in ("AWS_ENDPOINT_URL", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    arn = "arn:aws:states:us-east-1:123456789012:stateMachine:team3-cosmicai"
    with mock_aws():
        session = boto3.Session("a", "b", region_name="us-east-1")
        target = Target("team3", BUCKET, arn, session)
        logs, group = session.client("logs"), "/aws/batch/team3-cosmicai-batch"
        logs.create_log_group(logGroupName=group)
        now = datetime.now(UTC)
        for stream, rank, run_id in (
            ("a", 1, "run-1"),
            ("b", 1, "run-1"),
            ("c", 2, "run-1"),
            ("d", 1, "run-0"),
        ):
            logs.create_log_stream(logGroupName=group, logStreamName=f"rank/default/{stream}")
            starts = json.dumps({"message": "rank starts", "rank": rank, "run_id": run_id})
            events = [
                {"timestamp": int(now.timestamp() * 1000) + n, "message": message}
                for n, message in enumerate((starts, f"from {stream}"))
            ]
            logs.put_log_events(logGroupName=group, logStreamName=f"rank/default/{stream}", logEvents=events)
        execution = {"name": "run-1", "startDate": now, "input": json.dumps(PAYLOAD)}
        lines = of_rank(target, execution, 1)
    assert [line for line in lines if line.startswith("from")] == ["from a", "from b"]
    assert len(lines) == 4


@pytest.fixture(scope="module")
def states() -> Json:
    render = ["sh", str(ROOT / "scripts" / "state_machine.sh")]
    states: Json = json.loads(subprocess.run(render, capture_output=True, check=True).stdout)["States"]
    return states


def test_one_rank_is_a_job_and_several_are_an_array(states: Json) -> None:
    """An array of one job does not exist."""
    assert states["Ranks"]["Choices"][0] == {
        "Variable": "$.backend", "StringEquals": "batch", "Next": "BatchRanks",
    }  # fmt: skip
    first, second = states["BatchRanks"]["Choices"]
    assert (first["NumericLessThan"], first["Next"]) == (1, "Summarize")
    assert (second["NumericEquals"], second["Next"]) == (1, "BatchJob")
    assert states["BatchRanks"]["Default"] == "BatchArray"
    assert "ArrayProperties" not in states["BatchJob"]["Parameters"]
    assert states["BatchArray"]["Parameters"]["ArrayProperties"] == {"Size.$": "$.jobs"}


@pytest.mark.parametrize("name", ["BatchJob", "BatchArray"])
def test_ranks_that_failed_are_summarised_and_not_run_again_as_a_whole(states: Json, name: str) -> None:
    state = states[name]
    assert state["Catch"] == [
        {"ErrorEquals": ["States.ALL"], "ResultPath": "$.batch_failure", "Next": "Summarize"}
    ]
    errors = {error for retry in state["Retry"] for error in retry["ErrorEquals"]}
    assert errors
    assert all(error.startswith("Batch.") for error in errors)
