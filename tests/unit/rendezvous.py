"""A rendezvous host as a process, for tests."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from cosmicai.packaging.places import FUNCTIONS

SERVER = FUNCTIONS / "rendezvous" / "server.py"


class Host:
    """functions/rendezvous/server.py on a port of loopback, with a relay key of its own.

    python: the interpreter that runs it.
    """

    def __init__(self, port: int = 0, *options: str, python: str = sys.executable) -> None:
        self.key = os.urandom(32)
        theirs, ours = os.pipe()
        os.write(ours, self.key)
        os.close(ours)
        command = [python, str(SERVER), "--host", "127.0.0.1", "--port", str(port)]
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        self.errors = ""  # what it wrote to stderr, once it has ended
        self.process = subprocess.Popen(
            [*command, "--relay-key-file", f"/dev/fd/{theirs}", *options],
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            pass_fds=(theirs,),
        )
        os.close(theirs)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        while "port" not in (announced := json.loads(line)):  # it may first say that it relays for nobody
            line = self.process.stdout.readline()
        self.port = int(announced["port"])

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def relay_key(self) -> bytes:
        """What a rank reads when it needs a relay."""
        return self.key

    def health(self) -> dict[str, Any]:
        with socket.create_connection(("127.0.0.1", self.port), 5) as connection:
            connection.sendall(b"\x01")
            with connection.makefile() as lines:
                counters: dict[str, Any] = json.loads(lines.readline())
        return counters

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), 5)

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.ended()

    def ended(self, seconds: float = 60.0) -> int:
        """Its exit status; afterwards `errors` holds what it wrote to stderr."""
        with self.process:  # closes its output too
            status = self.process.wait(seconds)
        with self._errors as file:
            file.seek(0)
            self.errors = file.read().decode()
        return status

    def memory_kib(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))

    def queued_bytes(self) -> int:
        """That the kernel holds for its sockets, received and to be sent."""
        total = 0
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            _, local, _, _, queues, *_ = line.split()
            if int(local.rpartition(":")[2], 16) == self.port:
                sending, receiving = queues.split(":")
                total += int(sending, 16) + int(receiving, 16)
        return total


def interpreter(version: str) -> str | None:
    """A Python of that version on this machine: on the path, or one that pyenv has."""
    places = [*Path("~/.pyenv/versions").expanduser().glob(f"{version}.*/bin")]
    for command in (f"python{version}", *(str(place / "python") for place in places)):
        with suppress(OSError):
            asked = [command, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
            process = subprocess.run(asked, capture_output=True, text=True, check=False)
            if process.stdout.strip() == version:
                return command
    return None
