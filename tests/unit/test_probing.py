"""What a plan of this machine takes from a probe of two ranks."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cosmicai.cli import app
from cosmicai.experiments import probing
from cosmicai.experiments.cases import Assumptions, Case
from cosmicai.experiments.planning import plan
from cosmicai.experiments.probing import Probe, ProbeError, Ran

SMALL = Ran(before=1.0, rank=0.2, after=0.5, starts=())
LARGE = replace(SMALL, rank=1.2)
PROBE = Probe(1769, "x86_64", 1001, replace(SMALL, starts=(3.0, 4.0)), (SMALL,) * 3, (LARGE,) * 3, 1e12, 0.0)


@pytest.fixture(params=[1, 2, 8])
def cores(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(os, "cpu_count", lambda: request.param)
    return int(request.param)


def _case(ranks: int, galaxies: int = 1001) -> Case:
    return Case(ranks * galaxies, 25, 1769, "x86_64", "none")


def test_it_predicts_the_runs_that_it_was_made_of(cores: int) -> None:
    """Two ranks in warm sandboxes: 1.0 s, 1.2 s and 0.5 s, however many cores they share."""
    figures = PROBE.assumptions(16, "absent")
    case = Case(2 * 1001, 1001 * 20_504 / 2**20 + 0.01, 1769, "x86_64", "none")
    planned = plan(case, figures)
    assert case.ranks == 2
    assert planned.parts["metrics"] < 0.01
    assert planned.seconds.p50 - planned.parts["metrics"] == pytest.approx(1.0 + 1.2 + 0.5, abs=0.002)
    assert planned.parts["cold start"] == 0.0


@pytest.mark.parametrize(("cores", "slower"), [(1, 4.0), (2, 4.0), (8, 1.0)], indirect=["cores"])
def test_ranks_share_the_cores(cores: int, slower: float) -> None:
    """Eight of one thread each take four times as long as two on one or two cores, and as long on eight."""
    figures = PROBE.assumptions(16, "absent")
    partition = 1001 * 20_504 / 2**20 + 0.01
    two, eight = (plan(Case(n * 1001, partition, 1769, "x86_64", "none"), figures) for n in (2, 8))
    assert eight.parts["compute"] == pytest.approx(slower * two.parts["compute"])
    assert eight.parts["cold start"] == pytest.approx(slower * 4.0, rel=0.15)  # two of them are warm


def test_others_take_cores_too(cores: int) -> None:
    """With 30 other threads, eight ranks take (8 + 30) / (2 + 30) as long as two."""
    busy = replace(PROBE, others=30.0).assumptions(16, "absent")
    partition = 1001 * 20_504 / 2**20 + 0.01
    two, eight = (plan(Case(n * 1001, partition, 1769, "x86_64", "none"), busy) for n in (2, 8))
    assert two.parts["compute"] == pytest.approx(1.2, abs=0.002)
    assert eight.parts["compute"] == pytest.approx(38 / 32 * two.parts["compute"])


def test_the_last_wave_has_the_cores_for_itself(cores: int) -> None:
    partition = 1001 * 20_504 / 2**20 + 0.01
    figures = PROBE.assumptions(4, "absent")
    assert figures.machine is not None
    figures = replace(figures, machine=replace(figures.machine, warm=4))
    five = plan(Case(5 * 1001, partition, 1769, "x86_64", "none"), figures)
    assert five.parts["compute"] == pytest.approx(1.2 / max(1.0, 2 / cores), abs=0.002)
    assert "in 2 waves: the embedded AWS runs 4 at once" in five.obstacles[0].text


def test_one_process_serves_all_readers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    slow = replace(PROBE, read_bytes_per_second=1001 * 20_504 / 2.0)
    partition = 1001 * 20_504 / 2**20 + 0.01
    eight = plan(Case(8 * 1001, partition, 1769, "x86_64", "none"), slow.assumptions(16, "absent"))
    assert eight.parts["network"] + eight.parts["compute"] == pytest.approx(8 * 2.0)


def test_its_bands_are_as_wide_as_its_runs_were_apart() -> None:
    alike = plan(_case(2), PROBE.assumptions(16, "absent"))
    apart = replace(PROBE, large=(LARGE, replace(LARGE, rank=1.0), replace(LARGE, rank=2.2)))
    scatter = apart.assumptions(16, "absent").scatter
    assert scatter.speed_level == pytest.approx((0.5, 1.25))
    assert alike.seconds.p90 == pytest.approx(alike.seconds.p10)
    wide = plan(_case(2), apart.assumptions(16, "absent")).seconds
    assert wide.p90 - wide.p10 > 0.5
    assert all(not one.assumed and one.source.startswith("the probe's") for one in scatter.described("s"))
    assert "network, between runs" not in {one.figure for one in scatter.described("s")}


def test_a_probe_that_shows_no_speed_is_refused() -> None:
    with pytest.raises(ProbeError, match="took no longer than ranks of one: is this machine busy"):
        replace(PROBE, large=(SMALL,)).assumptions(16, "absent")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--probe"], "--probe and --local belong together"),
        (["--local"], "--probe and --local belong together"),
        (["--probe", "--local", "--concurrency", "4"], "--concurrency is not for --probe"),
        (["--probe", "--local", "--memory-mb", "1769"], "--memory-mb is not for --probe"),
        (["--probe", "--local", "--backend", "batch"], "--backend is not for --probe"),
    ],
)
def test_options_that_contradict_a_probe_are_refused(options: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["plan", "--images", "1000", *options])
    assert result.exit_code == 2
    assert message in " ".join(result.output.replace("│", " ").split())


def test_a_probe_needs_the_embedded_aws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COSMICAI_LOCAL", str(tmp_path))
    result = CliRunner().invoke(app, ["plan", "--images", "1000", "--probe", "--local"])
    assert result.exit_code == 1
    assert "start it with `cosmicai local up`" in str(result.exception)


def test_figures_of_aws_know_nothing_of_a_machine() -> None:
    assert Assumptions().machine is None


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="prctl is Linux's")
@pytest.mark.parametrize(("code", "state"), [("while True: pass", "R"), ("input()", "S")])
def test_programs_that_compute_are_told_from_those_that_wait(tmp_path: Path, code: str, state: str) -> None:
    """By a thread's state and session, whatever the program calls itself."""
    program = tmp_path / ") R 1 1 7 ("
    program.symlink_to(sys.executable)
    with subprocess.Popen([program, "-c", code], stdin=subprocess.PIPE, start_new_session=True) as process:
        try:
            stat = Path(f"/proc/{process.pid}/task/{process.pid}/stat")
            deadline = time.monotonic() + 60
            while program.name[:15] not in stat.read_text() or probing._state(stat) != (state, process.pid):
                assert time.monotonic() < deadline, stat.read_text()
                time.sleep(0.01)
        finally:
            process.kill()
    assert probing._state(stat) == ("", 0)
