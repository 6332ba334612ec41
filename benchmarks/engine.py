"""One rank's work beside the way it is done today: python benchmarks/engine.py MODEL_FOLDER PARTITIONS OUT.json

MODEL_FOLDER: of the full-size network, with int8 admitted (`cosmicai model optimise --calibration`).
PARTITIONS: folder with 1.pt (25 MB) and 100.pt (100 MB), made where they are missing.

Every figure is a process of its own, from its start; all cases take turns, and medians count. Rows:

today       torch in float32 as published: the whole module, torch.no_grad, a DataLoader over the TensorDataset,
            torch.profiler over the loop (CPU activity, memory), gc.collect after each batch, the file read into
            a BytesIO and torch.load
eager       torch.inference_mode over slices of the tensors, nothing else
float32     this project's engine
int8        this project's engine, its admitted reduced precision
gemm        a float32 matrix product of the machine by torch, for comparison with the FLOPs of the network

`avx2` hides everything beyond AVX2 from all libraries (avx2_only.c; needs a C compiler and CPUID faulting).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BATCHES = {"first": 64, "published": 512}  # galaxies: wanted soon; as published
FASTEST_BATCH = 256  # for today's way, so by default
CASES = ("today", "eager", "float32", "int8")
USD_PER_GB_SECOND = 0.0000166667  # x86, https://aws.amazon.com/lambda/pricing/ as of November 2026
MB_PER_VCPU = 1769
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

    from inference import astromae

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

    from inference import astromae

    torch.set_num_threads(threads)
    network = astromae.load(model)
    images, magnitudes, *_ = torch.load(file, weights_only=False).tensors
    with torch.inference_mode():
        for rows in zip(images.split(batch_size), magnitudes.split(batch_size), strict=True):
            mark.batch(len(network(*rows)))


def ours(model: Path, file: Path, threads: int, batch_size: int, mark: Mark, precision: str) -> None:
    from concurrent.futures import ThreadPoolExecutor

    from inference.engine import load
    from inference.partition import READS_AHEAD, PartitionFile, stream
    from inference.torchfile import LocalFile

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


def worker(arguments: argparse.Namespace) -> None:
    """One process's share, printed as JSON."""
    sys.path[:0] = [str(ROOT), str(ROOT / "functions")]
    mark = Mark(float(os.environ["STARTED"]))
    if arguments.case == "gemm":
        print(json.dumps(gemm(arguments.threads)))
        return
    if arguments.case in ("today", "eager"):
        run = {"today": today, "eager": eager}[arguments.case]
        run(arguments.model, arguments.partitions, arguments.threads, arguments.batch, mark)
    else:
        what = (arguments.model, arguments.partitions, arguments.threads, arguments.batch)
        ours(*what, mark, arguments.case)
    print(json.dumps(mark.result()))


def measure(case: str, model: Path, file: Path, threads: int, batch: int, preload: Path | None) -> Json:
    environment = {**os.environ, "STARTED": str(time.time())}
    if preload is not None:
        environment["LD_PRELOAD"] = str(preload)
    command = [sys.executable, __file__, str(model), str(file), "-", "--case", case]
    command += ["--threads", str(threads), "--batch", str(batch)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{case}: {done.stderr[-2000:]}")
    line = next(line for line in reversed(done.stdout.splitlines()) if line.startswith("{"))
    result: Json = json.loads(line)
    return result


def make_partitions(folder: Path) -> dict[str, Path]:
    import torch
    from torch.utils.data import TensorDataset

    folder.mkdir(parents=True, exist_ok=True)
    files = {"25 MB": folder / "1.pt", "100 MB": folder / "100.pt"}
    for file, count in zip(files.values(), (1278, 5112), strict=True):
        if not file.exists():
            torch.manual_seed(count)
            tensors = [torch.randn(count, 5, 32, 32) * 0.1, torch.rand(count, 5) + 23, torch.rand(count)]
            torch.save(TensorDataset(*tensors), file)
    return files


def flops_per_image(model: Path) -> float:
    """Of the network as torch defines it, before any rewrite."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from inference import astromae

    network = astromae.load(model)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(8, 5, 32, 32), torch.zeros(8, 5))
    return counter.get_total_flops() / 8


def compiled(folder: Path) -> Path:
    library = folder / "avx2_only.so"
    source = str(ROOT / "benchmarks" / "avx2_only.c")
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", str(library), source], check=True)
    return library


def benchmark(model: Path, partitions: Path, repeat: int) -> Json:
    sys.path[:0] = [str(ROOT), str(ROOT / "functions")]
    files = make_partitions(partitions)
    files |= {"first": files["25 MB"], "published": files["100 MB"]}
    with tempfile.TemporaryDirectory() as folder:
        cap = compiled(Path(folder))
        settings: list[tuple[str, int, str, Path | None]] = [
            ("first", 2, "native", None),
            ("25 MB", 2, "native", None),
            ("100 MB", 2, "native", None),
            ("25 MB", 1, "native", None),
            ("25 MB", 2, "avx2", cap),
            ("25 MB", 1, "avx2", cap),
            ("published", 2, "native", None),
            ("published", 2, "avx2", cap),
        ]
        runs: dict[str, dict[str, list[Json]]] = {}
        for turn in range(repeat):
            for size, threads, isa, preload in settings:
                key = f"{size}, {threads} threads, {isa}"
                for case in (*CASES, *(("gemm",) if size == "25 MB" else ())):
                    batch = BATCHES.get(size, FASTEST_BATCH)
                    done = measure(case, model, files[size], threads, batch, preload)
                    runs.setdefault(key, {}).setdefault(case, []).append(done)
                    print(f"{turn + 1}/{repeat} {key}: {case} {done}", file=sys.stderr, flush=True)
    medians = {
        key: {
            case: {name: statistics.median(one[name] for one in found) for name in found[0]}
            for case, found in cases.items()
        }
        for key, cases in runs.items()
    }
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    return {
        "machine": f"{cpu}, {os.cpu_count()} cores",
        "repeat": repeat,
        "batches": {**BATCHES, "others": FASTEST_BATCH},
        "MFLOP per image": flops_per_image(model) / 1e6,
        "medians": medians,
    }


def table(found: Json) -> str:
    """Markdown: absolute figures, and in brackets how many times better than today."""
    medians = found["medians"]
    first, native, one, capped, one_capped, large, published, published_capped = (
        medians[key]
        for key in (
            "first, 2 threads, native",
            "25 MB, 2 threads, native",
            "25 MB, 1 threads, native",
            "25 MB, 2 threads, avx2",
            "25 MB, 1 threads, avx2",
            "100 MB, 2 threads, native",
            "published, 2 threads, native",
            "published, 2 threads, avx2",
        )
    )
    rows: list[tuple[str, dict[str, Json], str, bool]] = [
        ("images/s, 2 threads", native, "images/s", True),
        ("images/s, 2 threads, batches of 64", first, "images/s", True),
        ("images/s, 2 threads, batches of 512", published, "images/s", True),
        ("images/s, 1 thread", one, "images/s", True),
        ("images/s, 2 threads, AVX2 alone", capped, "images/s", True),
        ("images/s, 2 threads, batches of 512, AVX2 alone", published_capped, "images/s", True),
        ("images/s, 1 thread, AVX2 alone", one_capped, "images/s", True),
        ("process start to first batch of 64, s", first, "first batch (s)", False),
        ("process start to the end of 25 MB, s", native, "end (s)", False),
        ("process start to the end of 100 MB, s", large, "end (s)", False),
        ("CPU seconds, 25 MB", native, "CPU (s)", False),
        ("peak memory, 25 MB, MiB", native, "peak memory (MiB)", False),
        ("peak memory, 100 MB, MiB", large, "peak memory (MiB)", False),
    ]
    lines = ["| | " + " | ".join(CASES) + " |", "| --- |" + " ---: |" * len(CASES)]
    for title, cases, name, more_is_better in rows:
        lines.append(_row(title, [cases[case][name] for case in CASES], more_is_better))
    gigabytes = 2 * MB_PER_VCPU / 1024
    seconds = [native[case]["end (s)"] / native[case]["images"] * 1e6 for case in CASES]
    lines.append(_row("GB-seconds a million images, x86, 2 vCPU", [s * gigabytes for s in seconds], False))
    dollars = [s * gigabytes * USD_PER_GB_SECOND for s in seconds]
    lines.append(_row("dollars a million images", dollars, False))
    for title, cases in (("native", native), ("AVX2 alone", capped)):
        limit = cases["gemm"]["GFLOP/s"]
        shares = [cases[case]["images/s"] * found["MFLOP per image"] / 1000 / limit for case in CASES]
        lines.append(
            f"| share of a float32 GEMM ({limit:.0f} GFLOP/s), {title} | "
            + " | ".join(f"{s:.2f}" for s in shares)
            + " |"
        )
    return "\n".join(lines)


def _row(title: str, values: list[float], more_is_better: bool) -> str:
    cells = []
    for value in values:
        ratio = value / values[0] if more_is_better else values[0] / value
        shown = f"{value:,.0f}" if value >= 100 else f"{value:.2f}"
        cells.append(shown if value is values[0] else f"{shown} ({ratio:.1f} ×)")
    return f"| {title} | " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("partitions", type=Path)
    parser.add_argument("out")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--batch", type=int, default=FASTEST_BATCH, help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        worker(arguments)
        return
    found = benchmark(arguments.model, arguments.partitions, arguments.repeat)
    Path(arguments.out).write_text(json.dumps(found, indent=1) + "\n")
    print(f"{found['machine']}, medians of {found['repeat']}\n\n{table(found)}")


if __name__ == "__main__":
    main()
