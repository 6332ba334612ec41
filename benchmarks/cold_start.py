"""Where a cold start's time goes: python benchmarks/cold_start.py OUT.json [--before CHECKOUT] [--repeats 11]

From the start of the process that Lambda starts in the image to the first 64 redshifts of the bundled network,
on two threads: each step's wall and CPU seconds, medians of some processes. The code is packaged as for an
image, and Python may not add bytecode to it, as on Lambda. Nothing is downloaded.
--before CHECKOUT: the root of an earlier checkout, which is measured in turn with this one.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from cosmicai.data.dc2 import write_partition
from cosmicai.packaging.places import ROOT

Json = dict[str, Any]
_PACKAGES = sysconfig.get_path("purelib")
_STEPS = """
import os, sys, time
seconds, wall, cpu = {}, float(os.environ["STARTED"]), 0.0

def mark(step):
    global wall, cpu
    now, used = time.time(), time.process_time()
    seconds[step] = [now - wall, used - cpu]
    wall, cpu = now, used

mark("interpreter")
for name in os.environ["FIRST"].split():
    __import__(name)
mark("numpy")
import onnxruntime
mark("onnxruntime")
import inference.rank, inference.sandbox
mark("our modules")
import inference.handler
mark("S3's client, network")
from inference.data.partition import read
(model,) = inference.handler._sandbox._models.values()
with open(sys.argv[1], "rb") as file:
    partition = read(file.read(), "1.pt")
assert sum(map(len, model.engine.predict([partition]))) == 64
mark("first batch of 64")
import json
print(json.dumps(seconds))
"""


def packaged(checkout: Path, folder: Path) -> Path:
    """The folder, filled with what an image of the checkout holds besides its packages."""
    command = [sys.executable, "-m", "cosmicai.packaging", "code", str(folder)]
    subprocess.run(command, cwd=checkout, env={**os.environ, "PYTHONPATH": str(checkout)}, check=True)
    return folder


def start(task: Path, partition: Path) -> Json:
    """Wall and CPU seconds by step, of one process in an environment like Lambda's. task: see `packaged`."""
    names = ("importing", "one_blas_thread")  # what the handler imports first; an earlier checkout may lack it
    first = [f"inference.{name}" for name in names if (task / "inference" / f"{name}.py").exists()]
    environment = {
        "PATH": os.environ["PATH"], "PYTHONPATH": f"{task}{os.pathsep}{_PACKAGES}",
        "PYTHONDONTWRITEBYTECODE": "1", "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "3538",
        "AWS_ACCESS_KEY_ID": "AKIA", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_SESSION_TOKEN": "token",
        "AWS_REGION": "us-east-1", "AWS_DEFAULT_REGION": "us-east-1", "STARTED": repr(time.time()),
        "FIRST": " ".join([*first, "numpy"]),
    }  # fmt: skip
    command = [sys.executable, "-S", "-c", _STEPS, str(partition)]  # as an image has no .pth files
    process = subprocess.run(command, env=environment, capture_output=True, text=True)
    if process.returncode:
        raise SystemExit(process.stderr)
    seconds: Json = json.loads(process.stdout.splitlines()[-1])
    return seconds


def medians(starts: list[Json]) -> Json:
    """By step: the median of each figure, and of the sum of all steps."""
    columns = {step: [one[step] for one in starts] for step in starts[0]}
    columns["in all"] = [[sum(figure) for figure in zip(*one.values(), strict=True)] for one in starts]
    return {
        step: [round(statistics.median(one), 4) for one in zip(*rows, strict=True)]
        for step, rows in columns.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--before", type=Path)
    parser.add_argument("--repeats", type=int, default=11)
    arguments = parser.parse_args()
    checkouts = {"now": ROOT, **({"before": arguments.before.resolve()} if arguments.before else {})}
    starts: dict[str, list[Json]] = {name: [] for name in checkouts}
    rng = np.random.default_rng(0)
    with TemporaryDirectory() as folder:
        partition = Path(folder, "1.pt")
        images = rng.standard_normal((64, 5, 32, 32), np.float32)
        write_partition(partition, images, rng.uniform(20, 26, (64, 5)).astype(np.float32), None)
        tasks = {name: packaged(checkout, Path(folder, name)) for name, checkout in checkouts.items()}
        for _ in range(arguments.repeats):
            for name, task in tasks.items():
                starts[name].append(start(task, partition))
    measured = {name: medians(rows) for name, rows in starts.items()}
    content = {"cores": os.cpu_count(), "load": os.getloadavg()[0], "wall and CPU seconds": measured}
    arguments.out.write_text(json.dumps(content, indent=1) + "\n")
    print(f"| | {' | '.join(f'{name}, s | CPU, s' for name in measured)} |")
    print("| --- |" + " ---: | ---: |" * len(measured))
    for step in measured["now"]:
        print(
            f"| {step} | "
            + " | ".join(f"{figure:.3f}" for one in measured.values() for figure in one[step])
            + " |"
        )


if __name__ == "__main__":
    main()
