"""How messages write a command of `cosmicai`, so that it works when it is copied. Standard library only."""

from __future__ import annotations

import shlex
from pathlib import Path


def command(*words: str | Path) -> str:
    """`cosmicai` with these words, quoted for a shell, in backticks."""
    return f"`{shlex.join(['cosmicai', *map(str, words)])}`"
