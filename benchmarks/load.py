"""Whole runs of many ranks on the embedded AWS: python benchmarks/load.py OUT.json [--ranks 250 1000]

Each partition holds one galaxy. benchmarks/run.py --many measures Initialize and Summarize of still more ranks.
"""

from __future__ import annotations

import argparse
import io
import json
import os
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
from cosmicai.packaging.places import BuildFolder
from cosmicai.runs import client as runs

Json = dict[str, Any]


def put_all(s3: Any, bucket: str, bodies: Any) -> None:
    with ThreadPoolExecutor(16) as pool:
        for _ in pool.map(lambda item: s3.put_object(Bucket=bucket, Key=item[0], Body=item[1]), bodies):
            pass


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--ranks", type=int, nargs="*", default=[250, 1000])
    arguments = parser.parse_args()
    build = BuildFolder()
    assemble(build)
    figures: dict[str, Json] = {}
    with Emulator(build, 4) as aws:
        outputs = Deployment(aws.folder / "deployment", aws.environment, os.environ).apply(
            emulated_variables("load", aws)
        )
        for ranks in arguments.ranks:
            figures[str(ranks)] = whole_run(aws, outputs, ranks)
            print(ranks, json.dumps(figures[str(ranks)]), flush=True)
    content = {"cores": os.cpu_count(), "runs of that many ranks": figures}
    arguments.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
