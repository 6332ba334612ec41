"""What the state machine tries again, and what it does not."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from cosmicai.packaging.places import ROOT

Json = dict[str, Any]

# https://docs.aws.amazon.com/step-functions/latest/dg/bp-lambda-serviceexception.html
_FAULTS_OF_LAMBDA = {
    "Lambda.ClientExecutionTimeoutException",
    "Lambda.ServiceException",
    "Lambda.AWSLambdaException",
    "Lambda.SdkClientException",
}
# They come again, are billed for the whole time each time, or cover these.
_BILLED_AGAIN = {"States.Timeout", "States.TaskFailed", "States.ALL", "Sandbox.Timedout", "Runtime.OutOfMemory"}


def _states(machine: Json) -> Iterator[tuple[str, Json]]:
    for name, state in machine["States"].items():
        yield name, state
        if "ItemProcessor" in state:
            yield from _states(state["ItemProcessor"])


@pytest.fixture(scope="module")
def states() -> dict[str, Json]:
    render = ["sh", str(ROOT / "scripts" / "state_machine.sh")]
    return dict(_states(json.loads(subprocess.run(render, capture_output=True, check=True).stdout)))


def _attempts(state: Json) -> dict[str, int]:
    return {error: retry["MaxAttempts"] for retry in state["Retry"] for error in retry["ErrorEquals"]}


@pytest.mark.parametrize("name", ["StandardInfer", "ExpressInfer"])
def test_a_rank_that_ran_out_of_time_or_memory_is_billed_once(states: dict[str, Json], name: str) -> None:
    attempts = _attempts(states[name])
    assert not _BILLED_AGAIN & attempts.keys()
    # Where Lambda kills a sandbox for its memory, some runtimes report no more than that it exited.
    assert attempts["Runtime.ExitError"] == attempts["Lambda.Unknown"] == 1


@pytest.mark.parametrize("name", ["Initialize", "StandardInfer", "ExpressInfer", "Summarize"])
def test_faults_of_lambda_itself_are_tried_again(states: dict[str, Json], name: str) -> None:
    assert _FAULTS_OF_LAMBDA | {"Lambda.TooManyRequestsException"} <= _attempts(states[name]).keys()


def test_whatever_calls_a_function_is_caught_or_ends_the_run(states: dict[str, Json]) -> None:
    """Except Initialize, whose error is the run's."""
    calls = [state for state in states.values() if state.get("Resource", "").endswith("lambda:invoke")]
    assert len(calls) == 6
    uncaught = [name for name, state in states.items() if state in calls and "Catch" not in state]
    assert uncaught == ["Initialize"]
