"""Starting and stopping LocalStack with a port, a state folder and processes of its own."""

from __future__ import annotations

import http.client
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from cosmicai.emulator.environment import credentials, direct, of_the_machine, session
from cosmicai.emulator.guard import guard_command
from cosmicai.emulator.settings import Settings
from cosmicai.packaging.places import FUNCTIONS, BuildFolder
from summarize.contract.dispatch import EXPRESS_SECONDS

SERVICES = (
    "cloudwatch",
    "ec2",
    "events",
    "iam",
    "kms",
    "lambda",
    "logs",
    "s3",
    "sns",
    "sqs",
    "ssm",
    "stepfunctions",
    "sts",
)
START_SECONDS = 90
_RELAY_KEY = ".cosmicai/relay-key"  # where functions/inference/metrics/collectives.py looks for it
_LOOPBACK = ("127.0.0.1", "::1")
_PORTS = range(15_000, 32_768)  # below those that Linux, macOS and Windows give to outgoing connections
_LOG_TAIL = 30  # lines shown when it cannot start


class EmulatorError(RuntimeError):
    """The embedded AWS could not be started; the message holds the end of its log."""


class Emulator:
    """A LocalStack that lives as long as this object: `with Emulator(build) as aws: … aws.environment …`.

    `concurrency` is the number of Lambda invocations that run at once (further ones wait); by default one per
    core. `express_seconds` is the time limit of Express executions. `rendezvous` is the address of a rendezvous
    host, functions/rendezvous/server.py as a process. Nothing is shared with any other LocalStack on the
    machine, and nothing is left when this process ends, in whatever way.
    """

    def __init__(
        self, build: BuildFolder, concurrency: int | None = None, express_seconds: int = EXPRESS_SECONDS
    ) -> None:
        self.build = build
        self._express_seconds = express_seconds
        self.concurrency = concurrency or os.cpu_count() or 1
        self._guards: list[subprocess.Popen[bytes]] = []
        self._relay_key = os.urandom(32)
        self.endpoint = ""
        self.rendezvous = ""
        self.folder = Path()

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs in its environment to talk to this AWS and to no other."""
        return credentials(self.endpoint)

    def client(self, service: str, **config: Any) -> Any:
        """A boto3 client of this AWS; config: of botocore's Config."""
        return session().client(service, endpoint_url=self.endpoint, config=direct(**config))

    @property
    def alive(self) -> bool:
        """Whether all its processes run; one that has ended does not come back."""
        return bool(self._guards) and all(guard.poll() is None for guard in self._guards)

    @property
    def listening(self) -> set[tuple[str, int]]:
        """Addresses and ports on which its processes, sandboxes included, listen."""
        processes = [p for guard in self._guards for p in psutil.Process(guard.pid).children(recursive=True)]
        return {address for process in processes for address in _listening(process)}

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="cosmicai-aws-"))
        port = free_port()
        self.endpoint = f"http://127.0.0.1:{port}"
        self._log = (self.folder / "localstack.log").open("w+b")
        environment = self._localstack_environment(port)
        guard = self._guarded(self.folder, ["-m", "cosmicai.emulator.runtime"], environment)
        try:
            self._start_rendezvous()
            self._wait_until_healthy(guard)
        except BaseException:
            self.stop()
            raise

    def _guarded(
        self, folder: Path, command: list[str], environment: dict[str, str]
    ) -> subprocess.Popen[bytes]:
        """A Python command that ends, with its folder, when this process does."""
        guard = subprocess.Popen(
            guard_command(folder, [sys.executable, *command]),
            env=environment,
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is ours to handle
        )
        self._guards.append(guard)
        return guard

    def _start_rendezvous(self) -> None:
        folder, port = self.folder / "rendezvous", free_port()
        folder.mkdir(mode=0o700)
        self.rendezvous = f"127.0.0.1:{port}"
        key = folder / "relay-key"
        key.write_bytes(self._relay_key)
        command = [str(FUNCTIONS / "rendezvous" / "server.py"), "--host", "127.0.0.1", "--port", str(port)]
        self._guarded(folder, [*command, "--relay-key-file", str(key)], of_the_machine(os.environ))

    def publish_relay_key(self, bucket: str) -> None:
        """What the rendezvous host of a deployment on AWS does when it starts: its ranks may relay."""
        self.client("s3").put_object(Bucket=bucket, Key=_RELAY_KEY, Body=self._relay_key)

    def stop(self) -> None:
        """Ends every process of the emulator and removes its folder; safe to call twice."""
        for guard in reversed(self._guards):
            with suppress(BrokenPipeError):
                guard.communicate()  # closes the pipe, which is what the guard waits for
        if self._guards:
            self._guards.clear()
            self._log.close()

    def _localstack_environment(self, port: int) -> dict[str, str]:
        settings = Settings(
            python=self.build.python,
            runtime=self.build.runtime,
            images=self.build.images,
            sandboxes=self.folder / "sandboxes",
            concurrency=self.concurrency,
            express_seconds=self._express_seconds,
        )
        scratch, home = self.folder / "tmp", self.folder / "home"
        scratch.mkdir()
        home.mkdir()
        return {
            **of_the_machine(os.environ),
            **settings.to_environment(),
            "GATEWAY_LISTEN": f"127.0.0.1:{port}",
            "SERVICES": ",".join(SERVICES),
            "LAMBDA_RUNTIME_EXECUTOR": "cosmicai",
            "FILESYSTEM_ROOT": str(self.folder / "localstack"),
            "TMPDIR": str(scratch),
            "HOME": str(home),  # the user's own may hold ~/.localstack and ~/.aws
            "DNS_ADDRESS": "0",
            "SKIP_SSL_CERT_DOWNLOAD": "1",
            "DISABLE_EVENTS": "1",
            "EAGER_SERVICE_LOADING": "0",
        }

    def _wait_until_healthy(self, guard: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if guard.poll() is not None:
                raise EmulatorError(f"the embedded AWS ended while starting:\n{self._log_tail()}")
            if is_healthy(self.endpoint):
                return self._check_listening()
            time.sleep(0.1)
        raise EmulatorError(f"the embedded AWS was not up after {START_SECONDS} s:\n{self._log_tail()}")

    def _check_listening(self) -> None:
        """Raises EmulatorError if another process has taken the port, or other machines can reach a socket."""
        expected = ("127.0.0.1", int(self.endpoint.rpartition(":")[2]))
        beyond = [f"{host}:{port}" for host, port in self.listening if host not in _LOOPBACK]
        if beyond:
            raise EmulatorError(f"the embedded AWS listens on {', '.join(beyond)}, which others can reach")
        if expected not in self.listening:
            raise EmulatorError(f"another process has taken {self.endpoint}: start the embedded AWS again")

    def _log_tail(self) -> str:
        """Read through our own descriptor: the guard has removed the file when LocalStack has ended."""
        text = os.pread(self._log.fileno(), os.fstat(self._log.fileno()).st_size, 0)
        return "\n".join(text.decode(errors="replace").splitlines()[-_LOG_TAIL:]) or "(it left no log)"


def is_healthy(endpoint: str, seconds: float = 2) -> bool:
    """Whether a LocalStack answers there; False if nothing listens, or no answer comes in time."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{endpoint}/_localstack/health", timeout=seconds) as reply:
            return "services" in json.load(reply)
    except (OSError, http.client.HTTPException, ValueError):
        return False


def _listening(process: psutil.Process) -> set[tuple[str, int]]:
    with suppress(psutil.NoSuchProcess):
        connections = process.net_connections("tcp")
        return {(c.laddr.ip, c.laddr.port) for c in connections if c.status == psutil.CONN_LISTEN}
    return set()


def free_port() -> int:
    """A free port on loopback, outside the range from which outgoing connections get theirs."""
    for port in random.SystemRandom().sample(_PORTS, 100):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise EmulatorError(f"100 ports tried from {_PORTS[0]} to {_PORTS[-1]} are all in use: end what uses them")
