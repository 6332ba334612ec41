"""Kinds of CPU, the table of measured ones, and that `auto` uses it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cosmicai.cli import run as cli
from cosmicai.model import bench, speed
from inference.engine import choice, cpu
from inference.engine.choice import choose, read_graphs
from inference.engine.loading import BUNDLED_MODEL

GRAVITON3 = """processor\t: 0
BogoMIPS\t: 2100.00
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm jscvt fcma lrcpc \
dcpop sha3 sm3 sm4 asimddp sha512 sve asimdfhm dit uscat ilrcpc flagm ssbs paca pacg dcpodp svei8mm svebf16 \
i8mm bf16 dgh rng
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x1
CPU part\t: 0xd40
CPU revision\t: 1

processor\t: 1
CPU part\t: 0xd0c
"""
XEON = """processor\t: 0
vendor_id\t: GenuineIntel
cpu family\t: 6
model\t\t: 63
model name\t: Intel(R) Xeon(R) Processor @ 2.50GHz
flags\t\t: fpu sse sse2 fma avx avx2
"""


def _be(monkeypatch: pytest.MonkeyPatch, cpuinfo: str, machine: str, instruction_set: str) -> None:
    """Lets this machine look like another one."""
    fields = cpu._first_processor(cpuinfo)
    monkeypatch.setattr(cpu, "_cpuinfo", lambda: fields)
    monkeypatch.setattr(cpu.platform, "machine", lambda: machine)
    monkeypatch.setattr(choice, "instructions", lambda: instruction_set)
    monkeypatch.setattr(choice, "bfloat16_instructions", lambda: "neon_bf16" if " bf16 " in cpuinfo else None)


@pytest.mark.parametrize(
    ("cpuinfo", "machine", "kind", "features"),
    [
        (
            GRAVITON3, "aarch64", "aarch64 implementer 0x41 part 0xd40",
            ("dotprod", "i8mm", "bf16", "sve"),
        ),
        (XEON, "x86_64", "x86_64 GenuineIntel family 6 model 63", ("avx2",)),
        ("", "arm64", "arm64", ()),
    ],
)  # fmt: skip
def test_a_kind_of_cpu_and_its_features(
    monkeypatch: pytest.MonkeyPatch, cpuinfo: str, machine: str, kind: str, features: tuple[str, ...]
) -> None:
    _be(monkeypatch, cpuinfo, machine, "avx2")
    assert (cpu.cpu_kind(), cpu.features()) == (kind, features)


@pytest.mark.parametrize(
    ("rates", "precision", "reason"),
    [
        ({"float32": 400.0, "int8": 1800.0}, "int8", "int8 was measured at 4.50 of the speed of float32"),
        (
            {"float32": 400.0, "int8": 300.0, "bfloat16": 360.0},
            "float32",
            "int8 was measured at 0.75 and bfloat16 was measured at 0.90 of the speed of float32",
        ),
        (
            {"float32": 400.0, "int8": 300.0, "bfloat16": 800.0},
            "bfloat16",
            "int8 was measured at 0.75 and bfloat16 was measured at 2.00 of the speed of float32",
        ),
    ],
)
def test_auto_takes_what_was_measured_to_be_faster(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, rates: dict[str, float], precision: str, reason: str
) -> None:
    _be(monkeypatch, GRAVITON3, "aarch64", "neon")
    record = {"cpu": cpu.cpu_kind(), "instructions": "neon", "images per second and thread": rates}
    (tmp_path / "speeds.json").write_text(json.dumps([{**record, "instructions": "sve"}, record]))
    monkeypatch.setattr(cpu, "SPEEDS", tmp_path / "speeds.json")
    chosen = choose(read_graphs(BUNDLED_MODEL), "auto", "auto")
    assert chosen.precision == precision
    assert reason in chosen.reason
    assert "aarch64 implementer 0x41 part 0xd40, neon" in chosen.reason
    asked = {"float32": "int8", "int8": "float32", "bfloat16": "int8"}[precision]
    assert choose(read_graphs(BUNDLED_MODEL), "auto", asked).precision == asked


def test_every_record_of_the_table_is_whole() -> None:
    records = json.loads(cpu.SPEEDS.read_text())
    kinds = [(one["cpu"], one["instructions"]) for one in records]
    assert kinds == sorted(set(kinds))
    for one in records:
        assert set(one["features"]) <= set(cpu.FEATURES.values())
        rates = one["images per second and thread"]
        assert {"float32", "int8"} <= set(rates) <= {"float32", "int8", "bfloat16"}  # older ones lack bfloat16
        assert all(rate > 0 for rate in rates.values())


def test_a_measurement_takes_the_place_of_an_earlier_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(speed, "LEAST_SECONDS", 0.0)
    monkeypatch.setattr(bench, "TURNS", 1)
    other = {"cpu": "another", "instructions": "neon", "images per second and thread": {}}
    earlier = {**other, "cpu": cpu.cpu_kind(), "instructions": cpu.instructions()}
    (tmp_path / "held.json").write_text(json.dumps([other, earlier]))
    monkeypatch.setattr(bench, "SPEEDS", tmp_path / "held.json")
    assert cli(["bench", "--share", str(tmp_path / "shared.json")]) == 0
    first, second = json.loads((tmp_path / "shared.json").read_text())
    assert first == other
    assert (second["cpu"], second["network"]) == (cpu.cpu_kind(), "dc2-small")
    rates = second["images per second and thread"]
    assert f"{rates['int8'] / rates['float32']:.2f} of float32" in capsys.readouterr().out


def test_a_model_in_float32_alone_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((BUNDLED_MODEL / name).read_bytes())
    assert cli(["bench", "--model", str(tmp_path)]) == 1
    assert (
        f"{tmp_path} has no admitted int8 or bfloat16 to compare with float32; `cosmicai model optimise "
        in capsys.readouterr().err
    )


def test_a_full_disk_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(speed, "LEAST_SECONDS", 0.0)
    monkeypatch.setattr(bench, "TURNS", 1)
    shared = tmp_path / "shared.json"
    shared.symlink_to("/dev/full")
    assert cli(["bench", "--share", str(shared)]) == 1
    assert f"{shared} cannot be written: No space left on device; give another file" in capsys.readouterr().err
