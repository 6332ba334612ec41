"""The roles as they are deployed: what the sources call and nothing else, on the team's own resources alone."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from typing import Any

import pytest

from cosmicai.emulator import Emulator
from cosmicai.packaging.places import FUNCTIONS

from .conftest import Cloud

Json = dict[str, Any]

# boto3's methods and paginators as the sources name them, and the actions that AWS asks for.
_ACTIONS = {
    "get_object": "s3:GetObject",
    "put_object": "s3:PutObject",
    "abort_multipart_upload": "s3:AbortMultipartUpload",
    "list_objects_v2": "s3:ListBucket",
    "delete_objects": "s3:DeleteObject",
    "get_account_settings": "lambda:GetAccountSettings",
    "describe_execution": "states:DescribeExecution",
    "start_instances": "ec2:StartInstances",
    "describe_instances": "ec2:DescribeInstances",
}
_CONTRACT = {
    "read": ("get_object",),
    "put_json": ("put_object",),
    "put_list": ("put_object", "abort_multipart_upload"),
    "ListUpload": ("put_object", "abort_multipart_upload"),
    "put_if": ("put_object",),
    "read_small": ("get_object",),
    "public_address": ("describe_instances",),
}  # functions of contract/s3.py and contract/host.py, and what they call
_LOGS = {"logs:CreateLogStream", "logs:PutLogEvents"}


def _called(function: str) -> set[str]:
    """Actions of the calls in a function's sources. An unknown call of a client fails the test."""
    allowed = set()
    for path in (FUNCTIONS / function).rglob("*.py"):
        if path.name == "server.py" or "shims" in path.parts:
            continue
        text = path.read_text()
        if (
            path.name == "stores.py"
        ):  # ranks keep their messages, which Summarize deletes (inference/collectives.py)
            text = text.replace("delete_object(", "")
        named = re.findall(
            r"(?:client|s3|_s3|boto3\.client\([^)]*\))\.((?:get|put|list|delete|describe|start|stop)_\w+)\(",
            text,
        )
        named += re.findall(r"get_paginator\(\"(\w+)\"\)", text)
        for call, calls in _CONTRACT.items():
            if re.search(rf"\b{call}\((?:s3,|bucket\.s3,|boto3\.client)", text):
                named += calls
        allowed |= {_ACTIONS[name] for name in named if name != "get_paginator"}
    return allowed


def policy(aws: Emulator, role: str) -> list[Json]:
    """The statements of a role's one policy."""
    iam = aws.client("iam")
    (name,) = iam.list_role_policies(RoleName=role)["PolicyNames"]
    document = iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"]
    statements: list[Json] = document["Statement"]
    return statements


def _listed(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def actions(statements: list[Json]) -> set[str]:
    return {action for statement in statements for action in _listed(statement["Action"])}


@pytest.mark.parametrize("function", ["initialize", "inference", "summarize"])
def test_a_role_allows_what_its_function_calls_and_nothing_else(
    cloud: Cloud, aws: Emulator, function: str
) -> None:
    """Of a deployment with somebody else's host, so that nobody need look for an instance."""
    allowed = actions(policy(aws, f"example-cosmicai-{function}"))
    assert allowed == _called(function) - {"ec2:DescribeInstances"} | _LOGS


def allows(statements: list[Json], action: str, resource: str) -> bool:
    """IAM's evaluation of policies that only allow: some statement names the action and matches the resource
    (https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_evaluation-logic.html)."""
    assert all(statement["Effect"] == "Allow" and "Condition" not in statement for statement in statements)
    return any(
        any(fnmatchcase(action.lower(), name.lower()) for name in _listed(statement["Action"]))
        and any(fnmatchcase(resource, name.replace("[", "[[]")) for name in _listed(statement["Resource"]))
        for statement in statements
    )


_OWN, _OTHER = "arn:aws:s3:::example-cosmicai", "arn:aws:s3:::torch-cosmicai"
_FUNCTIONS = "arn:aws:lambda:us-east-1:000000000000:function"
_MACHINE = "arn:aws:states:us-east-1:000000000000:stateMachine:example-cosmicai"


@pytest.mark.parametrize(
    ("role", "action", "resource", "allowed"),
    [
        ("initialize", "s3:PutObject", f"{_OWN}/results/1/run.json", True),
        ("initialize", "s3:PutObject", f"{_OWN}/25MB/1.pt", False),
        ("initialize", "s3:PutObject", f"{_OWN}/results/1/summary.json", False),
        ("initialize", "s3:GetObject", f"{_OTHER}/results/1/run.json", False),
        ("initialize", "s3:GetObject", f"{_OWN}/25MB/1.pt", True),
        ("initialize", "s3:GetObject", f"{_OWN}/25MB/photometry.json", True),
        ("initialize", "s3:GetObject", f"{_OWN}/models/mine/model.onnx", False),
        ("initialize", "s3:GetObject", f"{_OTHER}/25MB/1.pt", False),
        ("initialize", "s3:DeleteObject", f"{_OWN}/results/1/run.json", False),
        ("inference", "s3:GetObject", f"{_OWN}/25MB/1.pt", True),
        ("inference", "s3:PutObject", f"{_OWN}/results/1/predictions/0.npz", True),
        ("inference", "s3:PutObject", f"{_OWN}/catalogues/night/arrival=0f/run-00000-1a.parquet", True),
        ("inference", "s3:PutObject", f"{_OWN}/survey/1.parquet", False),
        ("summarize", "s3:PutObject", f"{_OWN}/catalogues/night/_delta_log/{0:020}.json", True),
        ("summarize", "s3:PutObject", f"{_OWN}/catalogues/night/arrival=0f/1.parquet", False),
        ("summarize", "s3:DeleteObject", f"{_OWN}/catalogues/night/arrival=0f/1.parquet", False),
        ("initialize", "s3:PutObject", f"{_OWN}/catalogues/night/_delta_log/{0:020}.json", False),
        ("inference", "s3:PutObject", f"{_OWN}/.cosmicai/run/messages/metrics/1_0_0", True),
        ("inference", "s3:PutObject", f"{_OWN}/.cosmicai/run/key", False),
        ("inference", "s3:GetObject", f"{_OWN}/.cosmicai/relay-key", True),
        ("inference", "s3:PutObject", f"{_OWN}/.cosmicai/relay-key", False),
        ("initialize", "s3:GetObject", f"{_OWN}/.cosmicai/relay-key", False),
        ("initialize", "s3:PutObject", f"{_OWN}/.cosmicai/relay-key", False),
        ("summarize", "s3:GetObject", f"{_OWN}/.cosmicai/relay-key", False),
        ("inference", "s3:PutObject", f"{_OWN}/25MB/1.pt", False),
        ("inference", "s3:PutObject", f"{_OWN}/models/mine/model.onnx", False),
        ("inference", "s3:DeleteObject", f"{_OWN}/25MB/1.pt", False),
        ("inference", "s3:GetObject", f"{_OTHER}/25MB/1.pt", False),
        ("summarize", "s3:PutObject", f"{_OWN}/results/1/summary.json", True),
        ("summarize", "s3:PutObject", f"{_OWN}/results/1/report.html", True),
        ("summarize", "s3:PutObject", f"{_OWN}/results/1/0.json", False),
        ("summarize", "s3:PutObject", f"{_OWN}/.last-runs/models/models/mine.json", True),
        ("summarize", "s3:PutObject", f"{_OWN}/.last-runs/model.onnx", False),
        ("initialize", "s3:GetObject", f"{_OWN}/.last-runs/bundled.json", True),
        ("initialize", "s3:PutObject", f"{_OWN}/.last-runs/bundled.json", False),
        ("summarize", "s3:DeleteObject", f"{_OWN}/.cosmicai/run/key", True),
        ("summarize", "s3:DeleteObject", f"{_OWN}/results/1/0.json", False),
        ("state-machine", "states:StartExecution", _MACHINE, True),
        ("state-machine", "s3:PutObject", f"{_OWN}/results/1/failures/3.json", True),
        ("state-machine", "s3:PutObject", f"{_OWN}/results/1/0.json", False),
        ("state-machine", "s3:PutObject", f"{_OWN}/.cosmicai/run/answers/0/SUCCEEDED_0.json", True),
        ("state-machine", "s3:AbortMultipartUpload", f"{_OWN}/.cosmicai/run/answers/0/SUCCEEDED_0.json", True),
        ("state-machine", "s3:PutObject", f"{_OWN}/.cosmicai/run/key", False),
        ("summarize", "s3:AbortMultipartUpload", f"{_OWN}/results/1/combined_data.json", True),
        ("summarize", "s3:AbortMultipartUpload", f"{_OWN}/25MB/1.pt", False),
        ("state-machine", "lambda:InvokeFunction", f"{_FUNCTIONS}:example-cosmicai-inference", True),
        ("state-machine", "lambda:InvokeFunction", f"{_FUNCTIONS}:torch-cosmicai-inference", False),
        *(
            (role, action, resource, False)
            for role in ("initialize", "inference", "summarize", "rendezvous", "state-machine")
            for action, resource in (
                ("s3:DeleteBucket", _OWN), ("iam:CreateUser", "*"), ("iam:PassRole", "*"),
                ("s3:ListBucket", _OTHER), ("lambda:UpdateFunctionCode", "*"), ("ec2:RunInstances", "*"),
                ("ssm:GetParameter", "*"), ("kms:Decrypt", "*"), ("sts:AssumeRole", "*"),
            )
        ),
    ],
)  # fmt: skip
def test_what_a_role_may_do(
    cloud: Cloud, torch_cloud: Cloud, aws: Emulator, role: str, action: str, resource: str, allowed: bool
) -> None:
    assert allows(policy(aws, f"example-cosmicai-{role}"), action, resource) == allowed


def test_the_rendezvous_role_reaches_its_own_host_alone(aws: Emulator, cloud: Cloud) -> None:
    """Of a deployment with a host of its own, which Initialize looks for too; the other roles are as above."""
    from cosmicai.deploy.terraform import emulated_variables

    from .conftest import deployed

    deployed(aws, "hosted", emulated_variables("hosted", aws, rendezvous={"address": None}))
    statements = policy(aws, "hosted-cosmicai-rendezvous")
    assert actions(statements) == _called("rendezvous") | _LOGS
    initialize = policy(aws, "hosted-cosmicai-initialize")
    assert actions(initialize) == _called("initialize") | _LOGS
    assert "ec2:DescribeInstances" in actions(initialize)
    assert not allows(initialize, "ec2:StartInstances", "*")
    (started,) = (one for one in statements if "ec2:StartInstances" in _listed(one["Action"]))
    (instance,) = _listed(started["Resource"])
    other = re.sub(r"instance/.*", "instance/i-0000000000000000f", instance)
    assert not allows(statements, "ec2:StartInstances", other)
    assert not allows(statements, "ec2:StopInstances", instance)
    assert not allows(statements, "ec2:TerminateInstances", instance)
    host = policy(aws, "hosted-cosmicai-rendezvous-host")
    assert actions(host) == {
        "s3:PutObject",
        "ssm:UpdateInstanceInformation",
        "ssmmessages:CreateControlChannel",
        "ssmmessages:CreateDataChannel",
        "ssmmessages:OpenControlChannel",
        "ssmmessages:OpenDataChannel",
    }
    bucket = "arn:aws:s3:::hosted-cosmicai"
    assert allows(host, "s3:PutObject", f"{bucket}/.cosmicai/relay-key")
    for key in ("25MB/1.pt", ".cosmicai/run/key", ".cosmicai/relay-key/x", "results/1/summary.json"):
        assert not allows(host, "s3:PutObject", f"{bucket}/{key}")
    assert not allows(host, "s3:PutObject", f"{_OWN}/.cosmicai/relay-key")
    assert not allows(host, "s3:GetObject", f"{bucket}/.cosmicai/relay-key")


def test_keys_may_be_used_by_who_reads_and_writes_with_them(aws: Emulator) -> None:
    """The bucket's own key by every role that reads or writes there; that of a data bucket by the ranks, and by
    Initialize, which reads the beginning of partitions."""
    from cosmicai.deploy.terraform import emulated_variables

    from .conftest import deployed

    own, data = (f"arn:aws:kms:us-east-1:000000000000:key/{name}" for name in ("own", "data"))
    keys = {"kms_key_arn": own, "data_bucket_kms_key_arns": [data]}
    deployed(aws, "keyed", emulated_variables("keyed", aws, storage=keys))
    roles = ("initialize", "inference", "summarize", "rendezvous", "state-machine")
    policies = {role: policy(aws, f"keyed-cosmicai-{role}") for role in roles}
    for action in ("kms:Decrypt", "kms:GenerateDataKey"):
        may = {role for role, statements in policies.items() if allows(statements, action, own)}
        assert may == {"initialize", "inference", "summarize", "state-machine"}
    assert {role for role in roles if allows(policies[role], "kms:Decrypt", data)} == {
        "initialize",
        "inference",
    }
    assert not any(allows(statements, "kms:GenerateDataKey", data) for statements in policies.values())


def test_the_state_machine_may_redrive_its_map(aws: Emulator, cloud: Cloud) -> None:
    """https://docs.aws.amazon.com/step-functions/latest/dg/redrive-map-run.html"""
    child = f"{_MACHINE.replace(':stateMachine:', ':execution:')}/Ranks:1f4b"
    assert allows(policy(aws, "example-cosmicai-state-machine"), "states:RedriveExecution", child)
