"""Partition files of torch before 1.6, which only torch itself can read: in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from .partition import PartitionError
from .torchfile import Buffer, Source

_TIMEOUT = 300  # seconds
_CONVERT = """
import sys, torch
from torch.utils.data import TensorDataset
torch.serialization.add_safe_globals([TensorDataset])
torch.save(torch.load(sys.argv[1], weights_only=True), sys.argv[2])
"""


def converted(source: Source, name: str, scratch: Path) -> Source:
    """The same objects in today's format, in memory. Raises PartitionError, also where torch is missing."""
    if find_spec("torch") is None:
        raise PartitionError(
            f"{name}: was written by torch before 1.6; save it again with a newer one, or deploy the image "
            "variant `torch`"
        )
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        before, after = Path(folder, "before.pt"), Path(folder, "after.pt")
        before.write_bytes(source.read(0, source.size))
        # Unpickled by torch with weights_only: no code of the file runs.
        command = [sys.executable, "-c", _CONVERT, str(before), str(after)]
        path = os.pathsep.join(sys.path)
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT, env={**os.environ, "PYTHONPATH": path}
        )
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise PartitionError(f"{name}: torch cannot read this file of before 1.6: {reason}")
        return Buffer(after.read_bytes())
