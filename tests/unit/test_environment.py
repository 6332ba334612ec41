"""`make demo` and `make test` say in one line what is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cosmicai.packaging.places import ROOT

_TOOLS = ("sh", "sed", "cat", "cksum", "dirname")
_PYTHON = f'exec "{sys._base_executable}" "$@"'  # type: ignore[attr-defined]


def _script(folder: Path, **tools: str) -> subprocess.CompletedProcess[str]:
    """Runs scripts/environment.sh with only a few tools and the given scripts on its PATH."""
    for name in _TOOLS:
        source = shutil.which(name)
        assert source is not None
        (folder / name).symlink_to(source)
    for name, text in {"python3": _PYTHON, **tools}.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    environment = {**os.environ, "PATH": str(folder), "PYTHON": "python3"}
    command = [str(folder / "sh"), str(ROOT / "scripts" / "environment.sh")]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("tools", "message"),
    [
        ({}, "error: Terraform is missing: install Terraform 1.11 or newer"),
        (
            {"terraform": "echo Terraform v1.5.7"},
            "error: Terraform 1.5 is too old: install Terraform 1.11 or newer",
        ),
        (
            {"python3": 'case "$1" in --version) echo Python 3.9.2;; *) exit 1;; esac'},
            "error: Python 3.9.2 is too old: install Python 3.11 or newer",
        ),
    ],
)
def test_a_missing_or_old_tool_is_one_line(tmp_path: Path, tools: dict[str, str], message: str) -> None:
    process = _script(tmp_path, **tools)
    assert process.returncode == 1
    assert process.stderr.startswith(message)
    assert process.stderr.count("\n") == 1


def test_an_environment_that_is_as_wanted_is_left_alone(tmp_path: Path) -> None:
    process = _script(tmp_path, terraform="echo Terraform v1.11.4")
    assert (process.returncode, process.stdout, process.stderr) == (0, "", "")
