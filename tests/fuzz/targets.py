"""What foreign bytes reach: each target takes any bytes and must end with the errors that it names, or a result
that holds what it promises. fuzz.py drives them by coverage; a test drives them by their seeds."""

from __future__ import annotations

import asyncio
import io
import json
import os
import pickle
import random
import tempfile
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from cosmicai import historic
from cosmicai.model.foreign.errors import CheckpointError
from cosmicai.model.foreign.reading import Choices
from cosmicai.model.foreign.reading import read as read_checkpoint
from cosmicai.packaging import FUNCTIONS
from inference.accuracy import Metrics
from inference.partition import Layout, PartitionError, read
from inference.paths import PathError, below
from initialize.payload import PayloadError, resolve, schema
from rendezvous.server import Limits, Rendezvous
from summarize.infos import checked, is_result, parse
from summarize.summary import summary
from summarize.untrusted import UntrustedError

_TINY = Layout(channels=2, size=4, magnitudes=2)
_REFERENCE = Path(__file__).parents[1] / "reference"
_FIELDS = b"f"  # the first byte of a payload's input: fields follow, else it is JSON
_PICKLED, _WHOLE = b"p", b"w"  # the first byte of a file's input: only its pickle is foreign, or all of it


def payload(data: bytes) -> None:
    """Initialize's input: refused with PayloadError, or resolved to what the schema allows."""
    try:
        given = _fields(data[1:]) if data[:1] == _FIELDS else json.loads(data)
    except (ValueError, RecursionError):
        return
    try:
        resolved = resolve(given)
    except PayloadError:
        return
    _schema_validator().validate(resolved)
    for name in ("result_path", "data_prefix", "model", "S3_object_name"):
        parts = str(resolved.get(name, "")).split("/")
        assert ".." not in parts, name
        assert not str(resolved.get(name, "")).startswith("/"), name


def _fields(data: bytes) -> dict[str, Any]:
    """A payload of what the bytes say: NAME KIND LENGTH and so many bytes, again and again."""
    names, found = [*schema()["properties"], "batch_sise"], dict[str, Any]()
    while len(data) >= 3:
        name, kind, length = names[data[0] % len(names)], data[1] % 7, data[2]
        raw, data = data[3 : 3 + length], data[3 + length :]
        text = raw.decode("utf-8", "surrogateescape" if kind == 6 else "replace")
        number = int.from_bytes(raw[:9], "big", signed=True)
        found[name] = (text, number, number / 256, bool(length % 2), None, [text], text)[kind]
    return found


@cache
def _schema_validator() -> Any:
    from jsonschema import Draft202012Validator

    return Draft202012Validator(schema())


def partition(data: bytes) -> None:
    """A .pt file of S3: refused with PartitionError, or galaxies whose arrays fit each other."""
    try:
        found = read(_file(data), "1.pt", _TINY)
    except PartitionError as error:
        if "1.pt" not in str(error):
            raise AssertionError("the error does not name its file") from error
        return
    assert found.images.shape == (len(found), 2, 4, 4)
    assert found.magnitudes.shape == (len(found), 2)
    assert np.isfinite(found.images).all()
    assert found.redshift is None or found.redshift.shape == (len(found),)


def model(data: bytes) -> None:
    """A user's checkpoint: refused with CheckpointError that names it, or a network."""
    kind = ".safetensors" if data[:1] == b"s" else ".pt"
    with tempfile.NamedTemporaryFile(suffix=kind) as file:
        file.write(data[1:] if kind == ".safetensors" else _file(data))
        file.flush()
        try:
            read_checkpoint(Path(file.name), Choices({"heads": "3"}))
        except CheckpointError as error:
            if file.name not in str(error):
                raise AssertionError("the error does not name its file") from error


def _file(data: bytes) -> bytes:
    """All of a file, or a sound zip around a foreign pickle, since checksums would keep most changes out."""
    if data[:1] != _PICKLED:
        return data[1:]
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w") as archive:
        archive.writestr("archive/data.pkl", data[1:])
        archive.writestr("archive/byteorder", "little")
        for number in range(3):
            archive.writestr(f"archive/data/{number}", np.arange(64, dtype="<f4").tobytes())
        archive.writestr("archive/version", "3\n")
    return body.getvalue()


class _Writer:
    """Takes what the host writes to a client."""

    def __init__(self, port: int) -> None:
        self.sent, self.transport, self._port = bytearray(), self, port

    def get_extra_info(self, name: str) -> tuple[str, int]:
        return ("127.0.0.1", self._port)

    def write(self, data: bytes) -> None:
        self.sent += data

    async def drain(self) -> None:
        await asyncio.sleep(0)

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...


_LIMITS = Limits(
    clients=6, clients_per_address=6, name_seconds=0.02, wait_seconds=0.02, relay_idle_seconds=0.02
)


def rendezvous(data: bytes) -> None:
    """Clients of the rendezvous host, whose first segments and later bytes are given; nothing of them stays."""

    async def clients() -> None:
        host, writers, tasks, readers = Rendezvous(_LIMITS), [], [], []
        for number, part in enumerate(data.split(b"\xff\xfe")[:8]):
            first, _, later = part.partition(b"\xff\xfd")
            reader, writer = asyncio.StreamReader(), _Writer(number)
            if first:
                reader.feed_data(first)
            tasks.append(asyncio.ensure_future(host.serve(reader, writer)))  # type: ignore[arg-type]
            writers.append(writer)
            readers.append((reader, later))
            await asyncio.sleep(0)
        for reader, later in readers:
            await asyncio.sleep(0)
            if later:
                reader.feed_data(later)
            if len(later) % 2:
                reader.feed_eof()
        await asyncio.gather(*tasks)
        health = host.health()
        assert health["clients"] == health["waiting"] == 0, health
        assert host._relays == 0
        assert not host._per_address
        assert all(len(writer.sent) < 1 << 16 for writer in writers)

    asyncio.run(clients())


def key(data: bytes) -> None:
    """An object's key: refused with PathError, or a path below the folder that no other key has."""
    name, folder = data.decode("utf-8", "surrogateescape"), Path("/folder")
    try:
        path = below(folder, name)
    except PathError:
        return
    assert path.relative_to(folder).as_posix() == name
    assert os.path.normpath(path) == str(path)


def rank_info(data: bytes) -> None:
    """{rank}.json: refused with UntrustedError, or an info of which a summary and a page can be made."""
    try:
        content, faults = parse(data)
    except UntrustedError:
        return
    json.dumps(content, allow_nan=False).encode()
    if not is_result(content, "r"):
        return
    info = checked({**content, "rank": 0}, faults)
    run = {"run_id": "r", "started": "2026-11-22T00:00:00Z", "payload": {}, "world_size": 1, "bytes": 1}
    found = summary(run, [info], {}, content if "ranks" in content else None)
    json.dumps([found, historic.results([info], found["accuracy"])], allow_nan=False).encode()


Target = Callable[[bytes], None]
TARGETS: dict[str, Target] = {
    "payload": payload,
    "key": key,
    "rank_info": rank_info,
    "partition": partition,
    "model": model,
    "rendezvous": rendezvous,
}


def seeds(target: str) -> list[bytes]:
    """Inputs that reach far."""
    if target == "payload":
        least = {"bucket": "cosmicai-team1", "data_prefix": "25MB", "result_path": "results/1"}
        more = {"world_size": "4", "batch_size": 512, "tolerated_failure_percentage": 2.5, "precision": "int8"}
        script = {"S3_object_name": "scripts", "script": "/tmp/scripts/run.py", "object_type": "folder"}  # noqa: S108
        wrong = {"batch_sise": 1, "result_path": "../x", "bucket": None, "file_limit": 1e400, "resume": "yes"}
        given: list[dict[str, Any]] = [
            least,
            least | more,
            least | script,
            least | wrong,
            least | {"data_prefix": "obs/_READY"},
        ]
        return [json.dumps(one).encode() for one in given] + [_as_fields(one) for one in given]
    if target == "key":
        return [
            b"predictions/0.npz",
            b"a/../../b",
            b"/etc/x",
            b"C:\\x",
            "é中/[x]".encode(),
            b"a//b/./c\0\x1b[2J",
        ]
    if target == "rank_info":
        state = Metrics.of([0.5], [0.6], [20.0]).to_json()
        info: dict[str, Any] = {
            "run_id": "r", "rank": 0, "duration (seconds)": 2.5, "memory_limit (MB)": 1769, "num_samples": "7",
            "architecture": "arm64", "s3_num_requests": 3, "cold_start": True, "sample_persec": 9.5, "MAE": 0.1,
            "ended (unix seconds)": 1795305700.0, "data_path": ["1.pt"], "accuracy_state": state,
            "engine": "script",
        }  # fmt: skip
        wrong = {"MAE": float("nan"), "architecture": [], "x": [[[["\ud800"]]]], "ranks": [0], "left_out": [1]}
        return [json.dumps(one).encode() for one in (info, info | wrong, info | {"num_batches": 10**30})]
    if target == "rendezvous":
        return [
            b"\x01", b"name", b"name\xff\xfename", b"\x02Lpair\xff\xfe\x02Hpair", b"n" * 100,
            b"\x03Lr\xff\xfdhello\xff\xfe\x03Hr\xff\xfdworld!", b"\x02Lp\xff\xfe\x02Lp\xff\xfe\x02Hp",
            b"\x03Xr",
        ]  # fmt: skip
    files = [path.read_bytes() for path in sorted(_REFERENCE.glob("*.pt"))]
    pickles = [
        zipfile.ZipFile(io.BytesIO(file)).read(_pickle_name(file)) for file in files if file[:2] == b"PK"
    ]
    found = [_WHOLE + file for file in files] + [_PICKLED + content for content in pickles]
    if target == "model":
        bundled = (FUNCTIONS / "inference" / "models" / "dc2-small" / "model.safetensors").read_bytes()
        found += [b"s" + bundled[:20_000], _PICKLED + pickle.dumps({"model": {"a": 1}}, protocol=2)]
    return found


def _pickle_name(file: bytes) -> str:
    names = zipfile.ZipFile(io.BytesIO(file)).namelist()
    return next(name for name in names if name.endswith("data.pkl"))


def _as_fields(given: dict[str, Any]) -> bytes:
    names, found = list(schema()["properties"]), bytearray(_FIELDS)
    for name, value in given.items():
        raw = str(value).encode() if not isinstance(value, int) else value.to_bytes(2, "big")
        found += (
            bytes([names.index(name) if name in names else len(names), isinstance(value, int), len(raw)]) + raw
        )
    return bytes(found)


def mutated(content: bytes, dice: random.Random) -> bytes:
    """With a few bytes changed, cut out or doubled."""
    changed = bytearray(content)
    for _ in range(dice.choice((1, 1, 2, 4))):
        place, length = dice.randrange(len(changed) + 1), dice.randrange(1, 9)
        kind = dice.randrange(3)
        if kind == 0:
            changed[place : place + length] = dice.randbytes(length)
        elif kind == 1:
            del changed[place : place + length]
        else:
            changed[place:place] = changed[place : place + length]
    return bytes(changed)
