"""One process of benchmarks/engine.py, which explains its cases: CASE MODEL_FOLDER PARTITION THREADS BATCH.

Prints its measurements as JSON; the environment's STARTED is when the process was started.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
Json = dict[str, Any]


class Mark:
    """Seconds from the start of the process to its first batch and to its end, and what it took."""

    def __init__(self, started: float) -> None:
        self._started, self._loop, self.images = started, 0.0, 0
        self.first = self.warm = 0.0

    def batch(self, size: int) -> None:
        now = time.time()
        if not self.images:
            self.first = now - self._started
            self._loop, self.warm = now, size
        self.images += size

    def result(self) -> Json:
        now = time.time()
        status = Path("/proc/self/status").read_text()
        peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))
        return {
            "first batch (s)": self.first,
            "end (s)": now - self._started,
            "images/s": (self.images - self.warm) / max(now - self._loop, 1e-9),
            "peak memory (MiB)": peak / 1024,
            "CPU (s)": sum(os.times()[:2]),
            "images": self.images,
            "torch imported": "torch" in sys.modules,
        }


def today(model: Path, file: Path, threads: int, batch_size: int, mark: Mark) -> None:
    import gc
    import io

    import torch
    from torch.profiler import ProfilerActivity, profile

    from inference.engine import astromae

    torch.set_num_threads(threads)
    network = astromae.load(model)
    dataset = torch.load(io.BytesIO(file.read_bytes()), weights_only=False)
    loader = torch.utils.data.DataLoader(dataset, batch_size=batch_size)
    with torch.no_grad(), profile(activities=[ProfilerActivity.CPU], profile_memory=True):
        for batch in loader:
            predicted = network(batch[0], batch[1])
            mark.batch(len(predicted))
            gc.collect()


def eager(model: Path, file: Path, threads: int, batch_size: int, mark: Mark) -> None:
    import torch

    from inference.engine import astromae

    torch.set_num_threads(threads)
    network = astromae.load(model)
    images, magnitudes, *_ = torch.load(file, weights_only=False).tensors
    with torch.inference_mode():
        for rows in zip(images.split(batch_size), magnitudes.split(batch_size), strict=True):
            mark.batch(len(network(*rows)))


def ours(model: Path, file: Path, threads: int, batch_size: int, mark: Mark, precision: str) -> None:
    from concurrent.futures import ThreadPoolExecutor

    from inference.data.partition import READS_AHEAD, PartitionFile, stream
    from inference.data.torchfile import LocalFile
    from inference.engine.loading import load

    engine = load(model, "onnxruntime", precision, threads)
    with ThreadPoolExecutor(READS_AHEAD) as pool:
        micro = engine.batch(batch_size)
        blocks = stream([lambda: PartitionFile.open(LocalFile(file), file.name, engine.layout)], micro, pool)
        batches = (batch for block in blocks for batch in block.rows.batches(micro))
        waiting = 0
        for predicted in engine.predict(batches):
            waiting += len(predicted)
            if waiting >= batch_size:
                mark.batch(waiting)
                waiting = 0
        if waiting:
            mark.batch(waiting)


def gemm(threads: int) -> Json:
    import torch

    torch.set_num_threads(threads)
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    best = 0.0
    for _ in range(20):
        start = time.perf_counter()
        for _ in range(5):
            a @ b
        best = max(best, 5 * 2 * 1024**3 / (time.perf_counter() - start) / 1e9)
    return {"GFLOP/s": best}


def main() -> None:
    case, model, file, threads, batch_size = sys.argv[1:]
    sys.path[:0] = [str(ROOT), str(ROOT / "functions")]
    mark = Mark(float(os.environ["STARTED"]))
    what = (Path(model), Path(file), int(threads), int(batch_size), mark)
    if case == "gemm":
        print(json.dumps(gemm(int(threads))))
        return
    if case in ("today", "eager"):
        {"today": today, "eager": eager}[case](*what)
    else:
        ours(*what, case)
    print(json.dumps(mark.result()))


if __name__ == "__main__":
    main()
