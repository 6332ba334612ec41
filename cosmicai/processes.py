"""Pools of processes that start afresh, and the identity of a process."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.context import SpawnContext, SpawnProcess
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil


def pool(processes: int) -> ProcessPoolExecutor:
    """A pool whose processes share nothing with this one, and run functions of modules alone.

    A process that is forked after torch has used its threads waits for ever when it uses torch itself,
    because it does not have these threads. A spawned one would run the user's script again, which may have no
    `if __name__ == "__main__"` and would then start processes in turn: the script is hidden from it.
    """
    return ProcessPoolExecutor(processes, _Context())


class _Process(SpawnProcess):
    @staticmethod
    def _Popen(process_obj: Any) -> Any:
        """Starts the process as though this one had no script (multiprocessing.spawn.get_preparation_data)."""
        with _STARTING:
            script = sys.modules["__main__"]
            sys.modules["__main__"] = ModuleType("__main__")
            try:
                return SpawnProcess._Popen(process_obj)
            finally:
                sys.modules["__main__"] = script


class _Context(SpawnContext):
    Process = _Process


_STARTING = threading.Lock()


def process_birth(pid: int) -> float | None:
    """When a process was created: with its number, this is its identity. None if there is none,
    or if it has ended and nobody has asked for its exit status yet.

    On Linux in clock ticks since boot, which a correction of the clock does not change; elsewhere a time in s.
    """
    try:
        if sys.platform == "linux":
            state, *numbers = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            return None if state == "Z" else float(numbers[18])
        return psutil.Process(pid).create_time()
    except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
        return None
