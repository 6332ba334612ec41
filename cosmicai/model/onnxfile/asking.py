"""The process that reads a user's ONNX file: one that crashes it, or needs too much, is refused.

It is not a sandbox: it has the rights of the user, but none of the credentials in the environment.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from cosmicai.model.onnxfile import child
from cosmicai.model.onnxfile.choosing import Asked
from cosmicai.model.onnxfile.reading import OnnxFileError
from cosmicai.printable import printable

_WALL_SECONDS = 2 * child.MOST_SECONDS
_KEPT = (
    "PATH",
    "PYTHONPATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "TMPDIR",
    "LD_LIBRARY_PATH",
)  # no credentials among them


def examined(file: Path, folder: Path, asked: Asked) -> dict[str, Any]:
    """What child.py states about the file; it writes the graph to the folder. Raises OnnxFileError."""
    request = {"file": str(file.absolute()), "folder": str(folder.absolute()), "asked": asked.to_json()}
    environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
    environment |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # threads of numpy reserve memory
    try:
        process = subprocess.run(
            [sys.executable, "-m", child.__name__],
            input=json.dumps(request).encode(),
            capture_output=True,
            env=environment,
            timeout=_WALL_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise OnnxFileError(_too_long()) from error
    if process.returncode == 0:
        answer = json.loads(process.stdout)
        if "refused" in answer:
            raise OnnxFileError(answer["refused"])
        return dict(answer["facts"])
    if process.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        raise OnnxFileError(_too_long())
    last = (process.stderr.decode(errors="replace").strip().splitlines() or ["no message"])[-1]
    ending = f"signal {-process.returncode}" if process.returncode < 0 else f"status {process.returncode}"
    raise OnnxFileError(f"the process that reads it ended with {ending}: {printable(last, 300)}")


def _too_long() -> str:
    return (
        f"reading it and running a few objects took more than {child.MOST_SECONDS} s of CPU time, or more than "
        f"{child.MOST_MEMORY >> 30} GB of memory"
    )
