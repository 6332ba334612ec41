"""A rendezvous host as a process, for tests."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from cosmicai.packaging import FUNCTIONS

SERVER = FUNCTIONS / "rendezvous" / "server.py"


class Host:
    """functions/rendezvous/server.py on a port of loopback."""

    def __init__(self, port: int = 0, *options: str) -> None:
        command = [sys.executable, str(SERVER), "--host", "127.0.0.1", "--port", str(port), *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.port = int(json.loads(self.process.stdout.readline())["port"])

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def health(self) -> dict[str, Any]:
        with socket.create_connection(("127.0.0.1", self.port), 5) as connection:
            connection.sendall(b"\x01")
            with connection.makefile() as lines:
                found: dict[str, Any] = json.loads(lines.readline())
        return found

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), 5)

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.ended()

    def ended(self, seconds: float = 10.0) -> int:
        with self.process:  # closes its output too
            return self.process.wait(seconds)

    def memory_kib(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))
