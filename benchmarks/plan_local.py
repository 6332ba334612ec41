"""Plans of this machine beside its runs: python benchmarks/plan_local.py OUT.json [--ranks 4 8] [--repeats 3]

On the embedded AWS, for each number of ranks and some times in turn: the probe of `cosmicai plan --probe`, its
plan of a run of 4 or 8 ranks of 25 MB, and that run itself. The ratio is the plan's median over the run's
seconds from start to end, as Step Functions states them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from cosmicai.data.dc2 import write_partition
from cosmicai.deploy.target import Target, local_target
from cosmicai.deploy.terraform import Deployment, emulated_variables
from cosmicai.emulator import Emulator
from cosmicai.experiments.cases import Case
from cosmicai.experiments.planning import plan
from cosmicai.experiments.probing import probe
from cosmicai.packaging.assembly import assemble
from cosmicai.packaging.places import BuildFolder
from cosmicai.runs import client

Json = dict[str, Any]
PARTITION_MB = 25
AT_ONCE = 16


def upload(target: Target, ranks: int) -> int:
    """Writes partitions under data/; returns the galaxies of each."""
    galaxies, dice = Case(10**6, PARTITION_MB, 1769, "arm64").images_per_partition, np.random.default_rng(0)
    columns = (
        dice.normal(0, 0.1, (galaxies, 5, 32, 32)),
        dice.normal(24, 1, (galaxies, 5)),
        dice.uniform(0.1, 2, galaxies),
    )
    with TemporaryDirectory() as scratch:
        path = Path(scratch) / "1.pt"
        write_partition(path, *(column.astype(np.float32) for column in columns))
        for rank in range(ranks):
            target.client("s3").upload_file(str(path), target.bucket, f"data/{rank + 1}.pt")
    return galaxies


def run(target: Target, ranks: int) -> Json:
    """A run's seconds, and its cold starts."""
    s3, machine = target.client("s3"), target.client("stepfunctions")
    name = f"run-{time.time_ns()}"
    payload = {
        "bucket": target.bucket, "data_prefix": "data", "result_path": f"results/{name}", "file_limit": ranks,
    }  # fmt: skip
    arn = client.start(target, payload, name)
    ended = client.follow(machine, s3, arn, payload, lambda ended, of: None, 0.2)
    if not ended.succeeded:
        raise SystemExit(f"{ended.status}: {ended.cause}")
    execution = machine.describe_execution(executionArn=arn)
    infos = json.load(s3.get_object(Bucket=target.bucket, Key=f"results/{name}/combined_data.json")["Body"])
    return {
        "run, s": round((execution["stopDate"] - execution["startDate"]).total_seconds(), 2),
        "cold starts": sum(info["cold_start"] for info in infos),
    }


def pair(target: Target, ranks: int, galaxies: int) -> Json:
    """One probe, its plan, and the run."""
    began, load = time.perf_counter(), os.getloadavg()[0]
    measured = probe(target, galaxies, "auto")
    seconds = time.perf_counter() - began
    case = Case(ranks * galaxies, PARTITION_MB, measured.memory_mb, measured.architecture)
    planned = plan(case, measured.assumptions(AT_ONCE, "up"))
    ran = run(target, ranks)
    return {
        "ranks": ranks,
        "probe, s": round(seconds, 1),
        "other programs": round(measured.others, 1),
        "parts, s": {name: round(value, 2) for name, value in planned.parts.items()},
        "plan, s": {name: round(value, 2) for name, value in vars(planned.seconds).items()},
        **ran,
        "plan/run": round(planned.seconds.p50 / ran["run, s"], 3),
        "load before and after": [round(load, 1), round(os.getloadavg()[0], 1)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--ranks", type=int, nargs="*", default=[4, 8])
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    build, pairs = BuildFolder(), []
    assemble(build)
    with Emulator(build, AT_ONCE) as aws:
        outputs = Deployment(aws.folder / "deployment", aws.environment, os.environ).apply(
            emulated_variables("plan", aws)
        )
        aws.publish_relay_key(outputs.bucket)
        state = {
            "endpoint": aws.endpoint,
            "bucket": outputs.bucket,
            "state_machine_arn": outputs.state_machine_arn,
        }
        target = local_target(state)
        galaxies = upload(target, max(arguments.ranks))
        for _ in range(arguments.repeats):
            for ranks in arguments.ranks:
                pairs.append(pair(target, ranks, galaxies))
                print(json.dumps(pairs[-1]), flush=True)
    ratios = {
        str(ranks): statistics.median(one["plan/run"] for one in pairs if one["ranks"] == ranks)
        for ranks in arguments.ranks
    }
    content = {
        "cores": os.cpu_count(),
        "galaxies a rank": galaxies,
        "median plan/run by ranks": ratios,
        "pairs": pairs,
    }
    arguments.out.write_text(json.dumps(content, indent=1) + "\n")
    print(json.dumps(ratios))


if __name__ == "__main__":
    main()
