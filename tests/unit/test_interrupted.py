"""Ctrl-C: every command says that it was interrupted and what remains; no process prints a traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from cosmicai import cli
from cosmicai.cli import runs
from cosmicai.data import dc2
from cosmicai.model import bench
from tests.conftest import CACHE
from tests.signals import let_children_hear_ctrl_c


def _interrupted(*_: Any, **__: Any) -> Any:
    raise KeyboardInterrupt


def test_infer_ends_its_processes_and_writes_nothing(tmp_path: Path) -> None:
    """While they import what they need."""
    let_children_hear_ctrl_c()
    folder, out = dc2.partitions("validation", 120, 1, CACHE, seed=3), tmp_path / "out"
    command = [sys.executable, "-m", "cosmicai", "infer", str(folder), "--out", str(out), "--processes", "2"]
    infer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while not (
        workers := [p for p in psutil.Process(infer.pid).children() if "spawn_main" in str(p.cmdline())]
    ):
        assert infer.poll() is None
        time.sleep(0.01)
    os.killpg(infer.pid, signal.SIGINT)
    _, errors = infer.communicate(timeout=60)
    assert errors == "\ninterrupted: the same command starts again from the beginning\n"
    assert infer.returncode in (130, -signal.SIGINT)  # Python's own, if code in a string was being executed
    assert not any(worker.is_running() for worker in workers)
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_may_have_started_can_be_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    target = SimpleNamespace(command=lambda verb: f"`cosmicai {verb} --team team3`")
    (tmp_path / "payload.json").write_text("{}")
    monkeypatch.setattr(runs, "deployment", lambda *_: SimpleNamespace(run=_interrupted, target=target))
    assert cli.run(["run", str(tmp_path / "payload.json"), "--team", "team3"]) == 130
    assert capsys.readouterr().err == (
        "\ninterrupted: `cosmicai list --team team3` shows whether the run has started\n"
    )


def test_a_command_that_leaves_nothing_says_it_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "bench", _interrupted)
    assert cli.run(["bench"]) == 130
    assert capsys.readouterr().err == "\ninterrupted\n"
