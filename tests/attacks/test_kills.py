"""A rank that is killed at any moment costs the others an error in time, never a wrong value or a hang."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from cosmicai.packaging.places import FUNCTIONS
from tests.unit.rendezvous import Host

KILLS = 20


def test_random_kills(host: Host) -> None:
    command = [
        sys.executable,
        str(Path(__file__).with_name("random_kills.py")),
        str(host.port),
        str(KILLS),
        "1",
    ]
    environment = {**os.environ, "PYTHONPATH": str(FUNCTIONS / "inference")}
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600, check=True)
    assert json.loads(ended.stdout) == {"an error in time": 3 * KILLS}
