"""The module for AWS Batch and the state machine's branch, against an AWS that we did not write.

moto takes what AWS Batch takes (known security groups and subnets, a queue that exists), and ends jobs at once.
"""

from __future__ import annotations

import json
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest

from cosmicai.deploy.target import Target
from cosmicai.packaging.places import ROOT
from cosmicai.runs.batch_jobs import Jobs
from initialize.run import Deployed, start
from summarize.gather import summarize_run
from tests.replica import ACCOUNT, DEPLOYER, Replica, replica
from tests.replica.calls import actions
from tests.replica.policies import allowed, findings, lacking, role_policy
from tests.replica.terraform import Root

Json = dict[str, Any]
DEPLOYED = Deployed(
    allow_scripts=False, has_redis=False, concurrency=lambda: 1, is_running=lambda name: False, has_batch=True
)
NAME = "team3-cosmicai-batch"
IMAGE = f"{ACCOUNT}.dkr.ecr.us-east-1.amazonaws.com/team3-cosmicai-inference:1"
GPU: Json = {
    "inference": {"architecture": "x86_64"},
    "batch": {"vcpus": 4, "gpu": {"instance_types": ["g6.xlarge"]}},
}
# https://docs.aws.amazon.com/aws-managed-policy/latest/reference/AmazonEC2ContainerServiceforEC2Role.html
ECS_MANAGED = {
    "ec2:DescribeTags", "ecs:CreateCluster", "ecs:DeregisterContainerInstance", "ecs:DiscoverPollEndpoint",
    "ecs:Poll", "ecs:RegisterContainerInstance", "ecs:StartTelemetrySession",
    "ecs:UpdateContainerInstancesState", "ecs:SubmitAttachmentStateChanges", "ecs:SubmitContainerStateChange",
    "ecs:SubmitTaskStateChange", "ecr:GetAuthorizationToken", "ecr:BatchCheckLayerAvailability",
    "ecr:GetDownloadUrlForLayer", "ecr:BatchGetImage", "logs:CreateLogStream", "logs:PutLogEvents",
    "ecs:TagResource",
}  # fmt: skip
SUBMIT = "arn:aws:states:::batch:submitJob.sync"


@dataclass(frozen=True)
class Applied:
    """The replica with the module's resources in it."""

    aws: Replica
    subnets: list[str]
    folder: Path
    variables: Json

    def terraform(self, command: str, **changes: Any) -> None:
        """changes: of the variable `batch`, and of others."""
        values = {**self.variables, **changes, "batch": {**self.variables["batch"], **changes.get("batch", {})}}
        Root(self.aws, self.folder, values).run(command, "module.batch")


@pytest.fixture(scope="module")
def applied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Applied]:
    folder = tmp_path_factory.mktemp("batch")
    with replica(folder / "log") as aws:
        settings = {"batch": {"use_docker": False}, "stepfunctions": {"execute_state_machine": True}}
        asked = urllib.request.Request(f"{aws.endpoint}/moto-api/config", json.dumps(settings).encode())  # noqa: S310
        urllib.request.urlopen(asked).close()  # noqa: S310
        subnets = aws.client("ec2").describe_subnets()["Subnets"]  # of the account's default VPC
        chosen = sorted(subnet["SubnetId"] for subnet in subnets)[:2]
        variables = {"team": "team3", "image_uri": IMAGE, "batch": {"subnet_ids": chosen, "vcpus": 8}}
        made = Applied(aws, chosen, folder, variables)
        made.terraform("apply")
        yield made


def test_what_is_made_is_what_a_rank_needs(applied: Applied) -> None:
    batch = applied.aws.client("batch")
    (environment,) = batch.describe_compute_environments()["computeEnvironments"]
    resources = environment["computeResources"]
    assert (resources["type"], sorted(resources["subnets"])) == ("FARGATE_SPOT", applied.subnets)
    (queue,) = batch.describe_job_queues(jobQueues=[NAME])["jobQueues"]
    assert queue["computeEnvironmentOrder"][0]["computeEnvironment"] == environment["computeEnvironmentArn"]
    (definition,) = batch.describe_job_definitions(jobDefinitionName=NAME)["jobDefinitions"]
    container = definition["containerProperties"]
    assert (container["image"], container["command"]) == (IMAGE, ["rank"])
    assert {"type": "VCPU", "value": "8"} in container["resourceRequirements"]
    (group,) = applied.aws.client("ec2").describe_security_groups(GroupNames=[NAME])["SecurityGroups"]
    assert group["IpPermissions"] == []


def test_the_roles_of_a_rank_and_of_its_start_are_apart(applied: Applied) -> None:
    rank, start_ = (role_policy(applied.aws, f"{NAME}-{part}") for part in ("rank", "start"))
    assert findings(rank) == findings(start_) == []
    assert allowed(rank) == {"s3:GetObject", "s3:ListBucket", "s3:PutObject"}
    assert allowed(start_) == {
        "logs:CreateLogStream", "logs:PutLogEvents", "ecr:GetAuthorizationToken",
        "ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer",
    }  # fmt: skip


def _machine(applied: Applied) -> str:
    """The state machine from where it chooses among the ways to run ranks, to where it summarises them."""
    render = ["sh", str(ROOT / "scripts" / "state_machine.sh")]
    states = json.loads(subprocess.run(render, capture_output=True, check=True).stdout)["States"]
    batch = applied.aws.client("batch")
    queue = batch.describe_job_queues(jobQueues=[NAME])["jobQueues"][0]["jobQueueArn"]
    definition = batch.describe_job_definitions(jobDefinitionName=NAME)["jobDefinitions"][0]["jobDefinitionArn"]
    own = {name: states[name] for name in ("Ranks", "BatchRanks", "BatchJob", "BatchArray")}
    own["Ranks"] = {**own["Ranks"], "Choices": own["Ranks"]["Choices"][:1], "Default": "Summarize"}
    for name in ("BatchJob", "BatchArray"):
        own[name]["Parameters"] |= {"JobQueue": queue, "JobDefinition": definition}
    return json.dumps({"StartAt": "Ranks", "States": {**own, "Summarize": {"Type": "Succeed"}}})


@pytest.fixture(scope="module")
def machine(applied: Applied) -> str:
    role = applied.aws.client("iam").get_role(RoleName=f"{NAME}-rank")["Role"]["Arn"]  # any: moto asks for one
    arn: str = applied.aws.client("stepfunctions").create_state_machine(
        name="ranks", definition=_machine(applied), roleArn=role
    )["stateMachineArn"]
    return arn


def _ended(stepfunctions: Any, execution: str) -> Json:
    deadline = time.monotonic() + 120
    while (ended := stepfunctions.describe_execution(executionArn=execution))["status"] == "RUNNING":
        assert time.monotonic() < deadline
        time.sleep(0.2)
    return dict(ended)


@pytest.mark.parametrize("jobs", [0, 1, 3])
def test_the_state_machine_runs_one_job_for_each_rank(applied: Applied, machine: str, jobs: int) -> None:
    """One rank is a job without an array, none is no job."""
    stepfunctions, batch = applied.aws.client("stepfunctions"), applied.aws.client("batch")
    states = json.loads(stepfunctions.describe_state_machine(stateMachineArn=machine)["definition"])["States"]
    assert states["BatchJob"]["Resource"] == states["BatchArray"]["Resource"] == SUBMIT
    execution_input = {
        "backend": "batch",
        "jobs": jobs,
        "job_name": f"rank-run-{jobs}",
        "bucket": "b",
        "manifest": "r/manifest.json",
    }
    execution = stepfunctions.start_execution(
        stateMachineArn=machine, name=f"run-{jobs}", input=json.dumps(execution_input)
    )["executionArn"]
    ended = _ended(stepfunctions, execution)
    assert ended["status"] == "SUCCEEDED", ended
    assert json.loads(ended["output"]) == execution_input  # no failure, and what Summarize needs
    listed = batch.list_jobs(jobQueue=NAME, jobStatus="SUCCEEDED")["jobSummaryList"]
    submitted = [job for job in listed if job["jobName"] == f"rank-run-{jobs}"]
    if not jobs:
        assert submitted == []
        return
    job = batch.describe_jobs(jobs=[one["jobId"] for one in submitted if ":" not in one["jobId"]])["jobs"][0]
    assert {"name": "MANIFEST", "value": "s3://b/r/manifest.json"} in job["container"]["environment"]
    assert job.get("arrayProperties", {}).get("size") == (None if jobs == 1 else jobs)


@pytest.mark.parametrize("ranks", [1, 3])
def test_ranks_that_were_killed_are_named_with_their_reason(applied: Applied, machine: str, ranks: int) -> None:
    """By Summarize, from what the state machine tells it; by the command line, from the execution's history."""
    s3, batch = applied.aws.client("s3"), applied.aws.client("batch")
    bucket, folder = f"killed-{ranks}", "results/killed"
    s3.create_bucket(Bucket=bucket)
    for number in range(1, ranks + 1):
        s3.put_object(Bucket=bucket, Key=f"25MB/{number}.pt", Body=b"galaxies")
    payload = {"bucket": bucket, "data_prefix": "25MB", "result_path": folder, "backend": "batch"}
    planned = start(s3, payload, "run", "2026-11-22T00:00:00Z", DEPLOYED)
    stepfunctions = applied.aws.client("stepfunctions")
    execution = stepfunctions.start_execution(stateMachineArn=machine, name=bucket, input=json.dumps(planned))
    ended = _ended(stepfunctions, execution["executionArn"])
    assert ended["status"] == "SUCCEEDED", ended  # Summarize decides whether the run has failed
    summarize_run(s3, json.loads(ended["output"]), batch=lambda: batch)
    summary = json.load(s3.get_object(Bucket=bucket, Key=f"{folder}/summary.json")["Body"])
    killed = [str(rank) for rank in range(ranks) if rank or ranks == 1]
    assert list(summary["failed_ranks"]) == killed
    assert {one["error"] for one in summary["failed_ranks"].values()} == {"Batch.OutOfMemory"}
    session = boto3.Session("test", "test", region_name="us-east-1")
    jobs = Jobs(Target("team3", bucket, machine, session, applied.aws.endpoint), execution["executionArn"])
    seen = jobs.look(bucket, folder, set())
    assert {str(rank): reason for rank, reason in seen.failures.items()} == summary["failed_ranks"]
    assert (seen.running, seen.pending) == (0, 0)


def test_a_team_changes_to_instances_with_a_gpu(applied: Applied) -> None:
    """The compute environment is replaced, which AWS refuses as long as the queue names it."""
    applied.terraform("apply", **GPU)
    batch, ec2 = applied.aws.client("batch"), applied.aws.client("ec2")
    (made,) = batch.describe_compute_environments()["computeEnvironments"]
    resources = made["computeResources"]
    assert (resources["type"], resources["instanceTypes"]) == ("SPOT", ["g6.xlarge"])
    (template,) = ec2.describe_launch_template_versions(LaunchTemplateName=f"{NAME}-host")[
        "LaunchTemplateVersions"
    ]
    assert template["LaunchTemplateData"]["MetadataOptions"]["HttpTokens"] == "required"
    definitions = batch.describe_job_definitions(jobDefinitionName=NAME)["jobDefinitions"]
    container = max(definitions, key=lambda one: one["revision"])["containerProperties"]
    assert {"type": "GPU", "value": "1"} in container["resourceRequirements"]
    host = role_policy(applied.aws, f"{NAME}-host")
    assert findings(host) == []
    assert allowed(host) <= ECS_MANAGED


def test_nothing_is_left_and_the_deployers_policy_was_enough(applied: Applied) -> None:
    """The last test: the module is destroyed."""
    applied.terraform("destroy", **GPU)
    assert lacking(actions(applied.aws.recording, DEPLOYER), "deployer", "deployer-batch") == set()
    batch = applied.aws.client("batch")
    assert batch.describe_job_queues(jobQueues=[NAME])["jobQueues"] == []
    assert batch.describe_compute_environments()["computeEnvironments"] == []
