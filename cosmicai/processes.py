"""Pools of processes that start afresh, and the identity of a process."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing.context import SpawnContext, SpawnProcess
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import psutil


@contextmanager
def pool(processes: int) -> Iterator[ProcessPoolExecutor]:
    """A pool whose processes share nothing with this one, and run functions of modules alone.

    A process that is forked after torch has used its threads waits for ever when it uses torch itself,
    because it does not have these threads. A spawned one would run the user's script again, which may have no
    `if __name__ == "__main__"` and would then start processes in turn: the script is hidden from it.

    Ctrl-C reaches this process alone, which then ends the others, so that each does not print a traceback. Each
    has its share of the cores for numpy's products: more threads than cores wait for each other by spinning.
    """
    context = _Context(max(1, (os.cpu_count() or 1) // processes))
    workers = ProcessPoolExecutor(processes, context)
    try:
        yield workers
    except BaseException:
        for process in context.started:
            process.kill()
        raise
    finally:
        workers.shutdown(cancel_futures=True)


class _Process(SpawnProcess):
    def __init__(self, started: list[SpawnProcess], threads: int, **options: Any) -> None:
        super().__init__(**options)
        self._started, self._threads = started, threads

    def start(self) -> None:
        """Starts the process as though this one had no script (multiprocessing.spawn.get_preparation_data)."""
        with _STARTING, _ctrl_c_later(), _environment("OPENBLAS_NUM_THREADS", str(self._threads)):
            script = sys.modules["__main__"]
            sys.modules["__main__"] = ModuleType("__main__")
            started, self._started = self._started, []  # is not sent to the process
            try:
                super().start()
            finally:
                sys.modules["__main__"] = script
            started.append(self)


class _Context(SpawnContext):
    def __init__(self, threads: int) -> None:
        super().__init__()
        self.started: list[SpawnProcess] = []
        self._threads = threads

    def Process(self, **options: Any) -> SpawnProcess:  # type: ignore[override]
        return _Process(self.started, self._threads, **options)


_STARTING = threading.Lock()


@contextmanager
def _environment(name: str, default: str) -> Iterator[None]:
    """Sets a variable in this context, unless it is set."""
    if name in os.environ:
        yield
        return
    os.environ[name] = default
    try:
        yield
    finally:
        os.environ.pop(name, None)


@contextmanager
def _ctrl_c_later() -> Iterator[None]:
    """Ctrl-C has its effect at the end, and none at all on processes that are started meanwhile."""
    heard: list[tuple[int, FrameType | None]] = []
    main = threading.current_thread() is threading.main_thread()  # the only one that has handlers
    handler = signal.signal(signal.SIGINT, lambda *signal: heard.append(signal)) if main else None
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        if main:
            signal.signal(signal.SIGINT, handler or signal.SIG_DFL)
    if heard and callable(handler):
        handler(*heard[0])


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
