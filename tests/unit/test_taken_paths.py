"""A run whose result path another run has taken: every command says so, and none shows or resumes the other."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from moto import mock_aws

from cosmicai import cli
from cosmicai.cli.common import console
from cosmicai.deploy.target import Target
from cosmicai.runs.watch import Watcher

BUCKET, PLACE = "team3-cosmicai", "results/1"
TAKEN = f"another run, late, has overwritten s3://{BUCKET}/{PLACE}: the results of early are no longer"
ALL_SERVICES: Any = {"core": {"service_whitelist": None}}  # LocalStack's build of moto leaves this one out
MACHINE = '{"StartAt": "A", "States": {"A": {"Type": "Succeed"}}}'


@pytest.fixture
def target(monkeypatch: pytest.MonkeyPatch) -> Iterator[Target]:
    """A deployment as moto answers for it."""
    for name in ("AWS_ENDPOINT_URL", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    with mock_aws(config=ALL_SERVICES):
        session = boto3.Session("a", "b", region_name="us-east-1")
        session.client("s3").create_bucket(Bucket=BUCKET)
        machine = session.client("stepfunctions").create_state_machine(
            name="cosmicai-team3", definition=MACHINE, roleArn="arn:aws:iam::123456789012:role/any"
        )
        made = Target("team3", BUCKET, machine["stateMachineArn"], session)
        monkeypatch.setattr("cosmicai.deploy.target.find", lambda *_: made)
        monkeypatch.setattr(console, "width", 300)
        yield made


def _start(target: Target, name: str, **payload: Any) -> str:
    content = {"bucket": BUCKET, "result_path": PLACE, "data_prefix": "25MB", **payload}
    started = target.client("stepfunctions").start_execution(
        stateMachineArn=target.state_machine_arn, name=name, input=json.dumps(content)
    )
    return str(started["executionArn"])


def _plan(target: Target, run_id: str, *resumed: str, ranks: int = 2) -> None:
    """run.json as Initialize writes it."""
    executions = [run_id, *resumed]
    run = {"run_id": run_id, "execution": executions[-1], "executions": executions, "world_size": ranks}
    run |= {"started": "2026-11-22T00:00:00Z", "payload": {}, "bytes": 2}
    body = json.dumps(run).encode()
    target.client("s3").put_object(Bucket=BUCKET, Key=f"{PLACE}/run.json", Body=body)


def _stop(target: Target, arn: str) -> None:
    target.client("stepfunctions").stop_execution(executionArn=arn)


def _call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Exit status and what a command says, on one line."""
    monkeypatch.setattr(sys, "argv", ["cosmicai", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out, error = capsys.readouterr()
    return int(ended.value.code or 0), " ".join((out + error).split())


@pytest.fixture
def early(target: Target) -> str:
    """A run that was stopped, whose path another then took."""
    arn = _start(target, "early")
    _plan(target, "early")
    _stop(target, arn)
    _stop(target, _start(target, "late"))
    _plan(target, "late", ranks=7)
    return arn


def test_status_and_watch_say_that_another_run_has_taken_the_path(
    target: Target, early: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    snapshot = Watcher(target, early).look()
    assert (snapshot.taken_by, snapshot.ranks) == ("late", None)
    for words, status in ((["status", "early"], 0), (["watch", "early"], 3)):
        code, output = _call(monkeypatch, capsys, *words)
        assert code == status
        assert TAKEN in output
        assert "aborted" in output.lower()
        assert "ranks" not in output
        assert "$" not in output
    code, output = _call(monkeypatch, capsys, "status", "early", "--json")
    assert json.loads(output)["taken_by"] == "late"


def test_the_run_that_took_it_is_shown_as_ever(target: Target, early: str) -> None:
    snapshot = Watcher(target, early.replace("early", "late")).look()
    assert (snapshot.taken_by, snapshot.ranks) == (None, 7)


def test_a_run_that_lost_its_path_is_not_resumed(
    target: Target, early: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Initialize would resume the run that lies there now."""
    code, output = _call(monkeypatch, capsys, "resume", "early", "--detach")
    assert code == 1
    assert f"{TAKEN} there; start it again with another result_path" in output
    listed = target.client("stepfunctions").list_executions(stateMachineArn=target.state_machine_arn)
    assert {item["name"] for item in listed["executions"]} == {"early", "late"}


def test_executions_that_resumed_a_run_show_it_until_another_takes_its_path(
    target: Target, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first = _start(target, "early")
    _plan(target, "early")
    _stop(target, first)
    again = _start(target, "again", resume=True)
    assert Watcher(target, again).look().ranks is None  # Initialize has not written that it runs
    _plan(target, "early", "again")
    _stop(target, again)
    for arn in (first, again):
        snapshot = Watcher(target, arn).look()
        assert (snapshot.ranks, snapshot.taken_by) == (2, None)
    _plan(target, "late", ranks=7)
    for arn in (first, again):
        snapshot = Watcher(target, arn).look()
        assert (snapshot.ranks, snapshot.taken_by) == (None, "late")
    code, output = _call(monkeypatch, capsys, "logs", "0", "--run", "again")
    assert code == 1
    assert "another run, late, has overwritten" in output


def test_a_run_that_is_not_planned_yet_has_lost_nothing(target: Target) -> None:
    """The objects at its path belong to the run before it."""
    _plan(target, "before")
    snapshot = Watcher(target, _start(target, "early")).look()
    assert (snapshot.taken_by, snapshot.ranks) == (None, None)
