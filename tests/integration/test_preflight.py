"""What would stop a deployment; what Lambda and other owners of buckets say is given, the rest is moto's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cosmicai.deploy.commandline import AskError
from cosmicai.deploy.preflight import Finding, Settings, examine
from tests.replica import Replica, replica

SETTINGS = Settings(team="team3", region="us-east-1", memory_mb=3008, bucket="team3-cosmicai", has_host=True)
_NOT_FOUND = "An error occurred (404) when calling the HeadBucket operation: Not Found"


def _account(limit: int = 1000, free: int | None = None, head: str | None = _NOT_FOUND) -> Callable[..., Any]:
    """Answers of an account with `limit` executions. head: why it cannot have its bucket; None: it can."""

    def ask(service: str, operation: str, *_: str) -> Any:
        if operation == "get-caller-identity":
            return {"Account": "123456789012"}
        if operation == "get-account-settings":
            limits = {"ConcurrentExecutions": limit, "UnreservedConcurrentExecutions": free or limit}
            return {"AccountLimit": limits}
        if operation != "head-bucket":
            raise NotImplementedError(operation)
        if head:
            raise AskError(head)
        return {}

    return ask


def _findings(settings: Settings, ask: Callable[..., Any]) -> dict[str, Finding]:
    return {finding.name: finding for finding in examine(replace(settings, has_host=False), ask)}


@pytest.mark.parametrize(
    ("settings", "limit", "expected"),
    [
        ({}, 1000, "1,000 ranks at once"),
        ({}, 10, "10 ranks at once"),
        ({"max_concurrency": 500, "reserved_concurrency": 200}, 1000, "200 ranks at once"),
        ({"memory_mb": 3538}, 1000, "1,000 ranks at once"),
        ({"reserved_concurrency": 900}, 1000, "900 ranks at once"),
    ],
)
def test_what_lambda_grants(settings: dict[str, int], limit: int, expected: str) -> None:
    assert _findings(replace(SETTINGS, **settings), _account(limit))["concurrency"] == (  # type: ignore[arg-type]
        Finding("concurrency", True, expected)
    )


@pytest.mark.parametrize(
    ("settings", "limit", "remedy"),
    [
        ({"memory_mb": 3538}, 10, "set inference.memory_mb = 3008, or ask AWS Support"),
        ({"max_concurrency": 500}, 50, "set inference.max_concurrency = 50, or ask for more"),
        ({"reserved_concurrency": 901}, 1000, "reserve 900 at most, or ask for more"),
        ({"reserved_concurrency": 5}, 10, "reserve 0 at most, or ask for more"),
    ],
)
def test_what_lambda_refuses(settings: dict[str, int], limit: int, remedy: str) -> None:
    concurrency = _findings(replace(SETTINGS, **settings), _account(limit))["concurrency"]  # type: ignore[arg-type]
    assert not concurrency.holds
    assert remedy in concurrency.detail


def test_what_is_reserved_already_is_not_counted_twice() -> None:
    settings = replace(SETTINGS, reserved_concurrency=900, is_deployed=True)
    assert _findings(settings, _account(1000, free=100))["concurrency"].holds


@pytest.mark.parametrize(
    ("head", "is_deployed", "holds", "expected"),
    [
        (_NOT_FOUND, False, True, "is free"),
        (None, True, True, "is the deployment's own"),
        (None, False, False, "outside this deployment's state: set storage.bucket_name"),
        (
            _NOT_FOUND.replace("404", "403"),
            False,
            False,
            "belongs to another account or region: set storage.bucket_name",
        ),
        ("An error occurred (SlowDown)", False, True, "not checked: An error occurred (SlowDown)"),
    ],
)
def test_the_buckets_name(head: str | None, is_deployed: bool, holds: bool, expected: str) -> None:
    bucket_name = _findings(replace(SETTINGS, is_deployed=is_deployed), _account(head=head))["bucket's name"]
    assert bucket_name.holds == holds
    assert expected in bucket_name.detail


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replica]:
    with replica(tmp_path_factory.mktemp("moto") / "log") as aws:
        yield aws


def _asked(aws: Replica, settings: Settings, **environment: str) -> list[Finding]:
    own = {**aws.environment, "AWS_MAX_ATTEMPTS": "1", **environment}
    own["PATH"] = f"{Path(sys.executable).parent}:{own['PATH']}"
    command = [sys.executable, "-m", "cosmicai.deploy.preflight", "--json"]
    settings_json = json.dumps({name: value for name, value in vars(settings).items() if value is not None})
    process = subprocess.run(command, input=settings_json, env=own, capture_output=True, text=True, check=True)
    return [Finding(**finding) for finding in json.loads(process.stdout)]


def test_an_account_that_is_empty_takes_a_deployment(aws: Replica) -> None:
    findings = {finding.name: finding for finding in _asked(aws, SETTINGS)}
    assert all(finding.holds for finding in findings.values()), findings
    assert findings["bucket's name"].detail == "team3-cosmicai is free"
    assert "t4g.nano in us-east-1a" in findings["type of the rendezvous host"].detail
    assert findings["networks"].detail == "1 of 5 VPCs in us-east-1"


def test_networks_are_counted_unless_none_is_needed(aws: Replica) -> None:
    ec2 = aws.client("ec2")
    made = [ec2.create_vpc(CidrBlock="10.0.0.0/28")["Vpc"]["VpcId"] for _ in range(4)]
    findings = {finding.name: finding for finding in _asked(aws, SETTINGS)}
    assert findings["networks"].detail.startswith("5 of 5 VPCs in us-east-1, and the rendezvous host needs one")
    assert "networks" not in {finding.name for finding in _asked(aws, replace(SETTINGS, has_host=False))}
    ec2.create_tags(Resources=made[:1], Tags=[{"Key": "Name", "Value": "team3-cosmicai-rendezvous-host"}])
    assert all(finding.holds for finding in _asked(aws, SETTINGS))
    for vpc in made:
        ec2.delete_vpc(VpcId=vpc)


def test_a_subnet_is_in_a_zone_that_offers_the_host(aws: Replica) -> None:
    subnets = aws.client("ec2").describe_subnets()["Subnets"]
    by_zone = {subnet["AvailabilityZone"]: subnet["SubnetId"] for subnet in subnets}
    there, elsewhere = (replace(SETTINGS, subnet_id=by_zone[f"us-east-1{zone}"]) for zone in "ae")
    assert all(finding.holds for finding in _asked(aws, there))
    (fault,) = (finding for finding in _asked(aws, elsewhere) if not finding.holds)
    assert "is in us-east-1e, which does not offer t4g.nano: give a subnet in us-east-1a" in fault.detail


def test_without_credentials_nothing_else_is_asked(aws: Replica) -> None:
    nobody = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "HOME": os.devnull}
    (fault,) = _asked(aws, SETTINGS, **nobody)
    assert not fault.holds
    assert "aws sso login" in fault.detail
