"""For the tests of fmi: a rendezvous host, Redis and S3, through which ranks meet. For others: moto's S3."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import boto3
import pytest
from moto import mock_aws

from cosmicai.emulator import Emulator
from cosmicai.emulator.localstack import free_port
from cosmicai.packaging.places import FUNCTIONS, BuildFolder

sys.path.append(str(FUNCTIONS / "inference"))
import fmi

from .rendezvous import Host

Open = Callable[[int], list[fmi.Channel]]


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    host = Host()
    yield host
    host.stop()


@pytest.fixture(scope="module")
def redis_port() -> Iterator[int]:
    """Of a real redis-server on loopback."""
    server = shutil.which("redis-server")
    if server is None:
        pytest.skip("redis-server is not installed")
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder]
        with subprocess.Popen([server, *options], stdout=subprocess.DEVNULL) as process:
            deadline = time.monotonic() + 10
            while True:
                with suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
                    break
                assert time.monotonic() < deadline
                time.sleep(0.01)
            yield port
            process.terminate()


@pytest.fixture(scope="module")
def redis_client(redis_port: int) -> Iterator[Any]:
    import redis

    with redis.Redis("127.0.0.1", redis_port) as client:
        yield client


@pytest.fixture(scope="module")
def s3_cloud(build: BuildFolder) -> Iterator[Emulator]:
    """An embedded AWS with a bucket named fmi."""
    with Emulator(build) as aws:
        aws.client("s3").create_bucket(Bucket="fmi")
        yield aws


@pytest.fixture(scope="module")
def s3_client(s3_cloud: Emulator) -> Any:
    return s3_cloud.client("s3", max_pool_connections=20)


@pytest.fixture(params=["memory", "direct", "direct, as FMI's own", "Redis", "S3"])
def channels(request: pytest.FixtureRequest, host: Host) -> Open:
    """Channels of all ranks of a new group."""
    store = {"Redis": "redis_client", "S3": "s3_client"}.get(request.param)
    client: Any = request.getfixturevalue(store) if store else None

    def make(size: int) -> list[fmi.Channel]:
        name, ranks = f"run-{os.urandom(4).hex()}-", range(size)
        match request.param:
            case "memory":
                memory = fmi.Memory(size)
                return [memory.channel(rank) for rank in ranks]
            case "Redis":
                return [fmi.Redis(rank, size, name, client) for rank in ranks]
            case "S3":
                return [fmi.S3(rank, size, name, client, "fmi") for rank in ranks]
        secret = b"of this run" if request.param == "direct" else None
        return [fmi.Direct(rank, size, name, "127.0.0.1", host.port, secret) for rank in ranks]

    return make


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client of moto's S3, in this process, with an empty bucket team3-cosmicai."""
    for name in ("AWS_ENDPOINT_URL", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    with mock_aws():
        client = boto3.client("s3", "us-east-1", aws_access_key_id="a", aws_secret_access_key="b")  # noqa: S106
        client.create_bucket(Bucket="team3-cosmicai")
        yield client
