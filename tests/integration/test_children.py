"""Express and Standard children: the embedded AWS ends the one in time, and a rank may run twice."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from cosmicai.emulator import Emulator
from cosmicai.packaging.places import BuildFolder

from .conftest import Cloud, Json, Ran

Run = Callable[[Json], Ran]
Partitions = Callable[..., dict[str, bytes]]
_ROLE = "arn:aws:iam::000000000000:role/any"


def _map(execution_type: str, seconds: int) -> Json:
    wait = {"Type": "Wait", "Seconds": seconds, "End": True}
    processor = {
        "ProcessorConfig": {"Mode": "DISTRIBUTED", "ExecutionType": execution_type},
        "StartAt": "Wait",
        "States": {"Wait": wait},
    }
    states = {"Map": {"Type": "Map", "ItemsPath": "$.items", "ItemProcessor": processor, "End": True}}
    return {"StartAt": "Map", "States": states}


@pytest.mark.parametrize(("execution_type", "timed_out"), [("EXPRESS", 2), ("STANDARD", 0)])
def test_only_express_children_end_at_their_limit(execution_type: str, timed_out: int) -> None:
    with Emulator(BuildFolder(), 2, express_seconds=1) as aws:
        machine = aws.client("stepfunctions")
        definition = json.dumps(_map(execution_type, 3))
        arn = machine.create_state_machine(name="m", definition=definition, roleArn=_ROLE)["stateMachineArn"]
        assert machine.describe_state_machine(stateMachineArn=arn)["definition"] == definition
        execution = machine.start_execution(stateMachineArn=arn, input='{"items": [1, 2]}')["executionArn"]
        while machine.describe_execution(executionArn=execution)["status"] == "RUNNING":
            time.sleep(0.1)
        [ran] = machine.list_map_runs(executionArn=execution)["mapRuns"]
        counts = machine.describe_map_run(mapRunArn=ran["mapRunArn"])["itemCounts"]
    assert (counts["timedOut"], counts["succeeded"]) == (timed_out, 2 - timed_out)


def test_ranks_that_are_started_twice_change_nothing(
    cloud: Cloud, run: Run, start: Callable[[Json], str], partitions: Partitions, prefix: str
) -> None:
    """Step Functions may start an Express child more than once: here every rank runs twice at the same time."""
    cloud.put_all(prefix, partitions(6))
    once = run(cloud.payload(prefix, collectives="direct", result_path=f"results/{prefix}/once"))
    assert once.status == "SUCCEEDED", once.cause
    assert once.read("run.json")["children"]["type"] == "express"
    payload = cloud.payload(prefix, collectives="direct", result_path=f"results/{prefix}/twice")
    arn = start(payload)
    client, function = cloud.aws.client("lambda", read_timeout=240), cloud.outputs.function_names["inference"]

    def again(event: Json) -> Any:
        return client.invoke(FunctionName=function, Payload=json.dumps(event)).get("FunctionError")

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(again, _events(cloud, payload))) == [None] * 6
    twice = cloud.wait(arn, payload)
    assert twice.status == "SUCCEEDED", twice.cause
    first, second = once.read("summary.json"), twice.read("summary.json")
    assert second["finished_ranks"] == 6
    for name in ("num_samples", "accuracy", "predicted_redshifts"):
        assert second[name] == first[name], name
    for rank in range(6):
        predictions = once.predictions(rank)
        for name, values in twice.predictions(rank).items():
            if name != "run_id":
                np.testing.assert_array_equal(values, predictions[name])


@pytest.mark.parametrize("children", ["express", "standard"])
def test_the_answers_of_many_ranks_go_through_s3(
    cloud: Cloud, partitions: Partitions, prefix: str, children: str
) -> None:
    """With the deployed machine, of which more than one rank are many. What Step Functions writes is private to
    the run, and Summarize deletes it."""
    client = cloud.stepfunctions
    ours = client.describe_state_machine(stateMachineArn=cloud.outputs.state_machine_arn)
    definition = json.loads(ours["definition"])
    for choice in definition["States"]["Ranks"]["Choices"]:
        for rule in (choice, *choice.get("And", ())):
            if "NumericGreaterThan" in rule:
                assert rule.pop("NumericGreaterThan") == 10_000
                rule["NumericGreaterThan"] = 1
    if children == "standard":
        definition["States"]["Ranks"]["Choices"] = definition["States"]["Ranks"]["Choices"][1:]
    machine = client.create_state_machine(
        name=f"many-{prefix}"[:80], definition=json.dumps(definition), roleArn=ours["roleArn"]
    )["stateMachineArn"]
    cloud.put_all(prefix, partitions(3))
    payload = cloud.payload(prefix)
    arn = client.start_execution(stateMachineArn=machine, input=json.dumps(payload))["executionArn"]
    ran = cloud.wait(arn, payload)
    assert ran.status == "SUCCEEDED", ran.cause
    history = client.get_execution_history(executionArn=arn, maxResults=1000)["events"]
    entered = {
        event["stateEnteredEventDetails"]["name"] for event in history if "stateEnteredEventDetails" in event
    }
    assert f"Many{children.capitalize()}Ranks" in entered
    [answer] = [event for event in history if event["type"] == "MapStateExited"]
    output = json.loads(answer["stateExitedEventDetails"]["output"])
    assert output["jobs"] == 3  # the map's answers are not in it
    assert ran.read("summary.json")["finished_ranks"] == 3
    assert not cloud.keys(cloud.bucket, f".cosmicai/{output['run_id']}/")


def _events(cloud: Cloud, payload: Json) -> list[Json]:
    """Those of all ranks, as soon as Initialize has written them; without a host, as some ranks find none."""
    deadline = time.monotonic() + 60
    while f"{payload['result_path']}/manifest.json" not in cloud.keys(payload["bucket"], ""):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    events: list[Json] = json.loads(cloud.get(payload["bucket"], f"{payload['result_path']}/manifest.json"))
    return [{**event, "RENDEZVOUS": None} for event in events]
