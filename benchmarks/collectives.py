"""FMI's direct channel on loopback: python benchmarks/collectives.py OUT.json [--ranks 2 4 8 16 32]

Every rank is a process, the rendezvous host another one. Time from nothing to the end of the first allreduce,
and medians of rank 0's latency of each operation, beside those measured for FMI's C++ library on two cores.
Then a run of 16 ranks with partitions of 25 MB on the embedded AWS: communication, as a share of billed time.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "functions" / "inference"))
import fmi  # noqa: E402

ROUNDS, SET_UPS = 200, 5
OPERATIONS = ("barrier", "allreduce 1", "reduce 1", "allreduce 1000", "reduce 1000")
# seconds, then µs in the order of OPERATIONS; medians on two Zen 4 cores
CPP: dict[int, tuple[float, ...]] = {
    2: (0.101, 16, 19, 7, 92, 46),
    4: (0.204, 96, 106, 68, 246, 191),
    8: (0.308, 273, 313, 227, 604, 635),
    16: (0.414, 534, 526, 418, 1172, 931),
}
Json = dict[str, Any]


def rank(number: int, size: int, name: str, port: int, start: Any, results: Any) -> None:
    """One process: set up, then every operation ROUNDS times."""
    start.wait()
    began = time.perf_counter()
    group = fmi.Group(fmi.Direct(number, size, name, "127.0.0.1", port, b"benchmark"), 60)
    group.allreduce(np.ones(1), np.add)
    found: Json = {"set-up (s)": time.perf_counter() - began}
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
        found[f"{operation} (µs)"] = statistics.median(times) * 1e6
    group.barrier()
    group.close()
    results.put((number, found))


def measure(size: int, port: int) -> Json:
    context = multiprocessing.get_context("fork")
    start, results = context.Barrier(size), context.Queue()
    name = f"bench-{os.urandom(4).hex()}-"
    ranks = [
        context.Process(target=rank, args=(number, size, name, port, start, results)) for number in range(size)
    ]
    for process in ranks:
        process.start()
    found = dict(results.get(timeout=120) for _ in ranks)
    for process in ranks:
        process.join()
    return {**found[0], "set-up (s)": max(one["set-up (s)"] for one in found.values())}


def run_of(ranks: int) -> Json:
    """Seconds of communication and of all that is billed, over the ranks of a run on the embedded AWS."""
    from cosmicai import runs
    from cosmicai.cli import CACHE
    from cosmicai.data import dc2
    from cosmicai.deployment import Deployment, emulated_variables
    from cosmicai.emulator import Emulator
    from cosmicai.packaging import BuildFolder, assemble

    build = BuildFolder()
    assemble(build)
    partitions = dc2.partitions("validation", ranks * dc2.rows_per_partition(25), 25, CACHE)
    with Emulator(build, ranks) as aws:
        outputs = Deployment(aws.folder / "deployment", aws.environment).apply(emulated_variables("bench", aws))
        s3, machine = aws.client("s3"), aws.client("stepfunctions")
        runs.upload_partitions(s3, partitions, outputs.bucket, "25MB", lambda done, total: None)
        payload = {"bucket": outputs.bucket, "data_prefix": "25MB", "result_path": "results/bench"}
        arn = machine.start_execution(stateMachineArn=outputs.state_machine_arn, input=json.dumps(payload))
        ended = runs.follow(machine, s3, arn["executionArn"], payload, lambda done, total: None)
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4, 8, 16, 32])
    arguments = parser.parse_args()
    server = [sys.executable, str(ROOT / "functions" / "rendezvous" / "server.py"), "--host", "127.0.0.1"]
    with subprocess.Popen([*server, "--port", "0"], stdout=subprocess.PIPE, text=True) as host:
        port = int(json.loads(host.stdout.readline())["port"])  # type: ignore[union-attr]
        found = {}
        for size in arguments.ranks:
            runs = [measure(size, port) for _ in range(SET_UPS)]
            found[size] = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        host.terminate()
    run = run_of(16)
    content = {"cores": os.cpu_count(), "ranks": found, "run": run}
    arguments.out.write_text(json.dumps(content, indent=1) + "\n")
    print("| ranks | set-up, s | " + " | ".join(f"{operation}, µs" for operation in OPERATIONS) + " |")
    print("| ---: |" + " ---: |" * (1 + len(OPERATIONS)))
    for size, values in found.items():
        earlier = CPP.get(size)
        cells = [
            f"{value:.3f}" if place == 0 else f"{value:,.0f}" for place, value in enumerate(values.values())
        ]
        if earlier is not None:
            ratios = (value / before for value, before in zip(values.values(), earlier, strict=True))
            cells = [f"{cell} ({ratio:.2f})" for cell, ratio in zip(cells, ratios, strict=True)]
        print(f"| {size} | " + " | ".join(cells) + " |")
    print(json.dumps(run))


if __name__ == "__main__":
    main()
