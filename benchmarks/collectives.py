"""FMI's direct channel on loopback: benchmarks/collectives.py OUT.json [--ranks 2 4 8] [--before CHECKOUT]

Each rank and the rendezvous host are processes of their own. Measures the time from the start to the end of
the first allreduce, and medians of rank 0's latency for each operation. In turns with them, on the same cores,
it measures the same operations by plain sockets in C++ (collectives.cpp) and by another checkout of this
repository. The table also has figures of FMI's own C++ library, which were measured on another machine.
Then a run of 16 ranks with partitions of 25 MB on the embedded AWS: communication, as a share of billed time.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
ROUNDS, SET_UPS = 200, 5
OPERATIONS = ("barrier", "allreduce 1", "reduce 1", "allreduce 1000", "reduce 1000")
FMI_MACHINE = "FMI's C++ library, two EPYC (Zen 3) cores"
FMI: dict[int, tuple[float, ...]] = {  # seconds, then µs of the first four OPERATIONS; medians, optimised build
    2: (0.101, 18, 18, 14, 27),
    4: (0.202, 61, 56, 22, 77),
    8: (0.304, 151, 150, 128, 184),
}
Json = dict[str, Any]


def rank(number: int, size: int, name: str, port: int) -> None:
    """One process: says that it is ready, waits for a line, sets up, does every operation ROUNDS times."""
    import fmi

    print("ready", flush=True)
    sys.stdin.readline()
    began = time.perf_counter()
    channel = fmi.Direct(number, size, name, "127.0.0.1", port, b"benchmark")
    group = fmi.Group(channel, 60)
    group.allreduce(np.ones(1), np.add)
    measured: Json = {"set-up (s)": time.perf_counter() - began}
    for operation in OPERATIONS:
        kind, _, count = operation.partition(" ")
        values, times = np.ones(int(count or 1)), []
        for _ in range(ROUNDS):
            group.barrier()
            before = time.perf_counter()
            if kind == "barrier":
                group.barrier()
            elif kind == "allreduce":
                group.allreduce(values, np.add)
            else:
                group.reduce(values, np.add)
            times.append(time.perf_counter() - before)
        measured[f"{operation} (µs)"] = statistics.median(times) * 1e6
    if size == 2:
        large, numbers = np.ones(8 << 20), [0.5] * (1 << 20)
        lists = fmi.types(fmi.datatypes.double_list, len(numbers))
        communicator = fmi.Communicator.over(channel, 60)
        work = [lambda: group.send(large, 1), lambda: group.recv(large, 0)]
        measured["send 64 MiB (ms)"] = _large(group, work[number]) * 1e3
        work = [lambda: communicator.send(numbers, 1, lists), lambda: communicator.recv(0, lists)]
        measured["send a list of 8 MiB (ms)"] = _large(group, work[number]) * 1e3
    group.barrier()
    group.close()
    print(json.dumps(measured), flush=True)


def _large(group: Any, work: Callable[[], Any]) -> float:
    """Seconds for one large message to the other rank and an answer; the median of 5."""
    times = []
    for _ in range(5):
        group.barrier()
        before = time.perf_counter()
        work()
        group.barrier()
        times.append(time.perf_counter() - before)
    return statistics.median(times)


def measure(size: int, port: int, checkout: Path) -> Json:
    """One measurement, with the fmi of a checkout."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(checkout / "functions" / "inference"),
        "OMP_NUM_THREADS": "1",
    }
    name = f"bench-{os.urandom(4).hex()}-"
    ranks = [
        subprocess.Popen(
            [sys.executable, __file__, "--rank", str(number), str(size), name, str(port)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )
        for number in range(size)
    ]  # fmt: skip
    for process in ranks:
        assert process.stdout is not None  # noqa: S101
        assert process.stdout.readline() == "ready\n"  # noqa: S101
    for process in ranks:
        assert process.stdin is not None  # noqa: S101
        process.stdin.write("go\n")
        process.stdin.flush()
    results = [json.loads(process.communicate(timeout=120)[0]) for process in ranks]
    return {**results[0], "set-up (s)": max(result["set-up (s)"] for result in results)}


def measure_sockets(size: int, program: Path) -> Json:
    """The same by plain sockets in C++, which need almost no set-up."""
    program_run = subprocess.run(
        [str(program), str(size)], capture_output=True, text=True, check=True, timeout=120
    )
    measured: Json = json.loads(program_run.stdout)
    return measured


def compiled(folder: Path) -> Path:
    """collectives.cpp as a program."""
    program = folder / "collectives"
    source, options = Path(__file__).with_suffix(".cpp"), ("-std=c++20", "-O3", "-o", str(program))
    subprocess.run([sys.executable, "-m", "ziglang", "c++", str(source), *options], check=True)
    return program


def medians(runs: list[Json]) -> Json:
    return {key: statistics.median(run[key] for run in runs) for key in runs[0]}


def run_of(ranks: int) -> Json:
    """Seconds of communication and of all that is billed, over the ranks of a run on the embedded AWS."""
    from cosmicai.cli.common import CACHE
    from cosmicai.data import copying, dc2
    from cosmicai.data.places import Bucket
    from cosmicai.deploy.terraform import Deployment, emulated_variables
    from cosmicai.emulator import Emulator
    from cosmicai.packaging.assembly import assemble
    from cosmicai.packaging.places import BuildFolder
    from cosmicai.runs import client as runs

    build = BuildFolder()
    assemble(build)
    partitions = dc2.partitions("validation", ranks * dc2.rows_per_partition(25), 25, CACHE)
    with Emulator(build, ranks) as aws:
        outputs = Deployment(aws.folder / "deployment", aws.environment, os.environ).apply(
            emulated_variables("bench", aws)
        )
        s3, machine = aws.client("s3"), aws.client("stepfunctions")
        copying.copy(partitions, Bucket(s3, outputs.bucket, "25MB"))
        payload = {"bucket": outputs.bucket, "data_prefix": "25MB", "result_path": "results/bench"}
        arn = machine.start_execution(stateMachineArn=outputs.state_machine_arn, input=json.dumps(payload))
        ended = runs.follow(machine, s3, arn["executionArn"], payload, lambda finished, total: None)
        assert ended.succeeded, ended.cause  # noqa: S101
        body = s3.get_object(Bucket=outputs.bucket, Key="results/bench/combined_data.json")["Body"].read()
    infos = json.loads(body)
    communication = [info["communication (seconds)"] for info in infos]
    billed = sum(info["duration (seconds)"] for info in infos)
    return {
        "ranks": ranks,
        "channel": infos[0]["collectives"]["channel"],
        "communication (s)": sum(communication),
        "communication of rank 0 (s)": communication[0],
        "communication of another rank, median (s)": statistics.median(communication[1:]),
        "billed (s)": billed,
        "share": sum(communication) / billed,
    }


def table(measured: dict[str, dict[int, Json]]) -> str:
    """Markdown with a row for each number of ranks and each measured implementation, ours first.

    In brackets: multiples of the time of the plain sockets.
    """
    columns = ["set-up, s", *(f"{operation}, µs" for operation in OPERATIONS)]
    columns += ["send 64 MiB, ms", "send a list of 8 MiB, ms"]
    ours, sockets = measured["ours"], measured["sockets"]
    lines = ["| ranks | | " + " | ".join(columns) + " |", "| ---: | --- |" + " ---: |" * len(columns)]
    for size, values in ours.items():
        for who, sizes in measured.items():
            cells = []
            for key in values:
                value, plain = sizes[size].get(key), sockets[size].get(key)
                digits = 3 if key.startswith("set-up") else 0
                cells.append("" if value is None else f"{value:,.{digits}f}")
                cells[-1] += f" ({value / plain:.2f})" if value and plain and who != "sockets" else ""
            lines.append(f"| {size} | {who} | " + " | ".join(cells + [""] * (len(columns) - len(cells))) + " |")
        if size in FMI:
            seconds, *micro = FMI[size]
            cells = [f"{seconds:.3f}", *map(str, micro)]
            lines.append(
                f"| {size} | {FMI_MACHINE} | " + " | ".join(cells + [""] * (len(columns) - len(cells))) + " |"
            )
    return "\n".join(lines)


def in_turns(sizes: list[int], before: Path | None) -> dict[str, dict[int, Json]]:
    """Medians by implementation and number of ranks."""
    server = [sys.executable, str(ROOT / "functions" / "rendezvous" / "server.py"), "--host", "127.0.0.1"]
    with ExitStack() as stack:
        program = compiled(Path(stack.enter_context(tempfile.TemporaryDirectory())))
        host = stack.enter_context(
            subprocess.Popen([*server, "--port", "0"], stdout=subprocess.PIPE, text=True)
        )
        stack.callback(host.terminate)
        assert host.stdout is not None  # noqa: S101
        port = next(line["port"] for line in map(json.loads, host.stdout) if "port" in line)
        who: dict[str, Callable[[int], Json]] = {"ours": lambda size: measure(size, port, ROOT)}
        if before is not None:
            who["before"] = lambda size: measure(size, port, before)
        who["sockets"] = lambda size: measure_sockets(size, program)
        measured: dict[str, dict[int, Json]] = {name: {} for name in who}
        for size in sizes:
            turns = [{name: one(size) for name, one in who.items()} for _ in range(SET_UPS)]
            for name in who:
                measured[name][size] = medians([turn[name] for turn in turns])
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4, 8, 16, 32])
    parser.add_argument("--before", type=Path, help="another checkout, measured in turns with this one")
    parser.add_argument("--no-run", action="store_true", help="leave out the run on the embedded AWS")
    arguments = parser.parse_args()
    measured = in_turns(arguments.ranks, arguments.before)
    content: Json = {"cores": os.cpu_count(), **measured}
    if not arguments.no_run:
        content["run"] = run_of(16)
    arguments.out.write_text(json.dumps(content, indent=1) + "\n")
    print(table(measured))
    print(json.dumps(content.get("run", {})))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--rank"]:
        rank(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], int(sys.argv[5]))
    else:
        main()
