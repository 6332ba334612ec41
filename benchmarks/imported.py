"""An imported network through a rank, and the same ONNX file by onnxruntime in a plain loop, in one process.

    .venv/bin/python benchmarks/imported.py OUT.json [--rounds N]

Two networks of other kinds are exported by torch.onnx.export and imported by `cosmicai model import-onnx`. A
partition of stamps goes through both ways in turn: each reads the partition file, computes, and writes an .npz.
The rank also checks every object, names classes, measures accuracy, and writes its rank info. Both use as many
threads as there are cores. What they predict must agree to 1e-5. Prints a table of ratios, rank / loop: of wall
time, and of the CPU time of the process, which other programs on the machine change less.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import TensorDataset

from cosmicai.model.import_onnx import import_onnx
from cosmicai.model.onnxfile.choosing import Asked
from cosmicai.runs.infer import LOCAL, FileStorage
from inference import process
from inference.contract.event import RankEvent
from inference.rank import Rank
from inference.sandbox import Host, Sandbox

OBJECTS = 1278  # of a partition of 59 MB
SHAPE = (5, 48, 48)
BATCH = 256  # of the plain loop, and asked of the rank
WIDTHS = {"small CNN": (8, 8), "larger CNN": (32, 64)}
Json = dict[str, Any]
Floats = NDArray[np.float32]


def network(first: int, second: int) -> nn.Sequential:
    """Stamps (N, 5, 48, 48) to the probabilities of two classes; its speed does not depend on its weights."""
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(SHAPE[0], first, 5, stride=2), nn.ReLU(),
        nn.Conv2d(first, second, 3, padding=1), nn.ReLU(),
        nn.Conv2d(second, second, 3, stride=2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(second, 2), nn.Softmax(1),
    ]  # fmt: skip
    return nn.Sequential(*layers).eval()


def exported(model: nn.Module, file: Path) -> None:
    free = {"pixels": {0: "N"}, "probability": {0: "N"}}
    torch.onnx.export(
        model, (torch.zeros(2, *SHAPE),), str(file), input_names=["pixels"], output_names=["probability"],
        dynamic_axes=free, dynamo=False,
    )  # fmt: skip


def by_rank(folder: Path, model: Path, partition: Path, threads: int) -> Callable[[], Floats]:
    """Runs a rank in a warm sandbox; returns the probabilities that it has written."""
    import boto3

    host = Host(process.machine_memory(), threads, folder)
    sandbox = Sandbox(lambda: FileStorage(boto3.client("s3", region_name="us-east-1")), host)
    event = RankEvent(
        rank=0, world_size=1, run_id="benchmark", bucket=LOCAL, result_path=str(folder / "rank"),
        data_bucket=LOCAL, data_prefix=str(partition.parent), data_paths=(str(partition),), batch_size=BATCH,
        model=str(model),
    )  # fmt: skip

    def run() -> Floats:
        Rank(event, sandbox).run()
        with np.load(folder / "rank" / "predictions" / "0.npz") as arrays:
            return np.stack([arrays["type_galaxy"], arrays["type_star"]], 1)

    return run


def by_loop(folder: Path, file: Path, partition: Path, threads: int) -> Callable[[], Floats]:
    """What a user would write: torch.load, batches through a session, numpy.savez."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])

    def run() -> Floats:
        images = torch.load(partition, weights_only=False).tensors[0].numpy()
        parts = [
            session.run(["probability"], {"pixels": images[start : start + BATCH]})[0]
            for start in range(0, len(images), BATCH)
        ]
        probabilities: Floats = np.concatenate(parts)
        np.savez(folder / "loop.npz", probabilities=probabilities)
        return probabilities

    return run


def compared(ways: dict[str, Callable[[], Floats]], rounds: int) -> Json:
    """Seconds of each way, in turn and in changing order, and the ratios of each round."""
    predicted = {name: way() for name, way in ways.items()}  # warms both
    rank, loop = predicted.values()
    if not np.allclose(rank, loop, atol=1e-5):
        raise SystemExit("the rank and the loop do not predict the same")
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for number in range(rounds):
        for name in list(ways)[:: 1 if number % 2 else -1]:
            wall, cpu = time.perf_counter(), time.process_time()
            ways[name]()
            seconds[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    result: Json = {}
    for place, what in enumerate(("wall", "CPU")):
        taken = {name: [one[place] for one in every] for name, every in seconds.items()}
        ratios = sorted(a / b for a, b in zip(taken["rank"], taken["loop"], strict=True))
        result[what] = {
            "ratio, rank / loop": [statistics.median(ratios), ratios[0], ratios[-1]],
            **{f"{name} (seconds)": statistics.median(one) for name, one in taken.items()},
        }
    return result


def measured(widths: tuple[int, int], rounds: int, threads: int) -> Json:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model = network(*widths)
        exported(model, folder / "net.onnx")
        asked = Asked(outputs={"type": "probability"}, classes={"type": ["galaxy", "star"]})
        import_onnx(folder / "net.onnx", folder / "model", asked)
        random = torch.Generator().manual_seed(0)
        images, labels = torch.randn(OBJECTS, *SHAPE, generator=random), (torch.arange(OBJECTS) % 2).float()
        (folder / "data").mkdir()
        partition = folder / "data" / "1.pt"
        torch.save(TensorDataset(images, labels), partition)
        ways = {
            "rank": by_rank(folder, folder / "model", partition, threads),
            "loop": by_loop(folder, folder / "net.onnx", partition, threads),
        }
        return {"parameters": sum(one.numel() for one in model.parameters()), **compared(ways, rounds)}


def table(networks: Json) -> str:
    lines = [
        "| network | parameters | rank / loop, wall time | rank / loop, CPU time |",
        "| --- | ---: | ---: | ---: |",
    ]
    for name, one in networks.items():
        cells = (
            f"{middle:.2f} ({low:.2f} to {high:.2f})"
            for middle, low, high in (one[what]["ratio, rank / loop"] for what in ("wall", "CPU"))
        )
        lines.append(f"| {name} | {one['parameters']:,} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rounds", type=int, default=11)
    arguments = parser.parse_args()
    threads, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    networks = {name: measured(widths, arguments.rounds, threads) for name, widths in WIDTHS.items()}
    result = {
        "machine": f"{threads} cores of {platform.machine()}",
        "onnxruntime": onnxruntime.__version__,
        "rounds": arguments.rounds,
        "objects": OBJECTS,
        "load of the machine before": load,
        "networks": networks,
    }
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(table(networks))


if __name__ == "__main__":
    main()
