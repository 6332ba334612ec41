"""What the policies of a deployment and of who deploys it allow, and what is wrong with them."""

from __future__ import annotations

import json
import re
import subprocess
from typing import Any

from cosmicai.packaging.places import ROOT
from tests.replica import Replica, environment

Json = dict[str, Any]

MOST_CHARACTERS = 6144
"""Of a managed policy without white space (https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html)."""

_KNOWN = re.compile(r"No resources match .*states:DescribeExecution.*:express:")
"""parliament's list has DescribeExecution for Express executions alone; AWS's has Standard ones too
(https://docs.aws.amazon.com/service-authorization/latest/reference/list_awsstepfunctions.html)."""


def role_policy(aws: Replica, role: str) -> Json:
    """The document of a role's only policy."""
    iam = aws.client("iam")
    (name,) = iam.list_role_policies(RoleName=role)["PolicyNames"]
    document: Json = iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"]
    return document


def findings(document: Json) -> list[str]:
    """What parliament objects to in a policy."""
    parliament = environment().with_name("parliament")
    process = subprocess.run([parliament], input=json.dumps(document), capture_output=True, text=True)
    return [line for line in process.stdout.splitlines() if not _KNOWN.search(line)]


def findings_by_role(aws: Replica) -> dict[str, list[str]]:
    """What parliament objects to in the policies of all roles."""
    roles = [role["RoleName"] for role in aws.client("iam").list_roles()["Roles"]]
    return {role: findings(role_policy(aws, role)) for role in roles}


def allowed(document: Json) -> set[str]:
    """The actions in a policy's statements."""
    listed = (statement["Action"] for statement in document["Statement"])
    return {action for one in listed for action in ([one] if isinstance(one, str) else one)}


def deployer_policies() -> dict[str, Json]:
    """terraform/policies by name."""
    paths = (ROOT / "terraform" / "policies").glob("*.json")
    return {path.stem: json.loads(path.read_text()) for path in paths}


def lacking(needed: set[str], *names: str) -> set[str]:
    """The actions that terraform/policies do not allow. names: of these policies; of all if there are none."""
    policies = deployer_policies()
    return needed - {action for name in names or policies for action in allowed(policies[name])}


def lengths() -> dict[str, int]:
    """The characters of each of terraform/policies, as IAM counts them."""
    return {
        name: len(json.dumps(policy, separators=(",", ":"))) for name, policy in deployer_policies().items()
    }
