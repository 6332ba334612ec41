"""Starting and stopping LocalStack with a port, a state folder and processes of its own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import boto3
from botocore.config import Config

from cosmicai.emulator.settings import Settings
from cosmicai.packaging import FUNCTIONS, BuildFolder

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
REGION = "us-east-1"
START_SECONDS = 90
_LOG_TAIL = 30  # lines shown when it cannot start


class EmulatorError(RuntimeError):
    """The embedded AWS could not be started; the message holds the end of its log."""


class Emulator:
    """A LocalStack that lives as long as this object: `with Emulator(build) as aws: … aws.environment …`.

    `concurrency` is the number of Lambda invocations that run at once (further ones wait); by default one per
    core. `rendezvous` is the address of a rendezvous host, functions/rendezvous/server.py as a process. Nothing
    is shared with any other LocalStack on the machine, and nothing is left when this process ends, in whatever
    way.
    """

    def __init__(self, build: BuildFolder, concurrency: int | None = None) -> None:
        self.build = build
        self.concurrency = concurrency or os.cpu_count() or 1
        self._guards: list[subprocess.Popen[bytes]] = []
        self.endpoint = ""
        self.rendezvous = ""
        self.folder = Path()

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs in its environment to talk to this AWS and to no other."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def client(self, service: str, **config: Any) -> Any:
        """A boto3 client of this AWS; config: of botocore's Config."""
        return boto3.client(
            service,
            endpoint_url=self.endpoint,
            region_name=REGION,
            aws_access_key_id="test",
            aws_secret_access_key="test",  # noqa: S106 - the emulator takes any
            config=Config(s3={"addressing_style": "path"}, **config),
        )

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="cosmicai-aws-"))
        port = _free_port()
        self.endpoint = f"http://127.0.0.1:{port}"
        self._log = (self.folder / "localstack.log").open("w+b")
        environment = self._localstack_environment(port)
        guard = self._guarded(self.folder, ["-m", "localstack.runtime.main"], environment)
        try:
            self._start_rendezvous()
            self._wait_until_healthy(guard)
        except BaseException:
            self.stop()
            raise

    def _guarded(
        self, folder: Path, command: list[str], environment: dict[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """A Python command that ends, with its folder, when this process does."""
        guard = subprocess.Popen(
            [sys.executable, "-m", "cosmicai.emulator.guard", str(folder), sys.executable, *command],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is ours to handle
        )
        self._guards.append(guard)
        return guard

    def _start_rendezvous(self) -> None:
        folder, port = self.folder / "rendezvous", _free_port()
        folder.mkdir()
        self.rendezvous = f"127.0.0.1:{port}"
        server = str(FUNCTIONS / "rendezvous" / "server.py")
        self._guarded(folder, [server, "--host", "127.0.0.1", "--port", str(port)])

    def stop(self) -> None:
        """Ends every process of the emulator and removes its folder; safe to call twice."""
        for guard in reversed(self._guards):
            with suppress(BrokenPipeError):
                guard.communicate()  # closes the pipe, which is what the guard waits for
        if self._guards:
            self._guards.clear()
            self._log.close()

    def _localstack_environment(self, port: int) -> dict[str, str]:
        inherited = {
            k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "LOCALSTACK_", "LAMBDA_"))
        }
        settings = Settings(
            python=self.build.python,
            runtime=self.build.runtime,
            images=self.build.images,
            sandboxes=self.folder / "sandboxes",
            concurrency=self.concurrency,
        )
        scratch = self.folder / "tmp"
        scratch.mkdir()
        return {
            **inherited,
            **settings.to_environment(),
            "GATEWAY_LISTEN": f"127.0.0.1:{port}",
            "SERVICES": ",".join(SERVICES),
            "LAMBDA_RUNTIME_EXECUTOR": "cosmicai",
            "FILESYSTEM_ROOT": str(self.folder / "localstack"),
            "TMPDIR": str(scratch),
            "DNS_ADDRESS": "0",
            "SKIP_SSL_CERT_DOWNLOAD": "1",
            "DISABLE_EVENTS": "1",
            "EAGER_SERVICE_LOADING": "0",
            "NO_PROXY": "127.0.0.1,localhost",
        }

    def _wait_until_healthy(self, guard: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if guard.poll() is not None:
                raise EmulatorError(f"the embedded AWS ended while starting:\n{self._log_tail()}")
            if self._healthy():
                return
            time.sleep(0.1)
        raise EmulatorError(f"the embedded AWS was not up after {START_SECONDS} s:\n{self._log_tail()}")

    def _healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.endpoint}/_localstack/health", timeout=2) as reply:  # noqa: S310
                return "services" in json.load(reply)
        except (urllib.error.URLError, ConnectionError, TimeoutError, ValueError):
            return False

    def _log_tail(self) -> str:
        """Read through our own descriptor: the guard has removed the file when LocalStack has ended."""
        text = os.pread(self._log.fileno(), os.fstat(self._log.fileno()).st_size, 0)
        return "\n".join(text.decode(errors="replace").splitlines()[-_LOG_TAIL:]) or "(it left no log)"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
