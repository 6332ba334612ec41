"""Many ranks, many objects: python benchmarks/load.py OUT.json [--ranks 250 1000] [--infos 1000 10000]
[--partitions 10000 100000]

On the embedded AWS: whole runs of many ranks with partitions of one galaxy; Summarize over many rank infos and
Initialize over many partitions, each as a process of its own with its peak memory.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import TensorDataset

from cosmicai.deploy.terraform import Deployment, Outputs, emulated_variables
from cosmicai.emulator import Emulator
from cosmicai.packaging.assembly import assemble
from cosmicai.packaging.places import FUNCTIONS, BuildFolder
from cosmicai.runs import client as runs
from inference.contract.accuracy import Metrics

Json = dict[str, Any]

_CALL = """
import json, sys, time
import boto3
from botocore.config import Config
kind, event = sys.argv[1], json.loads(sys.argv[2])
s3 = boto3.client("s3", config=Config(max_pool_connections=32))
start = time.perf_counter()
if kind == "summarize":
    from summarize.gather import summarize_run
    answer = summarize_run(s3, event)
else:
    from initialize.deployed import Deployed
    from initialize.run import start as initialize
    deployed = Deployed(False, False, lambda: 1000, lambda name: False)
    answer = initialize(s3, event, "load", "2026-11-22T00:00:00Z", deployed)
seconds = time.perf_counter() - start
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM:"))
size = len(json.dumps(answer))
print(json.dumps({"seconds": seconds, "peak memory (MB)": peak / 1024, "answer (bytes)": size}))
"""


def put_all(s3: Any, bucket: str, bodies: Any) -> None:
    with ThreadPoolExecutor(16) as pool:
        for _ in pool.map(lambda item: s3.put_object(Bucket=bucket, Key=item[0], Body=item[1]), bodies):
            pass


def call(aws: Emulator, kind: str, event: Json) -> Json:
    environment = {**os.environ, **aws.environment, "PYTHONPATH": str(FUNCTIONS)}
    command = [sys.executable, "-c", _CALL, kind, json.dumps(event)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    if ended.returncode:
        raise SystemExit(ended.stderr)
    measured: Json = json.loads(ended.stdout.splitlines()[-1])
    return measured


def partition() -> bytes:
    body = io.BytesIO()
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.standard_normal((1, 5, 32, 32), np.float32))
    torch.save(TensorDataset(images, torch.full((1, 5), 22.0), torch.ones(1)), body)
    return body.getvalue()


def whole_run(aws: Emulator, outputs: Outputs, ranks: int) -> Json:
    s3, machine, body = aws.client("s3", max_pool_connections=16), aws.client("stepfunctions"), partition()
    put_all(s3, outputs.bucket, ((f"run-{ranks}/{n}.pt", body) for n in range(1, ranks + 1)))
    payload = {
        "bucket": outputs.bucket, "data_prefix": f"run-{ranks}", "result_path": f"results/run-{ranks}",
        "collectives": "direct",
    }  # fmt: skip
    start = time.perf_counter()
    arn = machine.start_execution(stateMachineArn=outputs.state_machine_arn, input=json.dumps(payload))
    ended = runs.follow(machine, s3, arn["executionArn"], payload, lambda finished, total: None)
    seconds = time.perf_counter() - start
    if not ended.succeeded:
        raise SystemExit(f"{ranks} ranks: {ended.status}: {ended.cause}")
    described = machine.describe_execution(executionArn=arn["executionArn"])
    summary = json.load(s3.get_object(Bucket=outputs.bucket, Key=f"results/run-{ranks}/summary.json")["Body"])
    return {
        "seconds": seconds,
        "finished ranks": summary["finished_ranks"],
        "metrics": summary["metrics_source"],
        "largest memory of a rank (MB)": summary["spread"]["total_process_memory (MB)"]["max"],
        "output of the execution (bytes)": len(described["output"]),
    }


def infos(aws: Emulator, outputs: Outputs, ranks: int) -> Json:
    s3 = aws.client("s3", max_pool_connections=16)
    rng, folder = np.random.default_rng(0), f"summarize-{ranks}"
    true = rng.uniform(0, 3, 1278)
    state = Metrics.of(true + rng.normal(0, 0.1, 1278), true, rng.uniform(17, 25, 1278)).to_json()
    info = {
        "run_id": "load", "num_samples": 1278, "cold_start": True, "memory_limit (MB)": 3538,
        "duration (seconds)": 2.0, "architecture": "arm64", "s3_num_requests": 12, "accuracy_state": state,
        "ended (unix seconds)": 1795305700.0, "data_path": "25MB/1.pt", "total_process_memory (MB)": 150.0,
    }  # fmt: skip
    run = {
        "run_id": "load", "started": "2026-11-22T00:00:00Z", "world_size": ranks, "bytes": ranks, "payload": {},
        "collectives": {"channel": "s3"},
    }  # fmt: skip
    put_all(s3, outputs.bucket, [(f"{folder}/run.json", json.dumps(run).encode())])
    bodies = ((f"{folder}/{n}.json", json.dumps({**info, "rank": n}).encode()) for n in range(ranks))
    put_all(s3, outputs.bucket, bodies)
    event = {
        "bucket": outputs.bucket, "result_path": folder, "run_id": "load", "world_size": ranks,
        "tolerated_failure_percentage": 0,
    }  # fmt: skip
    return call(aws, "summarize", event)


def plans(aws: Emulator, outputs: Outputs, partitions: int) -> Json:
    s3, prefix = aws.client("s3", max_pool_connections=16), f"initialize-{partitions}"
    put_all(s3, outputs.bucket, ((f"{prefix}/{n}.pt", b"x") for n in range(1, partitions + 1)))
    ranks = min(partitions, 10_000)
    event = {
        "bucket": outputs.bucket, "data_prefix": prefix, "result_path": f"results/{prefix}",
        "world_size": ranks,
    }  # fmt: skip
    return {"ranks": ranks, **call(aws, "initialize", event)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--ranks", type=int, nargs="*", default=[250, 1000])
    parser.add_argument("--infos", type=int, nargs="*", default=[1000, 10_000])
    parser.add_argument("--partitions", type=int, nargs="*", default=[10_000, 100_000])
    arguments = parser.parse_args()
    build = BuildFolder()
    assemble(build)
    figures: dict[str, dict[str, Json]] = {}
    with Emulator(build, 4) as aws:
        outputs = Deployment(aws.folder / "deployment", aws.environment, os.environ).apply(
            emulated_variables("load", aws)
        )
        for name, measure, sizes in (
            ("runs of that many ranks", whole_run, arguments.ranks),
            ("Summarize over that many rank infos", infos, arguments.infos),
            ("Initialize over that many partitions", plans, arguments.partitions),
        ):
            for size in sizes:
                figures.setdefault(name, {})[str(size)] = measure(aws, outputs, size)
                print(name, size, json.dumps(figures[name][str(size)]), flush=True)
    content = {"cores": os.cpu_count(), **figures}
    arguments.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
