"""Pools of processes that start afresh, and the identity of a process."""

from __future__ import annotations

import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import psutil


def pool(processes: int) -> ProcessPoolExecutor:
    """A pool whose processes share nothing with this one.

    A process that is forked after torch has used its threads waits for them for ever when it uses torch
    itself: they are not there.
    """
    return ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"))


def process_birth(pid: int) -> float | None:
    """When a process was created: with its number, this is its identity. None where there is none,
    or where it has ended and nobody has asked for its exit status yet.

    On Linux in clock ticks since boot, which a correction of the clock does not change; elsewhere a time in s.
    """
    try:
        if sys.platform == "linux":
            state, *numbers = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            return None if state == "Z" else float(numbers[18])
        return psutil.Process(pid).create_time()
    except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
        return None
