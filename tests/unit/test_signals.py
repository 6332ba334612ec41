"""What tests of Ctrl-C rest on."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from cosmicai.packaging.places import ROOT

_PARENT = """
import os, signal, subprocess, sys
from tests.signals import let_children_hear_ctrl_c
let_children_hear_ctrl_c()
os.kill(os.getpid(), signal.SIGINT)
child = subprocess.run([sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGINT)"])
print("still here:", child.returncode)
"""


@pytest.mark.parametrize(
    ("shell", "output"),
    [("trap '' INT; exec \"$@\"", f"still here: {-signal.SIGINT}\n"), ('exec "$@"', "")],
    ids=["in the background", "in the foreground"],
)
def test_children_end_on_ctrl_c_and_tests_as_they_were_started(shell: str, output: str) -> None:
    """A test of Ctrl-C fails where its program ignores SIGINT because the shell that ran the tests does."""
    command = ["sh", "-c", shell, "sh", sys.executable, "-c", _PARENT]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert process.stdout == output
