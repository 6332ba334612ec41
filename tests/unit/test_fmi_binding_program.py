"""Programs that use FMI's Python binding, each rank a process, over every channel."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Any

import pytest

from cosmicai.packaging.places import FUNCTIONS

from .rendezvous import Host

PROGRAM = Path(__file__).with_name("fmi_program.py")
SCRIPTS = FUNCTIONS / "inference" / "shims"  # on the path of users' scripts

Json = dict[str, Any]
Settings = Callable[[pytest.FixtureRequest], tuple[Json, dict[str, str]]]


def _direct(request: pytest.FixtureRequest, secret: str = "") -> tuple[Json, dict[str, str]]:
    host: Host = request.getfixturevalue("host")
    return {"enabled": True, "host": "127.0.0.1", "port": host.port, "secret": secret}, {}


def _redis(request: pytest.FixtureRequest) -> tuple[Json, dict[str, str]]:
    return {"enabled": True, "host": "127.0.0.1", "port": request.getfixturevalue("redis_port")}, {}


def _s3(request: pytest.FixtureRequest) -> tuple[Json, dict[str, str]]:
    environment = request.getfixturevalue("s3_cloud").environment
    return {"enabled": True, "bucket_name": "fmi", "s3_region": environment["AWS_REGION"]}, environment


CHANNELS: dict[str, tuple[str, Settings]] = {
    "direct": ("Direct", lambda request: _direct(request, b"of this run".hex())),
    "direct, as FMI's own": ("Direct", _direct),
    "Redis": ("Redis", _redis),
    "S3": ("S3", _s3),
}


def run(program: Path, ranks: int, config: Path, environment: dict[str, str], *arguments: str) -> list[str]:
    """What each rank's process has printed. A program that fails raises an error with its messages."""
    paths = os.pathsep.join([str(SCRIPTS), os.environ.get("PYTHONPATH", "")])
    processes = [
        subprocess.Popen(
            [sys.executable, str(program), str(rank), str(ranks), str(config), *arguments],
            env={**os.environ, **environment, "PYTHONPATH": paths},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(ranks)
    ]
    printed = [process.communicate(timeout=120) for process in processes]
    for process, (_, errors) in zip(processes, printed, strict=True):
        assert process.returncode == 0, errors
    return [output for output, _ in printed]


def _number(name: str, rank: int) -> list[float]:
    """What rank `rank` of the program gives, as a list."""
    return {
        "int": [42 + rank],
        "double": [14.2 + rank],
        "int_list": [1 + 2 * rank, 2 + 2 * rank],
        "double_list": [1.32 + 2 * rank, 2.34 + rank],
    }[name]


def _shown(name: str, values: list[float]) -> Any:
    return values if name.endswith("list") else values[0]


FOLDS: dict[str, Callable[[Any, Any], Any]] = {
    "sum": lambda a, b: a + b,
    "prod": lambda a, b: a * b,
    "max": max,
    "min": min,
    "folded": lambda a, b: 2 * a - b,
}


def _folded(function: str, name: str, ranks: int) -> Any:
    columns = zip(*(_number(name, rank) for rank in range(ranks)), strict=True)
    return _shown(name, [reduce(FOLDS[function], column) for column in columns])


@pytest.mark.parametrize("ranks", [2, 3, 5])
@pytest.mark.parametrize("channel", CHANNELS)
def test_every_operation_of_the_binding(
    request: pytest.FixtureRequest, tmp_path: Path, channel: str, ranks: int
) -> None:
    back_end, settings = CHANNELS[channel]
    part, environment = settings(request)
    config = tmp_path / "fmi.json"
    config.write_text(json.dumps({"backends": {back_end: part}}))
    name = f"program-{ranks}-{os.urandom(4).hex()}-"
    for rank, output in enumerate(run(PROGRAM, ranks, config, environment, name, "fast")):
        assert _without_twice(json.loads(output)) == _expected(rank, ranks)


def _without_twice(received: Json) -> Json:
    """A rank's results except those of `twice`, which go by the order of the ranks' values."""
    return {label: value for label, value in received.items() if " twice " not in label}


def _expected(rank: int, ranks: int) -> Json:
    """The results of a rank by label."""
    kinds = ("int", "double", "int_list", "double_list")
    expected = {f"recv {name}": _shown(name, _number(name, rank - 1)) for name in kinds if rank}
    for root in {0, ranks - 1}:
        for name in kinds:
            expected[f"bcast {name} {root}"] = _shown(name, _number(name, root))
            flat = [number for place in range(ranks) for number in _number(name, place)]
            expected[f"gather {name} {root}"] = flat if rank == root else []
        expected[f"scatter int_list {root}"] = [14 + 28 * rank]
        expected[f"scatter double_list {root}"] = [1.3 + 2 * rank, 1.3 + 2 * rank + 1]
        for function in FOLDS:
            for name in kinds:
                folded = pytest.approx(_folded(function, name, ranks)) if rank == root else None
                expected[f"reduce {function} {name} {root}"] = folded
    for function in FOLDS:
        for name in kinds:
            expected[f"allreduce {function} {name}"] = pytest.approx(_folded(function, name, ranks))
            expected[f"scan {function} {name}"] = pytest.approx(_folded(function, name, rank + 1))
    return expected


# What FMI's own test program shows with two ranks: (call, rank 0's value, rank 1's, rank 0 gets, rank 1 gets).
TWO_RANKS = [
    ("gather(value, 0, int)", 1, 2, [1, 2], []),
    ("gather(value, 0, double)", 14.5, 42.5, [14.5, 42.5], []),
    ("gather(value, 0, int_list)", [1, 2], [3, 4], [1, 2, 3, 4], []),
    ("gather(value, 0, double_list)", [1.32, 2.34], [3.32, 4.34], [1.32, 2.34, 3.32, 4.34], []),
    ("scatter(value, 0, int_list)", [14, 42], None, [14], [42]),
    ("scatter(value, 0, double_list)", [1.3, 2.3, 3.3, 4.3], None, [1.3, 2.3], [3.3, 4.3]),
    ("reduce(value, 0, sum, int)", 42, 42, 84, None),
    ("reduce(value, 0, prod, double)", 14.0, 14.0, 196.0, None),
    ("reduce(value, 0, max, int)", 42, 43, 43, None),
    ("reduce(value, 0, min, double)", 41.0, 41.0, 41.0, None),
    ("reduce(value, 0, twice, int)", 42, 42, 168, None),
    ("reduce(value, 0, twice, double)", 0.1, 0.2, 2 * 0.1 + 2 * 0.2, None),
    ("reduce(value, 0, sum, int_list)", [42, 14], [42, 14], [84, 28], None),
    ("reduce(value, 0, prod, int_list)", [42, 14], [42, 14], [1764, 196], None),
    ("reduce(value, 0, max, double_list)", [43.5, 13.5], [43.5, 13.5], [43.5, 13.5], None),
    ("reduce(value, 0, min, double_list)", [41.5, 15.5], [41.5, 15.5], [41.5, 15.5], None),
    ("reduce(value, 0, twice, int_list)", [42, 14], [42, 14], [168, 56], None),
    ("allreduce(value, sum, int)", 42, 42, 84, 84),
    ("allreduce(value, prod, double)", 14.0, 14.0, 196.0, 196.0),
    ("allreduce(value, max, int)", 42, 42, 42, 42),
    ("allreduce(value, min, double)", 41.0, 41.0, 41.0, 41.0),
    ("allreduce(value, twice, int)", 42, 42, 168, 168),
    ("allreduce(value, twice, double)", 0.1, 0.1, 0.4, 0.4),
    ("allreduce(value, sum, int_list)", [42, 14], [42, 14], [84, 28], [84, 28]),
    ("scan(value, sum, int)", 42, 42, 42, 84),
    ("scan(value, prod, double)", 14.0, 14.0, 14.0, 196.0),
    ("scan(value, max, int)", 42, 42, 42, 42),
    ("scan(value, min, double)", 41.0, 41.0, 41.0, 41.0),
    ("scan(value, twice, int)", 42, 42, 42, 168),
    ("scan(value, twice, double)", 0.1, 0.1, 0.1, 0.4),
    ("scan(value, sum, int_list)", [42, 14], [42, 14], [42, 14], [84, 28]),
]

_CALLS = """
import json, sys
import fmi

rank, ranks, config, name, calls = int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:]
comm = fmi.Communicator(rank, ranks, config, name, 512)
comm.hint(fmi.hints.fast)
comm.barrier()
names = {operation: fmi.func(getattr(fmi.op, operation)) for operation in ("sum", "prod", "max", "min")}
names["twice"] = fmi.func(fmi.op.custom, lambda a, b: 2 * a + 2 * b, True, True)
results = []
for call, values in json.loads(calls):
    count = len(values[0]) if isinstance(values[0], list) else None
    for kind in ("int", "double", "int_list", "double_list"):
        datatype = getattr(fmi.datatypes, kind)
        names[kind] = fmi.types(datatype, count or 0) if kind.endswith("list") else fmi.types(datatype)
    results.append(eval("comm." + call, {"comm": comm, "value": values[rank], **names}))
print(json.dumps(results))
"""


@pytest.mark.parametrize("channel", CHANNELS)
def test_two_ranks_get_what_fmis_own_program_gets(
    request: pytest.FixtureRequest, tmp_path: Path, channel: str
) -> None:
    back_end, settings = CHANNELS[channel]
    part, environment = settings(request)
    config, program = tmp_path / "fmi.json", tmp_path / "program.py"
    config.write_text(json.dumps({"backends": {back_end: part}}))
    program.write_text(_CALLS)
    calls = json.dumps([(call, [first, second]) for call, first, second, _, _ in TWO_RANKS])
    name = f"two-{os.urandom(4).hex()}-"
    for rank, output in enumerate(run(program, 2, config, environment, name, calls)):
        for (call, *values), received in zip(TWO_RANKS, json.loads(output), strict=True):
            assert received == values[2 + rank], (call, rank)


def test_ranks_take_different_back_ends_for_different_operations(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """FMI's own figures, but Direct is expensive: with the hint cheap, all except scans goes through Redis."""
    config = tmp_path / "fmi.json"
    back_ends = {"Direct": _direct(request)[0], "Redis": _redis(request)[0]}
    infrastructure = {"transfer_price": 0.0, "requests_per_hour": 1000, "include_infrastructure_costs": True}
    model = {
        "FaaS": {"gib_second_price": 0.0000166667},
        "Redis": {"bandwidth_single": 100.0, "bandwidth_multiple": 400.0, "overhead": 5.2,
                  "instance_price": 0.0038, **infrastructure},
        "Direct": {"bandwidth": 400.0, "overhead": 0.34, "vm_price": 1.0, **infrastructure},
    }  # fmt: skip
    config.write_text(json.dumps({"backends": back_ends, "model": model}))
    for hint in ("cheap", "fast"):
        name = f"mixed-{os.urandom(4).hex()}-"
        for rank, output in enumerate(run(PROGRAM, 3, config, {}, name, hint)):
            assert _without_twice(json.loads(output)) == _expected(rank, 3)
