"""benchmarks/engine.py loses no measurement, mixes none of different networks, and runs on any CPU."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from benchmarks import engine
from inference.contract.model_files import GRAPHS
from inference.engine import astromae, cpu

from .test_astromae import SMALL, randomised

Json = dict[str, Any]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    astromae.save(randomised(SMALL), folder)
    (folder / GRAPHS).write_text("{}")
    return folder


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Counter[tuple[str, str]]:
    """How often each setting's case was measured; the fifth measurement is interrupted."""
    counts: Counter[tuple[str, str]] = Counter()
    calls = Counter[str]()

    def measure(case: str, model: Path, file: Path, setting: engine.Setting, library: Path | None) -> Json:
        calls["all"] += 1
        if calls["all"] == 5:
            raise KeyboardInterrupt
        counts[setting.key, case] += 1
        names = ("first batch (s)", "end (s)", "images/s", "peak memory (MiB)", "CPU (s)", "images", "GFLOP/s")
        return dict.fromkeys(names, float(calls["all"]))

    monkeypatch.setattr(engine, "measure", measure)
    monkeypatch.setattr(engine, "make_partitions", lambda _: {"25 MB": tmp_path, "100 MB": tmp_path})
    monkeypatch.setattr(engine, "hidden_instructions", lambda _: (None, "CPUID cannot fault"))
    return counts


def test_an_interrupted_benchmark_goes_on_where_it_was(
    model: Path, tmp_path: Path, measured: Counter[tuple[str, str]]
) -> None:
    out = tmp_path / "out.json"
    with pytest.raises(KeyboardInterrupt):
        engine.benchmark(model, tmp_path, out, repeat=2, quick=False)
    before = json.loads(out.read_text())
    assert sum(len(runs) for cases in before["runs"].values() for runs in cases.values()) == 4
    assert "images/s" not in engine.table(before)  # the first setting lacks its last case
    result = engine.benchmark(model, tmp_path, out, repeat=2, quick=False)
    assert result == json.loads(out.read_text())
    assert set(measured.values()) == {2}
    assert {key for key, _ in measured} == {s.key for s in engine.SETTINGS if not s.capped}
    assert result["note"] == "CPUID cannot fault"
    table = engine.table(result)
    assert "images/s, 1 thread |" in table
    assert "AVX2 alone" not in table
    total = sum(measured.values())
    engine.benchmark(model, tmp_path, out, repeat=2, quick=False)
    assert sum(measured.values()) == total


def test_measurements_of_another_network_are_not_mixed_in(
    model: Path, tmp_path: Path, measured: Counter[tuple[str, str]]
) -> None:
    out = tmp_path / "out.json"
    with pytest.raises(KeyboardInterrupt):
        engine.benchmark(model, tmp_path, out, repeat=1, quick=True)
    astromae.save(randomised(SMALL, seed=1), model)
    with pytest.raises(
        SystemExit, match=r"out\.json: was measured with another model; delete it or give another file"
    ):
        engine.benchmark(model, tmp_path, out, repeat=1, quick=True)


@pytest.mark.parametrize(
    ("flags", "compiler", "faults", "reason"),
    [
        ({"asimd"}, True, True, "has no AVX2"),
        ({"avx2", "fma"}, True, True, "AVX2 is this CPU's native instruction set"),
        ({"avx2", "avx512f"}, False, True, "cc cannot compile"),
        ({"avx2", "avx512f"}, True, False, "CPUID cannot fault"),
        ({"avx2", "avx_vnni"}, True, True, "everything beyond AVX2 is hidden"),
    ],
)
def test_avx2_alone_is_left_out_with_a_reason_where_it_cannot_be_had(
    flags: set[str], compiler: bool, faults: bool, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[bytes]:
        if command[0] == "cc" and not compiler:
            raise FileNotFoundError("cc")
        return subprocess.CompletedProcess(command, 0 if command[0] == "cc" or faults else 3)

    monkeypatch.setattr(cpu, "cpu_flags", lambda: frozenset(flags))
    monkeypatch.setattr(subprocess, "run", run)
    library, note = engine.hidden_instructions(tmp_path)
    assert reason in note
    assert (library is not None) == (compiler and faults and bool(flags & engine.BEYOND_AVX2))
