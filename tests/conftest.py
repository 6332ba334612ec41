"""What unit and integration tests share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

# Threads of torch spin while they wait for each other: where tests share the cores, trainings then take thirty
# times as long. Alone, the small networks of tests are as fast on one thread. Read when torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Of Terraform and its provider: a quarter of their CPU time would go into collecting garbage.
os.environ.setdefault("GOGC", "400")

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from torch.utils.data import TensorDataset

from cosmicai.packaging.assembly import assemble
from cosmicai.packaging.places import ROOT, BuildFolder
from tests.signals import let_children_hear_ctrl_c

# Two busy cores are slow now and then, which does not mean that the tested code is wrong.
settings.register_profile("project", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("project")
let_children_hear_ctrl_c()

FAULTS = ROOT / "docs" / "faults.md"
TESTS = Path(__file__).parent
CACHE = ROOT / ".cosmicai" / "cache"


@pytest.fixture(scope="session")
def build() -> BuildFolder:
    """The assembled functions and runtimes, with the lean image."""
    folder = BuildFolder()
    assemble(folder, ("lean",))
    return folder


@pytest.fixture(scope="session")
def torch_build(build: BuildFolder) -> BuildFolder:
    """The same with the torch image too, which is some hundred megabytes larger."""
    assemble(build, ("torch",))
    return build


@pytest.fixture(scope="session")
def make_partition() -> Callable[..., TensorDataset]:
    """A TensorDataset of n random galaxies; the same seed gives the same ones."""

    def make(count: int = 3, seed: int = 0, with_redshift: bool = True) -> TensorDataset:
        rng = np.random.default_rng(seed)
        arrays = [rng.normal(0, 0.1, (count, 5, 32, 32)), rng.normal(24, 1, (count, 5))]
        arrays += [rng.uniform(0.1, 2, count)] if with_redshift else []
        return TensorDataset(*(torch.from_numpy(array.astype(np.float32)) for array in arrays))

    return make


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[object], bytes]:
    """The bytes that torch.save writes for an object."""

    def save(content: object) -> bytes:
        path = tmp_path / "saved.pt"
        torch.save(content, path)
        return path.read_bytes()

    return save


def pytest_xdist_auto_num_workers() -> int:
    """Two for each core, since tests wait for other processes half of the time; four at most: each may run
    an embedded AWS of its own."""
    return min(4, 2 * (os.cpu_count() or 1))


def fault_row(mark: pytest.Mark) -> str:
    """fault(FAULT, HOW IT IS INJECTED, WHAT HAPPENS, WHAT IS LOST) as a line of docs/faults.md."""
    fault, injected, happens, lost = mark.args
    return f"| {fault} | {injected} | {happens} | {lost} |"


def marker_names(path: Path, fixtures: set[str]) -> list[str]:
    """The markers of a test at a path below tests/ that asks for some fixtures."""
    folder = [path.parts[0]] if path.parts[0] in ("unit", "browser") else []
    emulator = ["emulator"] if fixtures & {"build", "torch_build"} else []
    return [*folder, *emulator, *(["slow"] if "torch_build" in fixtures else [])]


_LONGEST = (
    "integration/test_image.py",
    "unit/test_terraform.py",
    "integration/test_codebuild.py",
    "unit/test_fmi_direct.py",
    "integration/test_first_deploy.py",
    "integration/test_smoke.py",
    "integration/test_demo.py",
    "unit/test_training.py",
    "unit/test_survey.py",
)
"""Files that take minutes. They start first: else the last one would keep one worker, and the others idle."""

_seen: list[str] = []
_skipped: list[str] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Markers follow from where a test is and what it asks for.

    Faults go into the tests' reports, which reach the process that writes docs/faults.md.
    """
    for item in items:
        for name in marker_names(item.path.relative_to(TESTS), set(getattr(item, "fixturenames", ()))):
            item.add_marker(name)
        item.user_properties += [("fault", fault_row(mark)) for mark in item.iter_markers("fault")]
    items.sort(key=lambda item: _place_in_line(item.path.relative_to(TESTS).as_posix()))


def _place_in_line(file: str) -> int:
    return _LONGEST.index(file) if file in _LONGEST else len(_LONGEST)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" and report.passed:
        _seen.extend(str(row) for name, row in report.user_properties if name == "fault")
    if report.skipped:
        _skipped.append(str(report.longrepr[2]).removeprefix("Skipped: "))  # type: ignore[index]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Where COSMICAI_FAULTS is set, docs/faults.md is written from the tests that have passed."""
    if hasattr(session.config, "workerinput"):
        return
    if os.environ.get("COSMICAI_FAULTS"):
        rows = sorted(dict.fromkeys(_seen))
        head = ["| fault | how it is injected | what happens | what is lost |", "| --- | --- | --- | --- |"]
        intro = "Faults that tests inject, and their effects. `COSMICAI_FAULTS=1 make test` writes this table."
        FAULTS.write_text("\n".join(["# Faults", "", intro, "", *head, *rows]) + "\n")
    if _unstated() and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for reason in _unstated():
        terminalreporter.write_line(f"error: tests were skipped, and CONTRIBUTING.md does not say it: {reason}")


def _unstated() -> list[str]:
    """Why tests were skipped that CONTRIBUTING.md does not allow, where COSMICAI_SKIPS=fail asks for it."""
    if os.environ.get("COSMICAI_SKIPS") != "fail":
        return []
    stated = (ROOT / "CONTRIBUTING.md").read_text()
    return [reason for reason in dict.fromkeys(_skipped) if reason.partition(": ")[0] not in stated]
