"""Pools of processes that start afresh."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor


def pool(processes: int) -> ProcessPoolExecutor:
    """A pool whose processes share nothing with this one.

    A process that is forked after torch has used its threads waits for them for ever when it uses torch
    itself: they are not there.
    """
    return ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"))
