"""AWS as moto_server answers for it, in an environment and a process of its own.

Others wrote it, and it refuses much of what AWS refuses: deleting a bucket that holds objects or a repository
that holds images, an image that is not in its repository, actions that a policy does not allow.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError

import boto3
from filelock import FileLock

from cosmicai.emulator.environment import without_account
from cosmicai.emulator.localstack import free_port
from cosmicai.packaging.places import ROOT

_FOLDER = ROOT / ".cosmicai" / "moto"
_REQUIREMENTS = Path(__file__).with_name("requirements.txt")
_START_SECONDS = 300  # on a busy machine
ACCOUNT, DEPLOYER = "123456789012", "deployer"


@dataclass(frozen=True)
class Replica:
    """A running moto_server."""

    endpoint: str
    environment: dict[str, str]
    """What a program needs to reach it, and this process' own variables without its account."""
    recording: Path
    """All requests, as moto's recorder writes them."""

    def client(self, service: str) -> Any:
        """For the test itself, whose requests have another key."""
        keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
        return boto3.client(service, region_name="us-east-1", endpoint_url=self.endpoint, **keys)


@contextmanager
def replica(log: Path, **builds: str) -> Iterator[Replica]:
    """An account without anything in it. log: the server's own. builds: variables of CodeBuild's machines."""
    port = free_port()
    endpoint = f"http://127.0.0.1:{port}"
    # Whether an image function's image exists is looked up.
    recording = log.with_name("recording")
    settings = {
        **os.environ, "MOTO_LAMBDA_STUB_ECR": "FALSE", "MOTO_ACCOUNT_ID": ACCOUNT,
        "MOTO_ENABLE_RECORDING": "1", "MOTO_RECORDER_FILEPATH": str(recording),
        "REPLICA_ENDPOINT": endpoint, "REPLICA_BUILDS": json.dumps(builds),
    }  # fmt: skip
    command = [str(environment()), str(Path(__file__).with_name("server.py")), "-p", str(port)]
    with log.open("wb") as output:
        server = subprocess.Popen(command, env=settings, stdout=output, stderr=subprocess.STDOUT)
    try:
        _await(endpoint, server, log)
        own = {
            "AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": DEPLOYER, "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_EC2_METADATA_DISABLED": "true", "CHECKPOINT_DISABLE": "1",
        }  # fmt: skip
        yield Replica(endpoint, {**without_account(os.environ), **own}, recording)
    finally:
        server.terminate()
        server.wait()


def environment() -> Path:
    """The interpreter of the server's environment, which is installed first where it is missing."""
    python, marker = _FOLDER / "bin" / "python", _FOLDER / ".installed"
    expected = sys.version + _REQUIREMENTS.read_text()
    _FOLDER.parent.mkdir(exist_ok=True)
    with FileLock(_FOLDER.with_suffix(".lock")):
        if not marker.exists() or marker.read_text() != expected:
            venv.create(_FOLDER, with_pip=True, clear=True)
            pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            subprocess.run([*pip, "--requirement", str(_REQUIREMENTS)], check=True)
            marker.write_text(expected)
    return python


def _await(endpoint: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            with urllib.request.urlopen(f"{endpoint}/moto-api/data.json") as answer:  # noqa: S310
                json.load(answer)
            return
        except URLError:
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
