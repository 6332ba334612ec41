"""On a full disk, each command that writes files names the place in a line or two, and leaves no file."""

from __future__ import annotations

import resource
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cosmicai.cli import paths
from cosmicai.data import dc2
from tests.conftest import CACHE

from .commands import CASES, content_of, run_command

_GALAXIES = ["--galaxies", "120", "--partition-mb", "1", "--seed", "3"]
FULL = {
    "infer": ["infer", "in", "--out", "OUT"],
    "data dc2 out": [
        "data",
        "dc2",
        "OUT",
        *["--galaxies", "120", "--partition-mb", "1", "--seed", "3", "--cache"],
        str(CACHE),
    ],
    "data prepare": ["data", "prepare", "source.npz", "--out", "OUT"],
    "data inspect": ["data", "inspect", "source.npz", "--sheet", "OUT.png"],
    "model train": ["model", "train", "in", "--out", "OUT", "--config", "config.json", "--epochs", "1"],
    "model pretrain": ["model", "pretrain", "in", "--out", "OUT", "--config", "config.json", "--epochs", "1"],
    "model optimise": ["model", "optimise", "OUT"],
    "report": ["report", "OUT"],
}
"""A command line for each place that is written to; OUT is on the full disk."""


ELSEWHERE = {
    "bench": "test_bench.py: its table is smaller than these disks",
    "demo": "download(), as results",
    "results": "tests/integration/test_cli.py",
    "sweep": "tests/integration/test_cli.py",
    "local up": "writes to no place that is named",
    "model import": "tests/unit/test_import_command.py has checkpoints",
    "model import-onnx": "tests/unit/test_imported.py has ONNX files",
}
"""What cannot be called here, and where it is tested or why not."""


def test_every_command_that_writes_is_tried_on_a_full_disk() -> None:
    kinds = (paths.OutFile, paths.OutFolder, paths.Destination)
    writing = {case.command for case in CASES if isinstance(case.kind, kinds)}
    tried = {" ".join(words for words in line[:2] if words != "in") for line in FULL.values()}
    assert writing <= tried | set(ELSEWHERE)


def _full_by_limit() -> None:
    """No file may have more than 2 KB: as a full disk, every larger one is cut off while it is written."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"a small disk needs root: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def _prepared(name: str, template: Path, out: Path, place: Path) -> list[str]:
    """The command line, after what it changes has been put in its place."""
    if name == "report":
        assert run_command(["infer", "in", "--out", str(out)], place).returncode == 0
    if name == "model optimise":
        shutil.copytree(template / "model", out)
    return [word.replace("OUT", str(out)) for word in FULL[name]]


def _is_refusal(process: subprocess.CompletedProcess[str], out: Path) -> bool:
    """Whether a command ended with a line or two that name the place."""
    lines = process.stderr.splitlines()
    named = str(out) in process.stderr and "Traceback" not in process.stderr
    return process.returncode == 1 and len(lines) in (1, 2) and named


@pytest.mark.parametrize("name", FULL)
def test_a_full_disk_is_told_and_leaves_nothing(name: str, place: Path, template: Path) -> None:
    dc2.partitions("validation", 120, 1, CACHE, seed=3)
    out = place / ("out" if name in ("report", "model optimise") else "new/out")
    if name == "data inspect":
        out.parent.mkdir()
    line = _prepared(name, template, out, place)
    before = content_of(place)
    process = run_command(line, place, preexec_fn=_full_by_limit)
    assert _is_refusal(process, out), process.stdout + process.stderr
    assert content_of(place) == before


@pytest.mark.parametrize(
    "name", [name for name in FULL if name not in ("report", "model optimise", "data inspect")]
)
def test_a_small_disk_is_told_and_leaves_nothing(
    name: str, place: Path, template: Path, small_disk: Path
) -> None:
    dc2.partitions("validation", 120, 1, CACHE, seed=3)
    line = _prepared(name, template, small_disk / "out", place)
    before = content_of(small_disk)
    process = run_command(line, place)
    assert _is_refusal(process, small_disk / "out"), process.stdout + process.stderr
    assert content_of(small_disk) == before
