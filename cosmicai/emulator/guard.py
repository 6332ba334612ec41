"""Runs one command and leaves no part of it running, however the process that asked for it ends.

Started by guard_command() with a pipe as standard input. When the pipe
closes (its owner closed it, ended, crashed or was killed), or the command ends, every process that descends
from the command is killed and FOLDER is removed.
"""

from __future__ import annotations

import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def guard_command(folder: Path, command: list[str]) -> list[str]:
    """`command` under a guard; as a file, which imports less than the package does."""
    return [sys.executable, "-P", __file__, str(folder), *command]


def main(folder: Path, command: list[str]) -> int:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the owner, which then closes the pipe
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)  # orphans of the command become ours instead of init's
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=_die_with_parent)
    try:
        while child.poll() is None and not _closed():
            pass
    finally:
        _kill_descendants()
        shutil.rmtree(folder, ignore_errors=True)
    return child.returncode or 0


def _closed() -> bool:
    """Whether standard input is at its end; waits a moment for it."""
    ready, _, _ = select.select([sys.stdin], [], [], 0.2)
    return bool(ready) and not os.read(sys.stdin.fileno(), 1)


def _kill_descendants() -> None:
    while descendants := psutil.Process().children(recursive=True):
        for process in descendants:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(descendants, timeout=1)


def _die_with_parent() -> None:
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
