"""`cosmicai data prepare` of a large source, compared with a plain copy of its bytes and an earlier commit.

    .venv/bin/python benchmarks/data_prepare.py [--gb 4] [--before COMMIT]

The source is written piece by piece, so that its size is not limited by memory. Prints seconds, their ratios
and the peak resident memory; writes benchmarks/data_prepare.json.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import TensorDataset

from cosmicai.data.dc2 import SAMPLE_BYTES
from cosmicai.packaging.places import ROOT

_CHILD = """
import re, sys
from cosmicai.cli import main
try:
    main()
finally:
    print(re.search(r"VmHWM:.*", open("/proc/self/status").read())[0], file=sys.stderr)
"""
_IMAGE = (5, 32, 32)
_ROWS = 2048  # drawn at once


def generate(path: Path, gigabytes: float) -> int:
    """A partition as torch writes it; its images are mapped from a file, not held in memory."""
    rows = int(gigabytes * 1e9 / SAMPLE_BYTES)
    values = path.with_suffix(".values")
    images = np.memmap(values, np.float32, "w+", shape=(rows, *_IMAGE))
    random = np.random.default_rng(0)
    for start in range(0, rows, _ROWS):
        part = images[start : start + _ROWS]
        part[:] = random.standard_normal(part.shape, np.float32)
    torch.save(TensorDataset(torch.from_numpy(images), torch.full((rows, 5), 21.0), torch.ones(rows)), path)
    del images
    values.unlink()
    return path.stat().st_size


def copy(source: Path, target: Path) -> float:
    start = time.perf_counter()
    with source.open("rb") as read, target.open("wb") as write:
        shutil.copyfileobj(read, write, 8 << 20)
    return time.perf_counter() - start


def prepare(source: Path, out: Path, code: Path = ROOT) -> tuple[float, float]:
    """(seconds, peak resident MB) of the command line in a checkout."""
    paths = os.pathsep.join([str(code), str(code / "functions")])
    command = [sys.executable, "-c", _CHILD, "data", "prepare", str(source), "--out", str(out)]
    start = time.perf_counter()
    ended = subprocess.run(
        command, capture_output=True, text=True, cwd=code, env={**os.environ, "PYTHONPATH": paths}
    )
    seconds = time.perf_counter() - start
    if ended.returncode:
        raise SystemExit(f"data prepare in {code} failed:\n{ended.stderr[-2000:]}")
    peak = re.search(r"VmHWM:\s+(\d+)", ended.stderr)
    return seconds, int(peak[1]) / 1024 if peak else float("nan")


def checkout(commit: str, folder: Path) -> Path:
    """The files of a commit, in a new folder."""
    folder.mkdir()
    archive = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=True).stdout
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive, check=True)
    return folder


def measured(folder: Path, gigabytes: float, before: str | None) -> dict[str, float]:
    source, out = folder / "source.pt", folder / "out"
    result = {"source (GB)": generate(source, gigabytes) / 1e9}
    plain = copy(source, folder / "copy.pt")
    (folder / "copy.pt").unlink()
    earlier = {}
    if before is not None:
        seconds, memory = prepare(source, folder / "out-before", checkout(before, folder / "before"))
        shutil.rmtree(folder / "out-before")
        earlier = {"before (seconds)": seconds, "before, peak resident memory (MB)": memory}
    first, peak = prepare(source, out)
    again, _ = prepare(source, out)
    result |= {
        "plain copy (seconds)": plain,
        "prepare (seconds)": first,
        "prepare, all there already (seconds)": again,
        "prepare / plain copy": first / plain,
        "peak resident memory (MB)": peak,
        **earlier,
    }
    if earlier:
        result["prepare / before"] = first / earlier["before (seconds)"]
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--gb", type=float, default=4.0, help="size of the source")
    parser.add_argument("--before", metavar="COMMIT", help="an earlier commit to compare with")
    parser.add_argument("--folder", type=Path, help="where the files are written; default: the repository")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder or ROOT) as name:
        result = measured(Path(name), arguments.gb, arguments.before)
    (ROOT / "benchmarks" / "data_prepare.json").write_text(json.dumps(result, indent=2) + "\n")
    for key, value in result.items():
        print(f"{key:<40} {value:10.2f}")


if __name__ == "__main__":
    main()
