"""What a deployment may have beside the run itself: the rule that starts runs, dashboard and alarms."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from cosmicai.deployment import emulated_variables
from cosmicai.emulator import Emulator

from .conftest import deployed


def test_observations_that_arrive_start_a_run(
    aws: Emulator, partitions: Callable[..., dict[str, bytes]], tmp_path: Path
) -> None:
    """The rule matches what it should, and what its target would be given runs.

    Delivery itself cannot be tried here: the embedded EventBridge takes the execution's name from the event's
    id, which a transformed input has no more.
    """
    variables = emulated_variables(
        "night", aws, start_on_ready="incoming", alarm_email="operator@example.org", dashboard=True
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
        found = events.test_event_pattern(EventPattern=pattern, Event=json.dumps(event))["Result"]
        assert found == matches, key
    (target,) = events.list_targets_by_rule(Rule="night-cosmicai-ready")["Targets"]
    assert target["Arn"] == cloud.outputs.state_machine_arn
    values = {"bucket": cloud.bucket, "key": "incoming/2026-11-22/_READY"}
    assert set(target["InputTransformer"]["InputPathsMap"]) == set(values)
    given = target["InputTransformer"]["InputTemplate"]
    for name, value in values.items():
        given = given.replace(f"<{name}>", value)
    cloud.put_all("incoming/2026-11-22", {**partitions(2), "_READY": b""})
    (tmp_path / "given.json").write_text(given)
    resolved = {"bucket": cloud.bucket, "result_path": "results/incoming/2026-11-22"}
    ran = cloud.wait(cloud.start(tmp_path / "given.json"), resolved)
    assert ran.status == "SUCCEEDED", ran.cause
    summary = ran.read("summary.json")
    assert (summary["num_samples"], summary["payload"]["data_prefix"]) == (4, "incoming/2026-11-22")
    alarms = aws.client("cloudwatch").describe_alarms(AlarmNamePrefix="night-cosmicai")["MetricAlarms"]
    assert {alarm["AlarmName"].removeprefix("night-cosmicai-") for alarm in alarms} == {
        "failed-runs", "failing-ranks", "throttled-ranks",
    }  # fmt: skip
