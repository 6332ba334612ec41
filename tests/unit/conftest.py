"""For the tests of fmi: a rendezvous host, Redis and S3, through which ranks meet. For others: moto's S3, and
valid inputs of every command."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pytest
import torch
from moto import mock_aws
from torch.utils.data import TensorDataset

from cosmicai.emulator import Emulator
from cosmicai.emulator.localstack import free_port
from cosmicai.packaging.places import FUNCTIONS, BuildFolder
from inference.contract.s3_rest.choice import new_client
from inference.contract.s3_rest.client import S3
from inference.engine import astromae
from tests.small_network import SMALL

sys.path.append(str(FUNCTIONS / "inference"))
import fmi

from .rendezvous import Host

Open = Callable[[int], list[fmi.Channel]]


@pytest.fixture
def quiet_libraries() -> Iterator[None]:
    """What libraries warn of in their own code is not ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


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
    """boto3's client."""
    return s3_cloud.client("s3", max_pool_connections=20)


@pytest.fixture(scope="module")
def s3_of_ranks(s3_cloud: Emulator) -> Iterator[S3]:
    """The client that ranks have on Lambda."""
    client: S3 = new_client(s3_cloud.environment)
    yield client
    client.close()


@pytest.fixture(params=["memory", "direct", "direct, as FMI's own", "Redis", "S3"])
def channels(request: pytest.FixtureRequest, host: Host) -> Open:
    """Channels of all ranks of a new group."""
    store = {"Redis": "redis_client", "S3": "s3_of_ranks"}.get(request.param)
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


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Valid inputs of every command."""
    folder = tmp_path_factory.mktemp("valid")
    rng = np.random.default_rng(0)
    images, magnitudes = rng.normal(0, 0.1, (40, 5, 32, 32)), rng.normal(23, 1, (40, 5))
    arrays = [one.astype(np.float32) for one in (images, magnitudes, rng.uniform(0.1, 2, 40))]
    (folder / "in").mkdir()
    torch.save(TensorDataset(*map(torch.from_numpy, arrays)), folder / "in" / "1.pt")
    np.savez(folder / "source.npz", images=arrays[0], magnitudes=arrays[1], redshift=arrays[2])
    torch.manual_seed(0)
    astromae.save(astromae.AstroMAE(SMALL).eval(), folder / "model")
    (folder / "model" / "card.json").write_text("{}")
    shutil.copy(folder / "model" / "config.json", folder / "config.json")
    torch.save({"nothing": torch.zeros(3)}, folder / "checkpoint.pt")
    (folder / "payload.json").write_text(json.dumps({"data_prefix": "d", "result_path": "r"}))
    (folder / "results").mkdir()
    (folder / "empty").mkdir()
    return folder


@pytest.fixture
def place(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of them as the working folder, where no embedded AWS runs."""
    folder = tmp_path / "place"
    shutil.copytree(template, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COSMICAI_LOCAL", str(tmp_path / "no-local"))
    return folder
