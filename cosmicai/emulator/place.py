"""The file system of a sandbox's process, with a /tmp of its own if the system allows it.

Code for Lambda may name /tmp literally. In a mount namespace of its own (Linux; root, or unprivileged user
namespaces) the sandbox's scratch folder is its /tmp; elsewhere TMPDIR names the scratch folder, and /tmp is
the machine's.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol

# Everything that the process needs is bound below its /tmp first: it may itself be below the machine's /tmp.
_ENTER = """
set -e
scratch=$1
shift
while [ "$1" != -- ]; do
  mkdir -p "$scratch/$1"
  mount --bind "$2" "$scratch/$1"
  shift 2
done
shift
mount --rbind "$scratch" /tmp
cd /tmp/.task
exec "$@"
"""
_TMP = Path("/tmp")  # noqa: S108 - the sandbox's own


class _Function(Protocol):
    @property
    def task_folder(self) -> Path: ...
    @property
    def python(self) -> Path: ...
    @property
    def runtime(self) -> Path | None: ...


@dataclass(frozen=True)
class Place:
    """Paths as the process sees them, and the command that it is started through."""

    enter: list[str]
    scratch: Path
    task: Path
    python: Path
    runtime: Path | None


def shared(function: _Function, scratch: Path) -> Place:
    """The machine's own file system."""
    return Place([], scratch, function.task_folder, function.python, function.runtime)


def isolated(function: _Function, scratch: Path) -> Place | None:
    """A file system in which `scratch` is /tmp; None if that is not possible."""
    unshare = _unshare()
    if unshare is None:
        return None
    bound = {".task": function.task_folder, ".python": function.python}
    if function.runtime is not None:
        bound[".runtime"] = function.runtime
    pairs = [part for name, folder in bound.items() for part in (name, str(folder))]
    return Place(
        [*unshare, "sh", "-c", _ENTER, "sh", str(scratch), *pairs, "--"],
        _TMP,
        _TMP / ".task",
        _TMP / ".python",
        None if function.runtime is None else _TMP / ".runtime",
    )


@cache
def _unshare() -> list[str] | None:
    """The command that makes a mount namespace, tried once."""
    tool = shutil.which("unshare")
    if tool is None:
        return None
    command = [tool, "--mount"] + ([] if os.geteuid() == 0 else ["--map-root-user"])
    probe = [*command, "sh", "-c", "mount --bind /usr /tmp"]
    completed = subprocess.run(probe, capture_output=True, timeout=10)
    return command if completed.returncode == 0 else None
