"""What a deployment may have beside the run: the rule that starts runs, alarms, a state that is shared."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from cosmicai.deploy import target
from cosmicai.deploy.terraform import emulated_variables, plugin_dir
from cosmicai.emulator import Emulator
from cosmicai.packaging.places import ROOT

from .conftest import Cloud, deployed


@pytest.fixture(scope="module")
def night(aws: Emulator) -> Cloud:
    """A deployment that starts runs for arriving observations, with alarms and a dashboard."""
    operations = {
        "start_on_ready": "incoming",
        "ready_catalogues": "catalogues",
        "alarm_email": "operator@example.org",
        "dashboard": True,
    }
    return deployed(aws, "night", emulated_variables("night", aws, operations=operations))


@pytest.mark.parametrize(
    ("key", "matches"),
    [
        ("incoming/2026-11-22/_READY", True),
        ("incoming/2026-11-22/1.pt", False),
        ("elsewhere/2026-11-22/_READY", False),
        ("results/incoming/2026-11-22/_READY", False),
    ],
)
def test_the_rule_matches_observations_that_are_ready(night: Cloud, key: str, matches: bool) -> None:
    events = night.aws.client("events")
    assert "EventBridgeConfiguration" in night.s3.get_bucket_notification_configuration(Bucket=night.bucket)
    pattern = events.describe_rule(Name="night-cosmicai-ready")["EventPattern"]
    event = {
        "id": "1", "source": "aws.s3", "detail-type": "Object Created", "account": "0",
        "region": "us-east-1", "time": "2026-11-22T00:00:00Z", "resources": [],
        "detail": {"bucket": {"name": night.bucket}, "object": {"key": key}},
    }  # fmt: skip
    assert events.test_event_pattern(EventPattern=pattern, Event=json.dumps(event))["Result"] == matches


def test_what_the_rule_gives_its_target_is_a_run(
    night: Cloud, partitions: Callable[..., dict[str, bytes]], tmp_path: Path
) -> None:
    """Delivery itself cannot be tried here: the embedded EventBridge names the execution after the event's id.

    A transformed input has no id any more.
    """
    (rule_target,) = night.aws.client("events").list_targets_by_rule(Rule="night-cosmicai-ready")["Targets"]
    assert rule_target["Arn"] == night.outputs.state_machine_arn
    values = {"bucket": night.bucket, "key": "incoming/2026-11-22/_READY"}
    assert set(rule_target["InputTransformer"]["InputPathsMap"]) == set(values)
    template = rule_target["InputTransformer"]["InputTemplate"]
    for name, value in values.items():
        template = template.replace(f"<{name}>", value)
    night.put_all("incoming/2026-11-22", {**partitions(2), "_READY": b""})
    (tmp_path / "input.json").write_text(template)
    resolved = {"bucket": night.bucket, "result_path": "results/incoming/2026-11-22"}
    ran = night.wait(night.start(tmp_path / "input.json"), resolved)
    assert ran.status == "SUCCEEDED", ran.cause
    summary = ran.read("summary.json")
    assert (summary["num_samples"], summary["payload"]["data_prefix"]) == (4, "incoming/2026-11-22")
    assert summary["catalogue"]["place"] == f"s3://{night.bucket}/catalogues/incoming"


def test_alarms_watch_runs_and_ranks(night: Cloud) -> None:
    alarms = night.aws.client("cloudwatch").describe_alarms(AlarmNamePrefix="night-cosmicai")["MetricAlarms"]
    assert {alarm["AlarmName"].removeprefix("night-cosmicai-") for alarm in alarms} == {
        "failed-runs", "failing-ranks", "throttled-ranks",
    }  # fmt: skip


Script = Callable[[str], subprocess.CompletedProcess[str]]


@pytest.fixture
def script(aws: Emulator, tmp_path: Path) -> Script:
    """Runs a script for the team `shared` in a copy of the project, with the team's state in S3."""
    for name in ("terraform", "scripts", "statemachine", "functions/rendezvous", "cosmicai/deploy"):
        shutil.copytree(ROOT / name, tmp_path / name)
    teams = tmp_path / "terraform" / "teams"
    aws.client("s3").create_bucket(Bucket="states")
    variables = {**emulated_variables("shared", aws), "image_uri": None}
    lines = [f"{name} = {json.dumps(value)}" for name, value in variables.items() if value is not None]
    (teams / "shared.tfvars").write_text("\n".join([*lines, ""]))
    (teams / "shared.s3.tfbackend").write_text(
        'bucket = "states"\nkey = "cosmicai/shared.tfstate"\nregion = "us-east-1"\nuse_lockfile = true\n'
        "use_path_style = true\nskip_credentials_validation = true\nskip_requesting_account_id = true\n"
    )
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "aws").symlink_to("/bin/true")  # with IMAGE=… it is only looked for
    mirror = plugin_dir(os.environ)
    environment = {
        **os.environ, **aws.environment, "APPROVE": "shared", "AWS_ENDPOINT_URL_S3": aws.endpoint,
        "PATH": f"{tools}:{os.environ['PATH']}", "IMAGE": "embedded/inference:latest", "PREFLIGHT": "skip",
        **({"COSMICAI_TERRAFORM_PLUGIN_DIR": str(mirror)} if mirror else {}),
    }  # fmt: skip

    def call(name: str) -> subprocess.CompletedProcess[str]:
        command = ["sh", str(tmp_path / "scripts" / name), "shared"]
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    return call


def test_a_teams_state_lies_in_s3_with_a_lock(
    aws: Emulator, script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """scripts/deploy.sh and destroy.sh for real; another's lock keeps them out."""
    s3 = aws.client("s3")
    process = script("deploy.sh")
    assert process.returncode == 0, process.stderr + process.stdout
    state = json.load(s3.get_object(Bucket="states", Key="cosmicai/shared.tfstate")["Body"])
    assert state["outputs"]["bucket"]["value"] == "shared-cosmicai"
    assert not list(tmp_path.rglob("*.tfstate"))[1:]  # except Terraform's note of where the state is
    monkeypatch.setattr(target, "STATES", tmp_path / ".cosmicai" / "terraform")
    assert target.find("shared", False, None, tmp_path).bucket == "shared-cosmicai"
    lock = {
        "ID": "1",
        "Who": "a colleague",
        "Operation": "OperationTypeApply",
        "Created": "2026-11-23T00:00:00Z",
    }
    s3.put_object(Bucket="states", Key="cosmicai/shared.tfstate.tflock", Body=json.dumps(lock).encode())
    refused = script("deploy.sh")
    assert refused.returncode != 0
    assert "Error acquiring the state lock" in refused.stderr
    assert "a colleague" in refused.stderr
    s3.delete_object(Bucket="states", Key="cosmicai/shared.tfstate.tflock")
    process = script("destroy.sh")
    assert process.returncode == 0, process.stderr + process.stdout
    assert "shared-cosmicai" not in {bucket["Name"] for bucket in s3.list_buckets()["Buckets"]}


def test_a_new_image_is_called_once_where_that_is_asked_for(aws: Emulator) -> None:
    """Again for another configuration of the same image: not."""
    variables = emulated_variables("warm", aws, inference={"warm_up": True})
    cloud = deployed(aws, "warm", variables)
    group = f"/aws/lambda/{cloud.outputs.function_names['inference']}"

    def starts() -> int:
        pages = cloud.logs.get_paginator("filter_log_events").paginate(logGroupName=group)
        return sum(event["message"].startswith("START") for page in pages for event in page["events"])

    assert starts() == 1
    deployed(aws, "warm", {**variables, "operations": {"log_retention_days": 7}})
    assert starts() == 1
