"""A user's script cannot read the memory of the rank that started it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from cosmicai.packaging.places import FUNCTIONS

_RANK = """
import ctypes, os, sys
from inference import script
if os.geteuid() == 0:  # root may read anything
    os.setgid(65534)
    os.setuid(65534)
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # changing the user has shielded it
if sys.argv[1] == "shielded":
    script.shield()
if os.fork():
    os.wait()
else:
    try:
        open(f"/proc/{os.getppid()}/environ", "rb").read()
        print("could read it", flush=True)
    except OSError as error:
        print(error, flush=True)
    os._exit(0)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
@pytest.mark.parametrize("kind", ["shielded", "open"])
def test_a_script_cannot_open_the_memory_of_its_rank(kind: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(FUNCTIONS)}
    command = [sys.executable, "-c", _RANK, kind]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    expected = "[Errno 13] Permission denied: '/proc/" if kind == "shielded" else "could read it"
    assert expected in process.stdout
