"""What this machine's CPU can do, how fast others of its kind were, and the kernels compiled for it."""

from __future__ import annotations

import ctypes
import json
import platform
from functools import cache
from pathlib import Path

KERNELS = Path(__file__).parent / "kernels" / f"{platform.machine()}.so"
SPEEDS = Path(__file__).parent / "speeds.json"
"""What `cosmicai bench --share` has measured: a list of records, one for each kind of CPU."""

FEATURES = {
    "avx2": "avx2", "avx512f": "avx512", "avx_vnni": "avx_vnni", "avx512_vnni": "avx512_vnni",
    "avx512_bf16": "avx512_bf16", "amx_int8": "amx_int8", "amx_bf16": "amx_bf16",
    "asimddp": "dotprod", "i8mm": "i8mm", "bf16": "bf16", "sve": "sve",
}  # fmt: skip
"""Instruction sets that matter to networks: Linux's name in /proc/cpuinfo, and the usual one."""
_KIND = (
    ("vendor_id", "{}"), ("cpu family", "family {}"), ("model", "model {}"),
    ("CPU implementer", "implementer {}"), ("CPU part", "part {}"),
)  # fmt: skip


@cache
def instructions() -> str | None:
    """The instruction set that the kernels use on this CPU; None if they do not support it."""
    return _named_by_kernels("cosmicai_instructions")


@cache
def bfloat16_instructions() -> str | None:
    """The instruction set of the kernels' products of bfloat16; None if this CPU has none."""
    return _named_by_kernels("cosmicai_bfloat16")


def _named_by_kernels(function: str) -> str | None:
    try:
        library = ctypes.CDLL(str(KERNELS))
    except OSError:  # not there, or for another system
        return None
    named = library[function]
    named.restype = ctypes.c_char_p
    name: bytes | None = named()
    return None if name is None else name.decode()


@cache
def _cpuinfo() -> dict[str, str]:
    """The fields of the first processor in /proc/cpuinfo; empty on other systems than Linux."""
    try:
        return _first_processor(Path("/proc/cpuinfo").read_text(errors="replace"))
    except OSError:
        return {}


def _first_processor(text: str) -> dict[str, str]:
    parts = (line.partition(":") for line in text.strip().partition("\n\n")[0].splitlines())
    return {name.strip(): value.strip() for name, _, value in parts}


def cpu_flags() -> frozenset[str]:
    """The CPU's instruction sets, as Linux names them; empty on other systems."""
    fields = _cpuinfo()
    return frozenset(fields.get("flags", fields.get("Features", "")).split())


def features() -> tuple[str, ...]:
    """The instruction sets in FEATURES that the CPU has."""
    return tuple(name for flag, name in FEATURES.items() if flag in cpu_flags())


def cpu_kind() -> str:
    """'x86_64 AuthenticAMD family 25 model 17', 'aarch64 implementer 0x41 part 0xd40' (a Graviton3)."""
    fields = _cpuinfo()
    return " ".join(
        [platform.machine(), *(text.format(fields[name]) for name, text in _KIND if name in fields)]
    )


def measured_speeds(kind: str, instruction_set: str | None) -> dict[str, float]:
    """Images per second and thread by precision, for a kind of CPU; empty if it was not measured."""
    for record in json.loads(SPEEDS.read_text()):
        if (record["cpu"], record["instructions"]) == (kind, instruction_set):
            return dict(record["images per second and thread"])
    return {}
