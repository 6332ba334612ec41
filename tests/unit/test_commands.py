"""Commands that messages show: each works when it is copied, for the deployment that the user has named."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.main import get_command

from cosmicai import cli
from cosmicai.cli import following, runs
from cosmicai.cli.common import console
from cosmicai.commands import command
from cosmicai.deploy.target import Target
from cosmicai.experiments.sweep import SweepError, _sizes
from cosmicai.packaging.places import ROOT
from cosmicai.runs.client import OverwrittenError, RunError
from cosmicai.runs.deployment import Deployment, Run
from cosmicai.runs.watch import Snapshot
from initialize.plan import PlanError

SHOWN = re.compile(r"`(cosmicai [^`]+)`")
MACHINE = "arn:aws:states:us-east-1:123456789012:stateMachine:team3-cosmicai"
DEPLOYMENTS: dict[str, dict[str, Any]] = {
    "local": {"name": "local", "endpoint": "http://127.0.0.1:1"},
    "team": {"name": "team3"},
    "profile": {"name": "team3", "profile": "the survey"},
}
NAMED = {
    "local": (True, None, None),
    "team": (None, "team3", None),
    "profile": (None, "team3", "the survey"),
}
"""--local, --team and --profile of a command for each of them."""


class _NoSuchRun(Exception):
    """As Step Functions' client raises it."""


class _StepFunctions:
    """The part of a client that is asked for runs; status None: there is none."""

    exceptions = SimpleNamespace(ExecutionDoesNotExist=_NoSuchRun)

    def __init__(self, status: str | None) -> None:
        self.status = status

    def describe_execution(self, executionArn: str) -> dict[str, Any]:
        if self.status is None:
            raise _NoSuchRun
        payload = '{"bucket": "b", "result_path": "r"}'
        return {"status": self.status, "name": executionArn.rpartition(":")[2], "input": payload}

    def get_paginator(self, name: str) -> Any:
        return SimpleNamespace(paginate=lambda **_: [{"executions": []}])


def _run(kind: str, monkeypatch: pytest.MonkeyPatch, status: str | None = "RUNNING") -> Run:
    target = Target(bucket="b", state_machine_arn=MACHINE, session=None, **DEPLOYMENTS[kind])
    monkeypatch.setattr(Target, "client", lambda self, service: _StepFunctions(status))
    monkeypatch.setattr(console, "width", 500)
    deployment = Deployment.__new__(Deployment)
    deployment.target = target
    return Run(deployment, target.execution_arn("run-1"))


def _snapshot(status: str) -> Snapshot:
    return Snapshot(
        "run-1", status, None, "now", 1.0, "s3://b/r", ranks=3, finished=1, failed=2, errors={2: "no"}
    )


def _interrupted(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(run: Run, quiet: bool) -> Snapshot:
        raise KeyboardInterrupt

    monkeypatch.setattr(following, "_shown", interrupt)
    with pytest.raises(BaseException, match="130"):
        following.follow(run)


SAYINGS: dict[str, tuple[list[str], Callable[[Run, pytest.MonkeyPatch], object]]] = {
    "started": (["watch run-1"], lambda run, patch: runs._print_started(run, as_json=False)),
    "interrupted": (["watch run-1", "stop run-1"], _interrupted),
    "failed ranks": (
        ["logs 2 --run run-1"],
        lambda run, patch: console.print(following.screen(_snapshot("FAILED"), run)),
    ),
    "succeeded": (["results run-1"], lambda run, patch: following._print_end(_snapshot("SUCCEEDED"), run)),
    "failed": (["resume run-1"], lambda run, patch: following._print_end(_snapshot("FAILED"), run)),
}
"""What a command prints of a run, and the commands in it without the deployment's options."""


@pytest.mark.parametrize("saying", SAYINGS)
@pytest.mark.parametrize("kind", DEPLOYMENTS)
def test_what_is_printed_of_a_run_names_its_deployment(
    kind: str, saying: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected, say = SAYINGS[saying]
    say(_run(kind, monkeypatch), monkeypatch)
    shown = [shlex.split(text) for text in SHOWN.findall("".join(capsys.readouterr()))]
    assert [_options(words) for words in shown] == [NAMED[kind]] * len(expected)
    assert [words[1 : 1 + len(text.split())] for words, text in zip(shown, expected, strict=True)] == [
        text.split() for text in expected
    ]


def _overwritten(*_: object) -> None:
    raise OverwrittenError("other", "run-1", "s3://b/r/")


def _no_partition(*_: object) -> None:
    raise PlanError("nothing there")


FAULTS: dict[str, tuple[str, str | None, Callable[[Run], object]]] = {
    "no run yet": ("run PAYLOAD.json", None, lambda run: run.deployment.find()),
    "no such run": ("list", None, lambda run: run.stop()),
    "still running": ("stop run-1", "RUNNING", lambda run: run.resume()),
    "overwritten": ("results other", "FAILED", lambda run: run.results()),
    "no partitions": (
        "data upload PARTITIONS 25MB",
        None,
        lambda run: _sizes(None, run.deployment.target, 25),
    ),
}
"""What a message proposes, the state of the run, and the call that fails."""


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("kind", DEPLOYMENTS)
def test_an_error_proposes_a_command_for_the_same_deployment(
    kind: str, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    proposed, status, fail = FAULTS[fault]
    monkeypatch.setattr("cosmicai.runs.deployment.fetched", _overwritten)
    monkeypatch.setattr("cosmicai.experiments.sweep.list_partitions", _no_partition)
    run = _run(kind, monkeypatch, status)
    with pytest.raises((RunError, SweepError)) as error:
        fail(run)
    words = shlex.split(SHOWN.findall(str(error.value))[-1])
    assert words[1 : 1 + len(proposed.split())] == proposed.split()
    assert _options(words) == NAMED[kind]


def _options(words: list[str]) -> tuple[Any, Any, Any]:
    """--local, --team and --profile as the command line reads them; it refuses what it does not know."""
    assert words[0] == "cosmicai"
    called, rest = get_command(cli.app), words[1:]
    while hasattr(called, "commands"):
        called, rest = called.commands[rest[0]], rest[1:]
    context = type(called).context_class(called)
    read = called.make_parser(context).parse_args(rest)[0]
    return read.get("local"), read.get("team"), read.get("profile")


def test_a_path_with_a_space_is_one_word() -> None:
    assert shlex.split(command("merge", Path("my results")).strip("`")) == ["cosmicai", "merge", "my results"]


PROSE = (
    "; `cosmicai list` has them",  # the help of an argument
    "by `cosmicai stop`",  # the cause that an execution keeps
    "`cosmicai infer` and `cosmicai results` write Results.json",  # the reference
    "give a folder that `cosmicai results` or `cosmicai infer` has written",
    "download the run again: `cosmicai results NAME`, with the --team or --local of its deployment",
)
"""Texts that name such a command, but cannot know the deployment."""


def test_no_message_writes_a_command_of_a_deployment_by_hand() -> None:
    """Target.command writes them: a text without --local or --team reaches another deployment, or none."""
    of_deployments = [name for name, one in _commands(get_command(cli.app)) if _takes_a_deployment(one)]
    assert {"run", "watch", "data upload", "results"} <= set(of_deployments)
    by_hand = re.compile(rf"`cosmicai (?:{'|'.join(of_deployments)})(?: [^`]+)?`")
    written = {
        text
        for file in sorted((ROOT / "cosmicai").rglob("*.py"))
        for text in _texts(ast.parse(file.read_text()))
    }
    unknown = [text for text in written if by_hand.search(text) and not any(prose in text for prose in PROSE)]
    assert unknown == []


def _takes_a_deployment(one: Any) -> bool:
    return {"team", "local"} <= {parameter.name for parameter in one.params}


def _commands(group: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    for name, one in group.commands.items():
        if hasattr(one, "commands"):
            yield from _commands(one, f"{before}{name} ")
        else:
            yield f"{before}{name}", one


def _texts(tree: ast.Module) -> Iterator[str]:
    """The texts of a module, of an f-string those between its fields; not its docstrings."""
    docs = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node.value


def test_the_command_line_starts_without_what_takes_long_to_import() -> None:
    """A third of its time, before."""
    check = (
        "import cosmicai.cli, sys; print({'boto3', 'matplotlib', 'numpy', 'pyarrow', 'torch'} & {*sys.modules})"
    )
    imported = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert imported.stdout == "set()\n"
