"""Why ranks on AWS Batch were killed: from moto's jobs, which end as AWS's documentation says that jobs end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from moto import mock_aws
from moto.batch.models import Job, batch_backends
from moto.core import DEFAULT_ACCOUNT_ID

from cosmicai.deploy.target import Target
from cosmicai.runs.batch_jobs import Jobs
from cosmicai.runs.watch import Watcher
from initialize.run import Deployed, start
from summarize.contract.batch_jobs import by_job, failures, job_id
from summarize.gather import summarize_run

BUCKET, REGION = "team3-cosmicai", "us-east-1"
DEPLOYED = Deployed(
    allow_scripts=False, has_redis=False, concurrency=lambda: 1, is_running=lambda name: False, has_batch=True
)
PAYLOAD = {"bucket": BUCKET, "data_prefix": "25MB", "result_path": "r", "backend": "batch"}
OUT_OF_MEMORY = (
    137,
    "OutOfMemoryError: Container killed due to memory usage",
    "Essential container in task exited",
)
Json = dict[str, Any]
EVERY_SERVICE: Any = {"core": {"service_whitelist": None}, "batch": {"use_docker": False}}


class Account:
    """moto's, with a queue and a job definition."""

    def __init__(self) -> None:
        session = boto3.Session("a", "b", region_name=REGION)
        self.session, self.batch, self.s3 = session, session.client("batch"), session.client("s3")
        role = session.client("iam").create_role(RoleName="batch", AssumeRolePolicyDocument="{}")["Role"]["Arn"]
        network = session.client("ec2")
        subnet = network.describe_subnets()["Subnets"][0]["SubnetId"]
        group = network.describe_security_groups()["SecurityGroups"][0]["GroupId"]
        self.batch.create_compute_environment(
            computeEnvironmentName="ranks", type="MANAGED", serviceRole=role,
            computeResources={
                "type": "FARGATE", "maxvCpus": 4, "subnets": [subnet], "securityGroupIds": [group],
            },
        )  # fmt: skip
        order = [{"order": 1, "computeEnvironment": "ranks"}]
        self.batch.create_job_queue(
            jobQueueName="q", priority=1, computeEnvironmentOrder=order, state="ENABLED"
        )
        sizes = [{"type": "VCPU", "value": "1"}, {"type": "MEMORY", "value": "2048"}]
        self.batch.register_job_definition(
            jobDefinitionName="d", type="container", platformCapabilities=["FARGATE"],
            containerProperties={"image": "i", "executionRoleArn": role, "resourceRequirements": sizes},
        )  # fmt: skip
        self.s3.create_bucket(Bucket=BUCKET)

    def submit(self, size: int) -> str:
        array = {"arrayProperties": {"size": size}} if size > 1 else {}
        submitted = self.batch.submit_job(jobName="rank-run", jobQueue="q", jobDefinition="d", **array)
        return str(submitted["jobId"])

    def end(self, job: str, code: int | None, reason: str, status_reason: str, attempts: int = 1) -> None:
        """A job's end, as AWS tells of it."""
        backend_job: Job = batch_backends[DEFAULT_ACCOUNT_ID][REGION]._jobs[job]
        backend_job.status, backend_job.job_stopped_reason = "FAILED", status_reason
        container = {**({} if code is None else {"exitCode": code}), **({"reason": reason} if reason else {})}
        backend_job.attempts = [{"container": container}] * attempts

    def plan(self, ranks: int, **changes: Any) -> Json:
        for number in range(1, ranks + 1):
            self.s3.put_object(Bucket=BUCKET, Key=f"25MB/{number}.pt", Body=b"galaxies")
        return start(self.s3, {**PAYLOAD, **changes}, "run", "2026-11-22T00:00:00Z", DEPLOYED)

    def finish(self, rank: int) -> None:
        info = {
            "rank": rank, "run_id": "run", "duration (seconds)": 2.0, "memory_limit (MB)": 2048,
            "capacity": "fargate", "vcpus": 1, "architecture": "x86_64",
        }  # fmt: skip
        self.s3.put_object(Bucket=BUCKET, Key=f"r/{rank}.json", Body=json.dumps(info).encode())

    def record(self, rank: int) -> None:
        failure = {"rank": rank, "run_id": "run", "error": "ObjectError", "cause": "503"}
        self.s3.put_object(Bucket=BUCKET, Key=f"r/failures/{rank}.json", Body=json.dumps(failure).encode())

    def read(self, name: str) -> Any:
        return json.load(self.s3.get_object(Bucket=BUCKET, Key=f"r/{name}")["Body"])

    def summary(self, planned: Json, job: str) -> Json:
        (described,) = self.batch.describe_jobs(jobs=[job])["jobs"]
        cause = {
            name[0].upper() + name[1:]: value for name, value in described.items()
        }  # as Step Functions writes
        failed = {"batch_failure": {"Error": "States.TaskFailed", "Cause": json.dumps(cause)}}
        outcome = summarize_run(self.s3, {**planned, **failed}, batch=lambda: self.batch)
        return {**self.read("summary.json"), "cause": outcome["cause"]}


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> Iterator[Account]:
    for name in ("AWS_ENDPOINT_URL", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    with mock_aws(config=EVERY_SERVICE):
        yield Account()


@pytest.mark.parametrize(
    ("end", "error", "cause"),
    [
        (
            OUT_OF_MEMORY,
            "Batch.OutOfMemory",
            "OutOfMemoryError: Container killed due to memory usage; Essential container in task exited; "
            "exit code 137 (SIGKILL)",
        ),
        ((137, "", "Essential container in task exited"), "Batch.Killed", "exit code 137 (SIGKILL)"),
        ((143, "", "Your Spot Task was interrupted."), "Batch.Interrupted", "exit code 143 (SIGTERM)"),
        (
            (None, "", "Host EC2 (instance i-0123456789abcdef0) terminated."),
            "Batch.Interrupted",
            "i-0123456789",
        ),
        (
            (143, "", "Job attempt duration exceeded timeout"),
            "Batch.TimedOut",
            "exceeded timeout; exit code 143",
        ),
        (
            (
                None,
                "CannotPullContainerError: pull image manifest has been retried 5 time(s)",
                "Task failed to start",
            ),
            "Batch.NotStarted",
            "CannotPullContainerError: pull image manifest",
        ),
        ((1, "", "Essential container in task exited"), "Batch.Failed", "exit code 1"),
        ((None, "", "stopped by a colleague"), "Batch.Failed", "stopped by a colleague; job "),
    ],
)
def test_the_end_of_a_job_is_told_in_awss_words(
    account: Account, end: tuple[int | None, str, str], error: str, cause: str
) -> None:
    job = account.submit(1)
    account.end(job, *end)
    (failure,) = failures(account.batch, {job: 7}, set()).values()
    assert failure["error"] == error
    assert cause in failure["cause"]
    assert failure["cause"].endswith(f"job {job}")


def test_jobs_are_asked_for_by_the_hundred_and_of_a_success_nothing_is_told(account: Account) -> None:
    job = account.submit(250)
    for index in (0, 99, 100, 249):
        account.end(f"{job}:{index}", *OUT_OF_MEMORY)
    assert failures(account.batch, by_job(job, range(250)), set()).keys() == {0, 99, 100, 249}


def test_a_run_names_why_each_rank_was_killed(account: Account) -> None:
    """A resumed run, whose jobs have the ranks of its manifest, not their indexes."""
    account.plan(5)
    account.finish(1)
    planned = account.plan(5, resume=True)
    assert planned["jobs"] == 4
    job = account.submit(4)  # of the ranks 0, 2, 3, 4
    account.finish(4)
    account.end(f"{job}:1", *OUT_OF_MEMORY)
    account.end(f"{job}:2", 143, "", "Your Spot Task was interrupted.", attempts=3)
    run_summary = account.summary(planned, job)
    failed = run_summary["failed_ranks"]
    assert {rank: one["error"] for rank, one in failed.items()} == {
        "2": "Batch.OutOfMemory",
        "3": "Batch.Interrupted",
    }
    assert "attempt 3" in failed["3"]["cause"]
    assert run_summary["missing_ranks"] == [0]  # its job succeeded, and somebody has deleted its result
    assert "rank 2: Batch.OutOfMemory: OutOfMemoryError: Container killed" in run_summary["cause"]
    page = account.s3.get_object(Bucket=BUCKET, Key="r/report.html")["Body"].read().decode()
    assert "Batch.Interrupted" in page


def test_one_rank_is_a_job_without_an_array(account: Account) -> None:
    planned, job = account.plan(1), account.submit(1)
    account.end(job, *OUT_OF_MEMORY)
    assert account.summary(planned, job)["failed_ranks"]["0"]["error"] == "Batch.OutOfMemory"


@pytest.mark.parametrize(("code", "error"), [(1, "ObjectError"), (75, "ObjectError"), (137, "Batch.Killed")])
def test_a_ranks_own_record_stands_unless_a_later_attempt_was_killed(
    account: Account, code: int, error: str
) -> None:
    planned, job = account.plan(1), account.submit(1)
    account.record(0)
    account.end(job, code, "", "Essential container in task exited", attempts=2)
    assert account.summary(planned, job)["failed_ranks"]["0"]["error"] == error


def test_jobs_that_could_not_be_submitted_are_told_by_step_functions(account: Account) -> None:
    planned = account.plan(3)
    failed = {"Error": "Batch.ClientException", "Cause": "Job queue is in DISABLED state"}
    summarize_run(account.s3, {**planned, "batch_failure": failed}, batch=lambda: account.batch)
    assert account.read("summary.json")["failed_ranks"] == {
        str(rank): {"error": "Batch.ClientException", "cause": "Job queue is in DISABLED state"}
        for rank in range(3)
    }


def test_a_run_is_summarised_if_batch_does_not_answer(
    account: Account, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def denied(**_: Any) -> None:
        raise ClientError({"Error": {"Code": "AccessDeniedException", "Message": "no"}}, "DescribeJobs")

    planned, job = account.plan(2), account.submit(2)
    cause = json.dumps({"JobId": job})
    monkeypatch.setattr(account.batch, "describe_jobs", denied)
    failed = {"batch_failure": {"Error": "States.TaskFailed", "Cause": cause}}
    summarize_run(account.s3, {**planned, **failed}, batch=lambda: account.batch)
    assert account.read("summary.json")["missing_ranks"] == [0, 1]
    assert "AWS Batch does not say why jobs failed" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["", "no JSON", "[]", '{"JobId": 7}', '"x"'])
def test_what_names_no_job_is_none(text: str) -> None:
    assert job_id(text) is None


class Seen(Jobs):
    """The jobs of an execution whose history is that of a job which was submitted."""

    def __init__(self, account: Account, job: str) -> None:
        arn = "arn:aws:states:us-east-1:123456789012:stateMachine:team3-cosmicai"
        super().__init__(Target("team3", BUCKET, arn, account.session), "execution")
        self._job = job


def test_a_run_that_continues_shows_its_jobs_and_who_was_killed(account: Account) -> None:
    account.plan(4)
    job = account.submit(4)
    jobs, backend = Seen(account, job), batch_backends[DEFAULT_ACCOUNT_ID][REGION]
    backend._jobs[f"{job}:2"].status, backend._jobs[f"{job}:3"].status = "RUNNING", "RUNNABLE"
    seen = jobs.look(BUCKET, "r", set())
    assert (seen.running, seen.pending, seen.failures) == (1, 1, {})
    account.end(f"{job}:2", *OUT_OF_MEMORY)
    seen = jobs.look(BUCKET, "r", set())
    assert (seen.running, seen.pending) == (0, 1)
    assert seen.failures[2]["error"] == "Batch.OutOfMemory"
    account.end(f"{job}:3", 1, "", "Essential container in task exited")
    assert jobs.look(BUCKET, "r", {3}).failures.keys() == {2}  # the record of rank 3 says why


def test_status_shows_them_while_the_run_lasts_and_by_its_summary_after(account: Account) -> None:
    stepfunctions = account.session.client("stepfunctions")
    machine = '{"StartAt": "Wait", "States": {"Wait": {"Type": "Wait", "Seconds": 60, "End": true}}}'
    arn = stepfunctions.create_state_machine(
        name="team3-cosmicai", definition=machine, roleArn="arn:aws:iam::123456789012:role/any"
    )["stateMachineArn"]
    planned, job = account.plan(3), account.submit(3)
    execution = stepfunctions.start_execution(stateMachineArn=arn, name="run", input=json.dumps(PAYLOAD))
    watcher = Watcher(Target("team3", BUCKET, arn, account.session), execution["executionArn"])
    watcher._jobs = Seen(account, job)
    account.finish(0)
    account.end(f"{job}:1", *OUT_OF_MEMORY)
    snapshot = watcher.look()
    assert (snapshot.status, snapshot.finished, snapshot.failed, snapshot.running, snapshot.pending) == (
        "RUNNING",
        1,
        1,
        0,
        0,
    )
    assert snapshot.errors[1].startswith("Batch.OutOfMemory: OutOfMemoryError: Container killed")
    account.end(f"{job}:2", 143, "", "Job attempt duration exceeded timeout")
    account.summary(planned, job)
    stepfunctions.stop_execution(executionArn=execution["executionArn"])
    watcher._jobs = None  # AWS forgets jobs after a week
    snapshot = watcher.look()
    assert (snapshot.ended, snapshot.failed) == (True, 2)
    assert snapshot.errors[2].startswith("Batch.TimedOut: Job attempt duration exceeded timeout")
    assert snapshot.usd_so_far > 0


def test_credentials_that_may_not_see_jobs_are_not_asked_for_twice(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    account.plan(2)
    jobs, asked = Seen(account, account.submit(2)), []

    def denied(**_: Any) -> None:
        asked.append(1)
        raise ClientError({"Error": {"Code": "AccessDeniedException", "Message": "no"}}, "DescribeJobs")

    monkeypatch.setattr(jobs._batch, "describe_jobs", denied)
    assert [jobs.look(BUCKET, "r", set()).running for _ in range(2)] == [None, None]
    assert (jobs.denied, len(asked)) == (True, 1)
