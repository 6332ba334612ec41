"""`cosmicai demo` itself: what it shows, and that no process or folder stays when it is interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from cosmicai.data import dc2
from cosmicai.model import baselines
from cosmicai.packaging.places import BuildFolder
from tests.conftest import CACHE

pytestmark = pytest.mark.slow
_COSMICAI = str(Path(sys.executable).with_name("cosmicai"))


def _command(results: Path) -> list[str]:
    return [_COSMICAI, "demo", "--cache", str(CACHE), "--results", str(results)]


def test_the_demo_ends_with_its_tables_and_results(build: BuildFolder, tmp_path: Path) -> None:
    process = subprocess.run(_command(tmp_path / "out"), capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    for text in ("AstroMAE, this run", "k nearest neighbours", "random forest", "GB-seconds", "would cost"):
        assert text in process.stdout
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["num_samples"] == 5112
    validation = dc2.observations("validation", [0], CACHE)[:5112]
    simple = baselines.measure(dc2.observations("training", range(4), CACHE), validation, CACHE)
    for measured in simple.values():
        assert summary["accuracy"]["precision (NMAD)"] < 0.95 * (measured["precision (NMAD)"] or 0)
        assert summary["accuracy"]["outlier fraction"] < 0.95 * (measured["outlier fraction"] or 0)
        assert summary["accuracy"]["R2"] > (measured["R2"] or 1)
    with np.load(tmp_path / "out" / "predictions" / "3.npz") as last:
        assert len(last["z_pred"]) == 1278


def test_nothing_is_left_of_an_interrupted_demo(build: BuildFolder, tmp_path: Path) -> None:
    """Ctrl-C (SIGINT to the whole foreground group) while the ranks run."""
    marker = f"cosmicai-test-{os.getpid()}"
    demo = subprocess.Popen(
        _command(tmp_path / "out"),
        env={**os.environ, "COSMICAI_TEST_MARKER": marker},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not any(
        "-m inference" in " ".join(_command_line(p)) for p in psutil.Process(demo.pid).children(True)
    ):
        assert time.monotonic() < deadline
        assert demo.poll() is None
        time.sleep(0.05)
    os.killpg(demo.pid, signal.SIGINT)
    _, errors = demo.communicate(timeout=60)
    assert demo.returncode == 130
    assert "interrupted" in errors
    assert "Traceback" not in errors
    assert [process for process in psutil.process_iter() if _has(process, marker)] == []


def _command_line(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _has(process: psutil.Process, marker: str) -> bool:
    try:
        return process.environ().get("COSMICAI_TEST_MARKER") == marker
    except (psutil.Error, OSError):
        return False
