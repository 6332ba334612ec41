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

from .conftest import deployed


def test_observations_that_arrive_start_a_run(
    aws: Emulator, partitions: Callable[..., dict[str, bytes]], tmp_path: Path
) -> None:
    """The rule matches what it should, and what its target would be given runs.

    Delivery itself cannot be tried here: the embedded EventBridge takes the execution's name from the event's
    id, which a transformed input has no more.
    """
    variables = emulated_variables(
        "night",
        aws,
        operations={
            "start_on_ready": "incoming",
            "ready_catalogues": "catalogues",
            "alarm_email": "operator@example.org",
            "dashboard": True,
        },
    )
    cloud = deployed(aws, "night", variables)
    events = aws.client("events")
    assert "EventBridgeConfiguration" in cloud.s3.get_bucket_notification_configuration(Bucket=cloud.bucket)
    pattern = events.describe_rule(Name="night-cosmicai-ready")["EventPattern"]
    for key, matches in (
        ("incoming/2026-11-22/_READY", True),
        ("incoming/2026-11-22/1.pt", False),
        ("elsewhere/2026-11-22/_READY", False),
        ("results/incoming/2026-11-22/_READY", False),
    ):
        event = {
            "id": "1", "source": "aws.s3", "detail-type": "Object Created", "account": "0",
            "region": "us-east-1", "time": "2026-11-22T00:00:00Z", "resources": [],
            "detail": {"bucket": {"name": cloud.bucket}, "object": {"key": key}},
        }  # fmt: skip
        result = events.test_event_pattern(EventPattern=pattern, Event=json.dumps(event))["Result"]
        assert result == matches, key
    (target,) = events.list_targets_by_rule(Rule="night-cosmicai-ready")["Targets"]
    assert target["Arn"] == cloud.outputs.state_machine_arn
    values = {"bucket": cloud.bucket, "key": "incoming/2026-11-22/_READY"}
    assert set(target["InputTransformer"]["InputPathsMap"]) == set(values)
    template = target["InputTransformer"]["InputTemplate"]
    for name, value in values.items():
        template = template.replace(f"<{name}>", value)
    cloud.put_all("incoming/2026-11-22", {**partitions(2), "_READY": b""})
    (tmp_path / "input.json").write_text(template)
    resolved = {"bucket": cloud.bucket, "result_path": "results/incoming/2026-11-22"}
    ran = cloud.wait(cloud.start(tmp_path / "input.json"), resolved)
    assert ran.status == "SUCCEEDED", ran.cause
    summary = ran.read("summary.json")
    assert (summary["num_samples"], summary["payload"]["data_prefix"]) == (4, "incoming/2026-11-22")
    assert summary["catalogue"]["place"] == f"s3://{cloud.bucket}/catalogues/incoming"
    alarms = aws.client("cloudwatch").describe_alarms(AlarmNamePrefix="night-cosmicai")["MetricAlarms"]
    assert {alarm["AlarmName"].removeprefix("night-cosmicai-") for alarm in alarms} == {
        "failed-runs", "failing-ranks", "throttled-ranks",
    }  # fmt: skip


def test_a_teams_state_lies_in_s3_with_a_lock(
    aws: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """scripts/deploy.sh and destroy.sh in a copy of the project, for real; another's lock keeps them out."""
    for name in ("terraform", "scripts", "statemachine", "functions/rendezvous", "cosmicai/deploy"):
        shutil.copytree(ROOT / name, tmp_path / name)
    teams, s3 = tmp_path / "terraform" / "teams", aws.client("s3")
    s3.create_bucket(Bucket="states")
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

    def call(script: str) -> subprocess.CompletedProcess[str]:
        command = ["sh", str(tmp_path / "scripts" / script), "shared"]
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    process = call("deploy.sh")
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
    refused = call("deploy.sh")
    assert refused.returncode != 0
    assert "Error acquiring the state lock" in refused.stderr
    assert "a colleague" in refused.stderr
    s3.delete_object(Bucket="states", Key="cosmicai/shared.tfstate.tflock")
    process = call("destroy.sh")
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
