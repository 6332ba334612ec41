"""What the state machine tries again, and what it does not."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from cosmicai.packaging.places import ROOT
from initialize.contract.limits import MOST_RANKS

Json = dict[str, Any]

# https://docs.aws.amazon.com/step-functions/latest/dg/bp-lambda-serviceexception.html
_FAULTS_OF_LAMBDA = {
    "Lambda.ClientExecutionTimeoutException",
    "Lambda.ServiceException",
    "Lambda.AWSLambdaException",
    "Lambda.SdkClientException",
}
_RANKS = [f"{many}{kind}Infer" for many in ("", "Many") for kind in ("Standard", "Express")]
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


@pytest.mark.parametrize("name", _RANKS)
def test_a_rank_that_ran_out_of_time_or_memory_is_billed_once(states: dict[str, Json], name: str) -> None:
    attempts = _attempts(states[name])
    assert not _BILLED_AGAIN & attempts.keys()
    # Where Lambda kills a sandbox for its memory, some runtimes report no more than that it exited.
    assert attempts["Runtime.ExitError"] == attempts["Lambda.Unknown"] == 1


@pytest.mark.parametrize("name", ["Initialize", *_RANKS, "Summarize"])
def test_faults_of_lambda_itself_are_tried_again(states: dict[str, Json], name: str) -> None:
    assert _FAULTS_OF_LAMBDA | {"Lambda.TooManyRequestsException"} <= _attempts(states[name]).keys()


def test_whatever_calls_a_function_is_caught_or_ends_the_run(states: dict[str, Json]) -> None:
    """Except Initialize, whose error is the run's."""
    calls = [state for state in states.values() if state.get("Resource", "").endswith("lambda:invoke")]
    assert len(calls) == 8
    uncaught = [name for name, state in states.items() if state in calls and "Catch" not in state]
    assert uncaught == ["Initialize"]


def test_so_many_answers_go_to_s3_that_a_state_could_not_have_them(states: dict[str, Json]) -> None:
    """A state has 256 KiB at most, and {} with a comma for each child; what has more ends the run at once."""
    choices = {json.dumps(one): one["Next"] for one in states["Ranks"]["Choices"]}
    threshold = {"Variable": "$.jobs", "NumericGreaterThan": 10_000}
    express = {"Variable": "$.children", "StringEquals": "express"}
    for rule, name in (
        ({"And": [threshold, express], "Next": "ManyExpressRanks"}, "ManyExpressRanks"),
        ({**threshold, "Next": "ManyStandardRanks"}, "ManyStandardRanks"),
    ):
        assert choices[json.dumps(rule)] == name
    assert 10_000 * len("{},") < 256 << 10
    for name, state in states.items():
        if state["Type"] == "Map":
            assert ("ResultWriter" in state) == name.startswith("Many"), name
            assert state["ToleratedFailureCount"] == MOST_RANKS
