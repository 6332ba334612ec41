"""Facts about this process: memory, age, versions."""

from __future__ import annotations

import os
import platform
import resource
import sys
from contextlib import suppress
from pathlib import Path

_MIB = 1024 * 1024


def versions() -> dict[str, str]:
    """The versions of Python and of the libraries that computed."""
    loaded = ((name, sys.modules.get(name)) for name in ("numpy", "onnxruntime", "torch"))
    libraries = {name: str(getattr(module, "__version__", "")) for name, module in loaded if module is not None}
    return {"python": platform.python_version(), **libraries}


def peak_memory() -> int:
    """Peak resident memory of this process in bytes.

    Linux's ru_maxrss would include what its parent had before it started this process.
    """
    with suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS, where it is in bytes


def machine_memory() -> int:
    """The memory of this machine, or of the container that the process runs in, in MB."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError, ValueError):  # no control group, or "max": no limit
        memory = min(memory, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return memory // _MIB


def age() -> float:
    """Seconds since this process was started; 0 on systems other than Linux, which do not say it cheaply."""
    try:
        started_ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        uptime = float(Path("/proc/uptime").read_text().split()[0])
    except OSError:
        return 0.0
    return max(0.0, uptime - started_ticks / os.sysconf("SC_CLK_TCK"))
