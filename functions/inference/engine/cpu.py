"""What this machine's CPU can do, and the kernels compiled for it."""

from __future__ import annotations

import ctypes
import platform
from functools import cache
from pathlib import Path

KERNELS = Path(__file__).parent / "kernels" / f"{platform.machine()}.so"


@cache
def instructions() -> str | None:
    """The instruction set that the kernels use on this CPU; None if they do not support it."""
    try:
        library = ctypes.CDLL(str(KERNELS))
    except OSError:  # not there, or for another system
        return None
    library.cosmicai_instructions.restype = ctypes.c_char_p
    name: bytes | None = library.cosmicai_instructions()
    return None if name is None else name.decode()


@cache
def cpu_flags() -> frozenset[str]:
    """The CPU's instruction sets, as Linux names them; empty on other systems."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    flags = (line.partition(":")[2] for line in lines if line.startswith(("flags", "Features")))
    return frozenset(next(flags, "").split())
