"""Whether the policies of a deployment and of who deploys it are sound, and enough."""

from __future__ import annotations

import json
import re
import subprocess

from cosmicai.packaging.places import ROOT
from tests.replica import Replica, environment

_KNOWN = re.compile(r"No resources match .*states:DescribeExecution.*:express:")
"""parliament's list has DescribeExecution for Express executions alone; AWS's has Standard ones too
(https://docs.aws.amazon.com/service-authorization/latest/reference/list_awsstepfunctions.html)."""


def assert_policies_are_sound(aws: Replica, roles: int) -> None:
    """Of all roles, by parliament. roles: how many there are."""
    iam, parliament = aws.client("iam"), environment().with_name("parliament")
    names = [role["RoleName"] for role in iam.list_roles()["Roles"]]
    assert len(names) == roles
    for role in names:
        (name,) = iam.list_role_policies(RoleName=role)["PolicyNames"]
        document = json.dumps(iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"])
        process = subprocess.run([parliament], input=document, capture_output=True, text=True)
        findings = [line for line in process.stdout.splitlines() if not _KNOWN.search(line)]
        assert not findings, f"{role}: {process.stdout}"


def assert_the_deployer_may(needed: set[str]) -> None:
    """terraform/policies allow what deploy and destroy have asked for, in policies that IAM takes."""
    allowed: set[str] = set()
    for path in (ROOT / "terraform" / "policies").glob("*.json"):
        policy = json.loads(path.read_text())
        assert len(json.dumps(policy, separators=(",", ":"))) <= 6144  # of a managed policy
        allowed |= {action for statement in policy["Statement"] for action in statement["Action"]}
    assert needed <= allowed
