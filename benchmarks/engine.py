"""One rank's work compared with today's way: python benchmarks/engine.py MODEL_FOLDER PARTITIONS OUT.json

MODEL_FOLDER: of the full-size network, with int8 and bfloat16 admitted by `cosmicai model optimise`.
PARTITIONS: folder with 1.pt (25 MB) and 100.pt (100 MB), made where they are missing.
OUT.json: has every measurement as soon as it is made; the same command continues where it was interrupted.

Every figure is a process of its own, from its start; all cases take turns, and medians count. Cases:

today       torch in float32 as published: the whole module, torch.no_grad, a DataLoader over the TensorDataset,
            torch.profiler over the loop (CPU activity, memory), gc.collect after each batch, the file read into
            a BytesIO and torch.load
eager       torch.inference_mode over slices of the tensors, nothing else
float32     this project's engine
bfloat16    the same in an admitted reduced precision; where the CPU lacks products of it, by float32 ones
int8        the same in the other admitted reduced precision
gemm        a float32 matrix product of the machine by torch, for comparison with the FLOPs of the network

Where the CPU has more than AVX2, some is measured a second time with AVX2 alone, as on Lambda's x86 hosts:
avx2_only.c hides the rest from all libraries. That needs a C compiler and a CPU whose CPUID can fault (Intel's,
mostly); elsewhere that part is left out, and the result says so.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
WORKER = ROOT / "benchmarks" / "engine_worker.py"
FASTEST_BATCH = 256  # galaxies; for today's way, so by default
PUBLISHED_BATCH, FIRST_BATCH = 512, 64  # as published; if the first redshifts are needed soon
CASES = ("today", "eager", "float32", "bfloat16", "int8")
BEYOND_AVX2 = {"avx512f", "avx_vnni", "avx_ifma", "amx_tile"}  # as /proc/cpuinfo names them
Json = dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """The conditions of a measurement. capped: with only AVX2."""

    partition: str
    threads: int
    batch: int = FASTEST_BATCH
    capped: bool = False

    @property
    def key(self) -> str:
        instructions = "AVX2 alone" if self.capped else "native"
        return f"{self.partition}, {self.threads} threads, batches of {self.batch}, {instructions}"

    @property
    def cases(self) -> tuple[str, ...]:
        return (*CASES, "gemm") if (self.partition, self.batch) == ("25 MB", FASTEST_BATCH) else CASES


STANDARD, ONE_THREAD = Setting("25 MB", 2), Setting("25 MB", 1)
FIRST, LARGE = Setting("25 MB", 2, FIRST_BATCH), Setting("100 MB", 2)
PUBLISHED = Setting("100 MB", 2, PUBLISHED_BATCH)
CAPPED = [Setting(s.partition, s.threads, s.batch, True) for s in (STANDARD, PUBLISHED, ONE_THREAD)]
SETTINGS = [STANDARD, FIRST, LARGE, ONE_THREAD, PUBLISHED, *CAPPED]


def measure(case: str, model: Path, file: Path, setting: Setting, library: Path | None) -> Json:
    environment = {**os.environ, "STARTED": str(time.time())}
    if setting.capped:
        environment["LD_PRELOAD"] = str(library)
    command = [
        sys.executable,
        str(WORKER),
        case,
        str(model),
        str(file),
        str(setting.threads),
        str(setting.batch),
    ]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    if ended.returncode:
        raise SystemExit(f"{case}: {ended.stderr[-2000:]}")
    line = next(line for line in reversed(ended.stdout.splitlines()) if line.startswith("{"))
    result: Json = json.loads(line)
    return result


def make_partitions(folder: Path) -> dict[str, Path]:
    import torch
    from torch.utils.data import TensorDataset

    folder.mkdir(parents=True, exist_ok=True)
    files = {STANDARD.partition: folder / "1.pt", LARGE.partition: folder / "100.pt"}
    for file, count in zip(files.values(), (1278, 5112), strict=True):
        if not file.exists():
            torch.manual_seed(count)
            tensors = [torch.randn(count, 5, 32, 32) * 0.1, torch.rand(count, 5) + 23, torch.rand(count)]
            torch.save(TensorDataset(*tensors), file)
    return files


def flops_per_image(model: Path) -> float:
    """The operations of the network as torch defines it, before any rewrite."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from inference.engine import astromae

    network = astromae.load(model)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(8, 5, 32, 32), torch.zeros(8, 5))
    return counter.get_total_flops() / 8


def hidden_instructions(folder: Path) -> tuple[Path | None, str]:
    """The library that hides everything beyond AVX2 from a process; or None and the reason."""
    from inference.engine.cpu import cpu_flags

    if "avx2" not in cpu_flags():
        return None, f"this machine ({platform.machine()}) has no AVX2"
    if not cpu_flags() & BEYOND_AVX2:
        return None, "AVX2 is this CPU's native instruction set: all figures are by AVX2 alone"
    library = folder / "avx2_only.so"
    command = ["cc", "-O2", "-shared", "-fPIC", "-o", str(library), str(ROOT / "benchmarks" / "avx2_only.c")]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        return None, f"AVX2 alone was not measured: {command[0]} cannot compile avx2_only.c ({error})"
    preloaded = subprocess.run(["true"], env={**os.environ, "LD_PRELOAD": str(library)}, capture_output=True)
    if preloaded.returncode:
        return (
            None,
            "AVX2 alone was not measured: this machine's CPUID cannot fault (arch_prctl, ARCH_SET_CPUID)",
        )
    return library, "AVX2 alone: everything beyond AVX2 is hidden from the process"


def identity(model: Path) -> Json:
    """What measurements must have in common to be compared."""
    code = ROOT / "functions" / "inference"
    return {
        "machine": f"{cpu_name()}, {os.cpu_count()} cores",
        "model": _digest(model / "model.safetensors", model / "graphs.json"),
        "code": _digest(
            WORKER, *sorted(code.rglob("*.py")), *sorted((code / "engine" / "kernels").glob("*.so"))
        ),
    }


def _digest(*files: Path) -> str:
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def begun(out: Path, model: Path, note: str) -> Json:
    """The result so far: that of an earlier call with the same command, or a new one."""
    of = identity(model)
    if not out.exists():
        return {"of": of, "note": note, "MFLOP per image": flops_per_image(model) / 1e6, "runs": {}}
    result: Json = json.loads(out.read_text())
    others = [name for name, value in of.items() if result.get("of", {}).get(name) != value]
    if others:
        raise SystemExit(
            f"{out}: was measured with another {' and '.join(others)}; delete it or give another file"
        )
    return result


def missing(runs: Json, settings: list[Setting], repeat: int) -> Iterator[tuple[Setting, str]]:
    """What is still to be measured, in turns over all cases."""
    for turn in range(repeat):
        for setting in settings:
            for case in setting.cases:
                if len(runs.get(setting.key, {}).get(case, [])) <= turn:
                    yield setting, case


def benchmark(model: Path, partitions: Path, out: Path, repeat: int, quick: bool) -> Json:
    sys.path[:0] = [str(ROOT), str(ROOT / "functions")]
    files = make_partitions(partitions)
    with tempfile.TemporaryDirectory() as folder:
        library, note = hidden_instructions(Path(folder))
        settings = [s for s in SETTINGS if library is not None or not s.capped]
        result = begun(out, model, note)
        for setting, case in missing(result["runs"], settings[:1] if quick else settings, repeat):
            measured = measure(case, model, files[setting.partition], setting, library)
            result["runs"].setdefault(setting.key, {}).setdefault(case, []).append(measured)
            result["medians"] = medians(result["runs"])
            _write(out, result)
            print(f"{setting.key}: {case} {measured}", file=sys.stderr, flush=True)
    return result


def _write(out: Path, result: Json) -> None:
    partial = out.with_suffix(".partial")
    partial.write_text(json.dumps(result, indent=1) + "\n")
    partial.replace(out)


def medians(runs: Json) -> Json:
    return {
        key: {
            case: {name: statistics.median(one[name] for one in measured) for name in measured[0]}
            for case, measured in cases.items()
        }
        for key, cases in runs.items()
    }


def rows() -> Iterator[tuple[str, Setting, str]]:
    """Title, setting and measure of each row of the table."""
    plain, published, one_thread = CAPPED
    yield "images/s, 2 threads", STANDARD, "images/s"
    yield f"images/s, 2 threads, batches of {FIRST_BATCH}", FIRST, "images/s"
    yield f"images/s, 2 threads, batches of {PUBLISHED_BATCH}", PUBLISHED, "images/s"
    yield "images/s, 1 thread", ONE_THREAD, "images/s"
    yield "images/s, 2 threads, AVX2 alone", plain, "images/s"
    yield f"images/s, 2 threads, batches of {PUBLISHED_BATCH}, AVX2 alone", published, "images/s"
    yield "images/s, 1 thread, AVX2 alone", one_thread, "images/s"
    yield f"process start to first batch of {FIRST_BATCH}, s", FIRST, "first batch (s)"
    yield "process start to the end of 25 MB, s", STANDARD, "end (s)"
    yield "process start to the end of 100 MB, s", LARGE, "end (s)"
    yield "CPU seconds, 25 MB", STANDARD, "CPU (s)"
    yield "peak memory, 25 MB, MiB", STANDARD, "peak memory (MiB)"
    yield "peak memory, 100 MB, MiB", LARGE, "peak memory (MiB)"


def table(result: Json) -> str:
    """Markdown: absolute figures, and in brackets how many times better than today."""
    measured = result["medians"]
    complete = {setting.key for setting in SETTINGS if set(setting.cases) <= set(measured.get(setting.key, {}))}
    lines = ["| | " + " | ".join(CASES) + " |", "| --- |" + " ---: |" * len(CASES)]
    for title, setting, name in rows():
        if setting.key in complete:
            lines.append(_row(title, [measured[setting.key][case][name] for case in CASES], name == "images/s"))
    if STANDARD.key in complete:
        lines += _costs(measured[STANDARD.key])
    for title, setting in (("native", STANDARD), ("AVX2 alone", CAPPED[0])):
        if setting.key in complete:
            lines.append(_shares(title, measured[setting.key], result["MFLOP per image"]))
    return "\n".join(lines)


def _costs(cases: Json) -> list[str]:
    from inference.contract.limits import MB_PER_VCPU
    from inference.contract.pricing import GB_SECOND

    seconds = [cases[case]["end (s)"] / cases[case]["images"] * 1e6 for case in CASES]
    gigabyte_seconds = [s * 2 * MB_PER_VCPU / 1024 for s in seconds]
    dollars = [g * GB_SECOND["x86_64"] for g in gigabyte_seconds]
    return [
        _row("GB-seconds per million images, x86, 2 vCPU", gigabyte_seconds, False),
        _row("dollars per million images", dollars, False),
    ]


def _shares(title: str, cases: Json, megaflops: float) -> str:
    limit = cases["gemm"]["GFLOP/s"]
    shares = " | ".join(f"{cases[case]['images/s'] * megaflops / 1000 / limit:.2f}" for case in CASES)
    return f"| share of a float32 GEMM ({limit:.0f} GFLOP/s), {title} | {shares} |"


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
    parser.add_argument("out", type=Path)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help=f"only {STANDARD.key}")
    arguments = parser.parse_args()
    result = benchmark(arguments.model, arguments.partitions, arguments.out, arguments.repeat, arguments.quick)
    turns = min(len(measured) for cases in result["runs"].values() for measured in cases.values())
    print(f"{result['of']['machine']}, medians of {turns}. {result['note']}.\n\n{table(result)}")


if __name__ == "__main__":
    main()
