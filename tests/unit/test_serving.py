"""The image answers SageMaker Batch Transform by HTTP, with the redshifts that `cosmicai infer` gives."""

from __future__ import annotations

import csv
import http.client
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from cosmicai.data import dc2, objects
from cosmicai.emulator.localstack import free_port
from cosmicai.packaging.places import BuildFolder
from inference.body import BodyError, read_body
from inference.engine.loading import BUNDLED_MODEL
from tests.conftest import CACHE

Save = Callable[[object], bytes]
_START_SECONDS = 60


def _command(build: BuildFolder) -> list[str]:
    """The image's ENTRYPOINT with what SageMaker adds, except for the address."""
    return [str(build.python / "bin" / "python"), "-m", "inference", "serve", "127.0.0.1"]


@contextmanager
def _served(build: BuildFolder, **variables: str) -> Iterator[int]:
    """The port of a container's process, which ends at SIGTERM."""
    port = free_port()
    environment = {"PATH": os.environ["PATH"], "SAGEMAKER_BIND_TO_PORT": str(port), **variables}
    process = subprocess.Popen(
        _command(build), cwd=build.image("lean"), env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        deadline = time.monotonic() + _START_SECONDS
        while True:
            with suppress(ConnectionRefusedError):
                if _ask(port, "GET", "/ping")[0] == 200:
                    break
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield port
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
    assert process.returncode == 0


def _ask(port: int, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, str | None, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, body, named, encode_chunked="Transfer-Encoding" in named)
    answer = connection.getresponse()
    reply = answer.status, answer.getheader("Content-Type"), answer.read()
    connection.close()
    return reply


@pytest.fixture(scope="module")
def port(build: BuildFolder) -> Iterator[int]:
    with _served(build, SAGEMAKER_MAX_PAYLOAD_IN_MB="6") as port:
        yield port


@pytest.fixture(scope="module")
def partition(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rendered galaxies of a real catalogue, with identifiers that no float holds."""
    path = tmp_path_factory.mktemp("partition") / "1.pt"
    galaxies = torch.load(dc2.partitions("validation", 120, 1, CACHE, seed=3) / "1.pt", weights_only=False)
    body = io.BytesIO()
    torch.save(galaxies, body)
    objects.append(body, {"id": np.arange(len(galaxies))[::-1] + 2**62 + 1})
    path.write_bytes(body.getvalue())
    return path


@pytest.fixture(scope="module")
def expected(partition: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `cosmicai infer` writes for it."""
    out = tmp_path_factory.mktemp("infer") / "out"
    command = [str(Path(sys.executable).with_name("cosmicai")), "infer", str(partition), "--out", str(out)]
    subprocess.run(command, check=True, capture_output=True)
    with np.load(out / "predictions" / "0.npz") as arrays:
        return dict(arrays)


def test_csv_and_json_lines_hold_what_infer_writes(
    port: int, partition: Path, expected: dict[str, Any]
) -> None:
    body = partition.read_bytes()
    status, kind, answer = _ask(port, "POST", "/invocations", body, Accept="text/csv")
    assert (status, kind) == (200, "text/csv"), answer
    rows = list(csv.DictReader(io.StringIO(answer.decode())))
    assert list(rows[0]) == ["id", "z_pred", "flags"]
    assert [np.float32(row["z_pred"]) for row in rows] == expected["z_pred"].tolist()
    assert [row["id"] for row in rows] == [str(one) for one in expected["id"].tolist()]
    assert [int(row["flags"]) for row in rows] == expected["flags"].tolist()
    accept = "text/html, application/jsonlines;q=0.9, text/csv;q=0.5"
    status, kind, answer = _ask(port, "POST", "/invocations", body, Accept=accept)
    assert (status, kind) == (200, "application/jsonlines")
    galaxies = [json.loads(line) for line in answer.splitlines()]
    assert [one["id"] for one in galaxies] == expected["id"].tolist()
    assert [np.float32(one["z_pred"]) for one in galaxies] == expected["z_pred"].tolist()


def test_a_body_in_chunks_is_the_same(port: int, partition: Path) -> None:
    body = partition.read_bytes()
    chunks = [body[start : start + 100_000] for start in range(0, len(body), 100_000)]
    whole = _ask(port, "POST", "/invocations", body)
    assert whole[:2] == (200, "text/csv")
    assert _ask(port, "POST", "/invocations", iter(chunks), Transfer_Encoding="chunked") == whole


def test_batch_transform_learns_what_to_send(port: int) -> None:
    status, kind, answer = _ask(port, "GET", "/execution-parameters")
    assert (status, kind) == (200, "application/json")
    settings = {"MaxConcurrentTransforms": 1, "BatchStrategy": "SINGLE_RECORD", "MaxPayloadInMB": 6}
    assert json.loads(answer) == settings


def test_galaxies_without_identifiers_are_numbered_and_bad_ones_have_no_redshift(
    build: BuildFolder, saved: Save, make_partition: Callable[..., TensorDataset]
) -> None:
    images, magnitudes, _ = make_partition(40).tensors
    images[7], magnitudes[7] = torch.nan, torch.nan
    body = saved(TensorDataset(images, magnitudes))
    with _served(build) as port:
        lines = _ask(port, "POST", "/invocations", body, Accept="application/x-ndjson")[2].splitlines()
        rows = list(csv.reader(io.StringIO(_ask(port, "POST", "/invocations", body)[2].decode())))[1:]
    galaxies = [json.loads(line) for line in lines]
    assert [one["id"] for one in galaxies] == list(range(40))
    assert [one["id"] for one in galaxies if one["z_pred"] is None] == [7]
    assert galaxies[7]["flags"] & 8
    assert [row[0] for row in rows if row[1] == ""] == ["7"]


def test_what_cannot_be_answered_is_refused_with_a_sentence(port: int, partition: Path) -> None:
    body = partition.read_bytes()
    asked: list[tuple[int, str, tuple[Any, ...], dict[str, str]]] = [
        (400, "the request's body: is cut short or not a .pt file", ("POST", "/invocations", b"junk"), {}),
        (400, "the request's body: is cut short", ("POST", "/invocations", body[: len(body) // 2]), {}),
        (400, "the request's body: is cut short", ("POST", "/invocations", b""), {}),
        (404, "send the partition file to /invocations", ("POST", "/predict", body), {}),
        (404, "the paths are /ping", ("GET", "/"), {}),
        (405, "send the partition file by POST", ("GET", "/invocations"), {}),
        (406, "ask for text/csv, application/jsonlines", ("POST", "/invocations", body), {"Accept": "image/*"}),
        (411, "has no Content-Length", ("POST", "/invocations"), {"Content-Length": ""}),
        (413, "the body has more than 6 MB", ("POST", "/invocations", b"0" * (6 << 20) + b"0"), {}),
    ]
    for status, sentence, request, headers in asked:
        if headers == {"Content-Length": ""}:
            reply = _raw(port, b"POST /invocations HTTP/1.1\r\nHost: x\r\n\r\n")
        else:
            answer = _ask(port, *request, **headers)
            reply = answer[0], answer[2].decode()
        assert reply[0] == status, reply
        assert sentence in reply[1]
    assert _ask(port, "POST", "/invocations", body)[0] == 200


def _raw(port: int, request: bytes) -> tuple[int, str]:
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        answer = connection.makefile("rb").read().decode()
    return int(answer.split()[1]), answer.partition("\r\n\r\n")[2]


def test_pings_are_answered_while_a_partition_comes(port: int, partition: Path) -> None:
    """Its second half comes when the ping has been answered."""
    body = partition.read_bytes()
    head = f"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(head + body[:1000])
        assert _ask(port, "GET", "/ping")[0] == 200
        connection.sendall(body[1000:])
        assert connection.recv(12) == b"HTTP/1.1 200"


def test_a_model_that_a_job_brings_is_used(
    build: BuildFolder, tmp_path: Path, saved: Save, make_partition: Callable[..., TensorDataset]
) -> None:
    model = tmp_path / "model"
    shutil.copytree(BUNDLED_MODEL, model)
    (model / "calibration.json").unlink()
    config = json.loads((model / "config.json").read_text())
    config.pop("hidden_magnitudes")
    (model / "config.json").write_text(json.dumps(config))
    images, magnitudes, _ = make_partition(40).tensors
    magnitudes[7] = torch.nan  # which the bundled network could do without
    body = saved(TensorDataset(images, magnitudes))
    flags = []
    for variables in ({}, {"SM_MODEL_DIR": str(model)}):
        with _served(build, **variables) as port:
            lines = _ask(port, "POST", "/invocations", body, Accept="application/jsonlines")[2].splitlines()
            flags.append(json.loads(lines[7])["flags"] & 8)
    assert flags == [0, 8]


@pytest.mark.parametrize(
    ("variables", "content", "message"),
    [
        ({}, ["mine/config.json"], "holds no config.json and no graphs.json: pack the files of a model folder"),
        ({}, ["config.json"], "error: "),
        ({"ENGINE": "torch"}, [], "torch is not in this image"),
        ({"SAGEMAKER_MAX_PAYLOAD_IN_MB": "many"}, [], "invalid literal for int"),
    ],
)
def test_a_container_that_cannot_serve_ends_and_says_why(
    build: BuildFolder, tmp_path: Path, variables: dict[str, str], content: list[str], message: str
) -> None:
    for name in content:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    environment = {"PATH": os.environ["PATH"], "SM_MODEL_DIR": str(tmp_path), **variables}
    environment["SAGEMAKER_BIND_TO_PORT"] = str(free_port())
    process = subprocess.run(
        _command(build), cwd=build.image("lean"), env=environment, capture_output=True, text=True, timeout=60
    )
    assert process.returncode == 1
    assert message in process.stderr
    assert "Traceback" not in process.stderr


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({"Content-Length": "3"}, b"ab", 400),
        ({"Content-Length": "-1"}, b"ab", 400),
        ({"Content-Length": "1" * 5000}, b"ab", 400),
        ({"Content-Length": "11"}, b"0" * 11, 413),
        ({"Transfer-Encoding": "gzip"}, b"", 400),
        ({"Transfer-Encoding": "chunked", "Content-Length": "2"}, b"", 400),
        ({"Transfer-Encoding": "chunked"}, b"", 400),
        ({"Transfer-Encoding": "chunked"}, b"x\r\n", 400),
        ({"Transfer-Encoding": "chunked"}, b"5\r\nabc", 400),
        ({"Transfer-Encoding": "chunked"}, b"3\r\nabcd\r\n0\r\n\r\n", 400),
        ({"Transfer-Encoding": "chunked"}, b"6\r\nabcdef\r\n6\r\nabcdef\r\n0\r\n\r\n", 413),
        ({"Transfer-Encoding": "chunked"}, b"FFFFFFFFFF\r\n", 413),
        ({"Transfer-Encoding": "chunked"}, b"0" * 2000, 400),
        ({"Transfer-Encoding": "chunked"}, b"0\r\n" + b"a: b\r\n" * 30, 400),
    ],
)
def test_a_body_stays_within_its_bounds(headers: dict[str, str], body: bytes, status: int) -> None:
    with pytest.raises(BodyError) as caught:
        read_body(io.BytesIO(body), headers.get("Transfer-Encoding"), headers.get("Content-Length"), 10)
    assert caught.value.status == status


def test_chunks_have_extensions_and_trailers() -> None:
    body = b"3;name=value\r\nabc\r\n2\r\nde\r\n0\r\nChecksum: 1\r\n\r\n"
    assert read_body(io.BytesIO(body), "Chunked", None, 10) == b"abcde"


def test_an_unknown_command_of_the_container_is_refused(build: BuildFolder) -> None:
    command = [str(build.python / "bin" / "python"), "-m", "inference"]
    process = subprocess.run(command, cwd=build.image("lean"), capture_output=True, text=True)
    assert process.returncode == 1
    assert "error: give one argument: serve, rank, or a handler's name" in process.stderr
