"""What foreign bytes reach: each target takes any bytes and must end with the errors that it names, or a result
that holds what it promises. fuzz.py drives them by coverage, a test by their seeds. files.py has the
targets that read pickles."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from cosmicai.results import historic
from inference.contract.accuracy import Metrics
from inference.contract.paths import PathError, below
from initialize.payload import PayloadError, resolve, schema
from rendezvous import server
from rendezvous.server import RELAY, Limits, Rendezvous
from summarize.contract.rank_info import RankInfo, is_result, parse
from summarize.contract.run_records import Run
from summarize.contract.untrusted import UntrustedError
from summarize.states import States
from summarize.summary import summary
from tests.fuzz import files, heads, messages, seeds
from tests.fuzz.torchfiles import Mutator

_FIELDS = b"f"  # the first byte of a payload's input: fields follow, else it is JSON


def payload(data: bytes) -> None:
    """Initialize's input: refused with PayloadError, or resolved to what the schema allows."""
    try:
        fields = _fields(data[1:]) if data[:1] == _FIELDS else json.loads(data)
    except (ValueError, RecursionError):
        return
    try:
        resolved = resolve(fields)
    except PayloadError:
        return
    _schema_validator().validate(resolved)
    for name in ("result_path", "data_prefix", "model", "S3_object_name"):
        parts = str(resolved.get(name, "")).split("/")
        assert ".." not in parts, name
        assert not str(resolved.get(name, "")).startswith("/"), name


def _fields(data: bytes) -> dict[str, Any]:
    """The payload that the bytes describe: NAME KIND LENGTH and LENGTH bytes, repeated."""
    names, fields = [*schema()["properties"], "batch_sise"], dict[str, Any]()
    while len(data) >= 3:
        name, kind, length = names[data[0] % len(names)], data[1] % 7, data[2]
        raw, data = data[3 : 3 + length], data[3 + length :]
        text = raw.decode("utf-8", "surrogateescape" if kind == 6 else "replace")
        number = int.from_bytes(raw[:9], "big", signed=True)
        fields[name] = (text, number, number / 256, bool(length % 2), None, [text], text)[kind]
    return fields


@cache
def _schema_validator() -> Any:
    from jsonschema import Draft202012Validator

    return Draft202012Validator(schema())


class _Writer:
    """Takes what the host writes to a client."""

    def __init__(self, port: int) -> None:
        self.sent, self.transport, self._port = bytearray(), self, port

    def get_extra_info(self, name: str) -> Any:
        return self if name == "socket" else ("127.0.0.1", self._port)

    def write(self, data: bytes) -> None:
        self.sent += data

    async def drain(self) -> None:
        await asyncio.sleep(0)

    def setsockopt(self, level: int, option: int, value: int) -> None: ...
    def set_write_buffer_limits(self, high: int) -> None: ...
    def write_eof(self) -> None: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...


class _Open(Rendezvous):
    """Relays for whoever asks: no input that is made by chance knows the key."""

    async def _admitted(self, client: Any, first: bytes) -> None:
        return None


_LIMITS = Limits(
    clients=6, clients_per_address=6, name_seconds=0.02, wait_seconds=0.02, relay_idle_seconds=0.02,
    relays=2, relay_bytes=40, relay_bytes_per_hour=60,
)  # fmt: skip
server.LINGER_SECONDS = 0.02  # a client of a test is not slow to read


def rendezvous(data: bytes) -> None:
    """Clients of the rendezvous host with the given first segments and later bytes, of which it keeps none."""

    async def clients() -> None:
        makes = _Open if data[:1] == RELAY else Rendezvous
        host, writers, tasks, readers = makes(_LIMITS, b"key"), [], [], []
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
        assert health["relays"] == 0
        assert not host._per_address
        assert not host._relays_of
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
    info = RankInfo.from_json({**content, "rank": 0}, faults)
    run = Run(run_id="r", started="2026-11-22T00:00:00Z", payload={}, world_size=1, bytes=1)
    states = States(run, content if "ranks" in content else None)
    states.add(info)
    run_summary = summary(run, [info], {}, states)
    written = [info.to_json(), run_summary.to_json(), historic.results([info], run_summary.accuracy)]
    json.dumps(written, allow_nan=False).encode()


def _payloads() -> list[bytes]:
    least = {"bucket": "cosmicai-team1", "data_prefix": "25MB", "result_path": "results/1"}
    more = {"world_size": "4", "batch_size": 512, "tolerated_failure_percentage": 2.5, "precision": "int8"}
    script = {"S3_object_name": "scripts", "script": "/tmp/scripts/run.py", "object_type": "folder"}  # noqa: S108
    wrong = {"batch_sise": 1, "result_path": "../x", "bucket": None, "file_limit": 1e400, "resume": "yes"}
    payloads: list[dict[str, Any]] = [
        least,
        least | more,
        least | script,
        least | wrong,
        least | {"data_prefix": "obs/_READY"},
    ]
    return [json.dumps(one).encode() for one in payloads] + [_as_fields(one) for one in payloads]


def _keys() -> list[bytes]:
    return [
        b"predictions/0.npz",
        b"a/../../b",
        b"/etc/x",
        b"C:\\x",
        "é中/[x]".encode(),
        b"a//b/./c\0\x1b[2J",
    ]


def _rank_infos() -> list[bytes]:
    state = Metrics.of([0.5], [0.6], [20.0]).to_json()
    info: dict[str, Any] = {
        "run_id": "r", "rank": 0, "duration (seconds)": 2.5, "memory_limit (MB)": 1769, "num_samples": "7",
        "architecture": "arm64", "s3_num_requests": 3, "cold_start": True, "sample_persec": 9.5, "MAE": 0.1,
        "ended (unix seconds)": 1795305700.0, "data_path": ["1.pt"], "accuracy_state": state,
        "engine": "script",
    }  # fmt: skip
    wrong = {"MAE": float("nan"), "architecture": [], "x": [[[["\ud800"]]]], "ranks": [0], "left_out": [1]}
    return [json.dumps(one).encode() for one in (info, info | wrong, info | {"num_batches": 10**30})]


def _clients() -> list[bytes]:
    return [
        b"\x01", b"name", b"name\xff\xfename", b"\x02Lpair\xff\xfe\x02Hpair", b"n" * 100,
        b"\x03Lr\xff\xfdhello\xff\xfe\x03Hr\xff\xfdworld!", b"\x02Lp\xff\xfe\x02Lp\xff\xfe\x02Hp",
        b"\x03Xr", b"\x03Lr\xff\xfd" + b"p" * 32,
        b"\x03Lr\xff\xfdh\xff\xfe\x03Hr\xff\xfdworld!",  # leaves while bytes come: a relay stayed for ever
    ]  # fmt: skip


def _as_fields(values: dict[str, Any]) -> bytes:
    names, encoded = list(schema()["properties"]), bytearray(_FIELDS)
    for name, value in values.items():
        raw = str(value).encode() if not isinstance(value, int) else value.to_bytes(2, "big")
        encoded += (
            bytes([names.index(name) if name in names else len(names), isinstance(value, int), len(raw)]) + raw
        )
    return bytes(encoded)


def mutated(content: bytes, dice: Random) -> bytes:
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


@dataclass(frozen=True)
class Target:
    """What is fuzzed: `run` takes any bytes and raises where a promise is broken; the rest makes its inputs.

    seeds: inputs that reach far. mutants: how many of each seed every test run tries.
    change, splice: make another input of one or two; None: of their bytes.
    """

    run: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]
    change: Callable[[bytes, Random], bytes] | None = None
    splice: Callable[[bytes, bytes, Random], bytes] | None = None
    mutants: int = 1000

    def mutant(self, data: bytes, dice: Random) -> bytes:
        return (self.change or mutated)(data, dice)


_BY_BYTES = 0.1  # the share of a pickle's changes that know nothing of opcodes


def _of_pickles(run: Callable[[bytes], None], seeds: Callable[[], list[bytes]], mutants: int) -> Target:
    """A target whose inputs are TorchFiles, changed opcode by opcode."""
    mutator = cache(lambda: Mutator.of(seeds()))  # its donors are the seeds, which take a while to be made

    def change(data: bytes, dice: Random) -> bytes:
        made = mutator().mutated(data, dice) if dice.random() > _BY_BYTES else None
        return made or mutated(data, dice)

    def splice(data: bytes, other: bytes, dice: Random) -> bytes:
        return mutator().spliced(data, other, dice) or mutated(data, dice)

    return Target(run, seeds, change, splice, mutants)


TARGETS: dict[str, Target] = {
    "payload": Target(payload, _payloads),
    "key": Target(key, _keys),
    "rank_info": Target(rank_info, _rank_infos),
    "rendezvous": Target(rendezvous, _clients, mutants=60),
    "greeting": Target(messages.greeting, messages.seeds, mutants=20),
    "message": Target(messages.message, messages.seeds, mutants=20),
    "head": Target(heads.head, heads.seeds),
    "partition": _of_pickles(files.partition, seeds.partitions, mutants=200),
    "checkpoint": _of_pickles(files.checkpoint, seeds.checkpoints, mutants=300),
    "model": _of_pickles(files.model, lambda: seeds.models() + seeds.safetensors(), mutants=20),
}
"""A new target is a function and its seeds, here: `make fuzz`, its summary and the tests go by this table."""
