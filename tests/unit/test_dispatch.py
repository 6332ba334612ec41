"""Express children are chosen where a rank is sure to end in time, and the parts agree on what that means."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from cosmicai.experiments.cases import Assumptions, Case
from cosmicai.experiments.planning import plan
from cosmicai.experiments.scatter import NO_SCATTER
from cosmicai.packaging.places import ROOT
from summarize.contract import dispatch, pricing
from summarize.contract.dispatch import EXPRESS_SECONDS, attempt_seconds, children
from summarize.contract.run_records import Run

MB = 1 << 20


@pytest.mark.parametrize(
    ("megabytes", "memory", "ranks", "expected"),
    [
        (25, 3538, 517, "express"),
        (100, 3538, 130, "express"),
        (25, 1769, 517, "express"),
        (25, 128, 517, "standard"),
        (500, 3538, 26, "standard"),
        (100, 512, 130, "standard"),
        (4000, 10_240, 4, "standard"),
    ],
)
def test_the_largest_rank_decides(megabytes: int, memory: int, ranks: int, expected: str) -> None:
    kind, reason = children(megabytes * MB, memory, ranks, script=False)
    assert kind == expected, reason
    assert re.search(r"within \d+ s" if kind == "express" else rf"end after {EXPRESS_SECONDS} s", reason)
    assert children(megabytes * MB, 0, ranks, script=False)[0] == "standard"


def test_what_is_express_ends_in_time_however_often_it_is_tried() -> None:
    for megabytes in range(1, 2000, 7):
        for memory in (128, 1024, 1769, 3538, 10_240):
            if children(megabytes * MB, memory, 10_000, script=False)[0] == "express":
                assert 2 * attempt_seconds(megabytes * MB, memory) < EXPRESS_SECONDS
                assert attempt_seconds(megabytes * MB, memory) < dispatch.ATTEMPT_SECONDS


def test_a_script_runs_in_standard_children() -> None:
    kind, reason = children(1, 10_240, 2, script=True)
    assert (kind, reason) == ("standard", "a user's script may take as long as the function")


@pytest.mark.parametrize("recorded", [None, {"type": ["express"]}, {"type": "fast"}, {}])
def test_what_run_json_does_not_say_is_standard(recorded: dict[str, object] | None) -> None:
    run = Run(run_id="r", started="2026-11-22T00:00:00Z", payload={}, world_size=1, bytes=1)
    assert run.child_type == "standard"
    assert replace(run, children=recorded).child_type == "standard"
    assert replace(run, children={"type": "express"}).child_type == "express"


def test_the_state_machine_has_the_same_limits() -> None:
    template = (ROOT / "statemachine" / "cosmicai.asl.json").read_text()
    module = (ROOT / "terraform" / "modules" / "state_machine" / "main.tf").read_text()
    assert re.findall(r"express_attempt_seconds\s*= (\d+)", module) == [str(dispatch.ATTEMPT_SECONDS)]
    died = template[template.index('"Runtime.ExitError"') :]
    retries = re.search(r'"MaxAttempts": (\d+)', died)
    assert retries is not None
    assert int(retries[1]) + 1 == dispatch._ATTEMPTS


def test_express_children_cost_requests_and_seconds_instead_of_transitions() -> None:
    standard = pricing.step_functions(500, 2500.0, "standard")
    express = pricing.step_functions(500, 2500.0, "express")
    transitions = pricing.TRANSITIONS_PER_RUN * pricing.STATE_TRANSITION
    assert standard == pytest.approx(transitions + 500 * 2 * 0.025 / 1000)
    assert express == pytest.approx(transitions + 500 / 1e6 + 2500 * 0.0625 * 0.00001667)
    assert express < standard / 5


def test_a_plan_starts_its_ranks_as_initialize_would() -> None:
    case = Case(655_360, 25, 3538, "x86_64", collectives="none")
    express, standard = plan(case), plan(case, Assumptions(children="standard"))
    assert express.parts["dispatch"] * 5 < standard.parts["dispatch"]
    assert express.usd["Step Functions"] < standard.usd["Step Functions"] / 3
    large = plan(Case(655_360, 800, 3538, "x86_64", collectives="none"))
    assert (
        large.usd["Step Functions"]
        == plan(Case(655_360, 800, 3538, "x86_64", collectives="none"), Assumptions(children="standard")).usd[
            "Step Functions"
        ]
    )


def test_sandboxes_beyond_the_first_thousand_come_by_and_by() -> None:
    case = Case(1270 * 2000, 25, 3538, "x86_64", collectives="none")
    slow = Assumptions((60.0, 60.0), concurrency=3000, scatter=NO_SCATTER)
    parts = plan(case, slow).parts
    assert parts["concurrency quota"] == pytest.approx(8, abs=2), parts
