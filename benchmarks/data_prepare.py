"""`cosmicai data prepare` of a large source beside a plain sequential copy of the same bytes, in one run.

    .venv/bin/python benchmarks/data_prepare.py [--gb 4]

Prints seconds, their ratio and the peak resident memory; writes benchmarks/data_prepare.json.
"""

from __future__ import annotations

import argparse
import json
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


def generate(path: Path, gigabytes: float) -> int:
    rows = int(gigabytes * 1e9 / SAMPLE_BYTES)
    images = torch.from_numpy(np.random.default_rng(0).standard_normal((rows, 5, 32, 32), np.float32))
    torch.save(TensorDataset(images, torch.full((rows, 5), 21.0), torch.ones(rows)), path)
    return path.stat().st_size


def copy(source: Path, target: Path) -> float:
    start = time.perf_counter()
    with source.open("rb") as read, target.open("wb") as write:
        shutil.copyfileobj(read, write, 8 << 20)
    return time.perf_counter() - start


def prepare(source: Path, out: Path) -> tuple[float, float]:
    """(seconds, peak resident MB)."""
    start = time.perf_counter()
    command = [sys.executable, "-c", _CHILD, "data", "prepare", str(source), "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - start
    found = re.search(r"VmHWM:\s+(\d+)", done.stderr)
    return seconds, int(found[1]) / 1024 if found else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--gb", type=float, default=4.0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=ROOT) as name:
        folder = Path(name)
        size = generate(folder / "source.pt", arguments.gb)
        plain = copy(folder / "source.pt", folder / "copy.pt")
        (folder / "copy.pt").unlink()
        first, peak = prepare(folder / "source.pt", folder / "out")
        again, _ = prepare(folder / "source.pt", folder / "out")
    result = {
        "source (GB)": size / 1e9,
        "plain copy (seconds)": plain,
        "prepare (seconds)": first,
        "prepare, all there already (seconds)": again,
        "prepare / plain copy": first / plain,
        "peak resident memory (MB)": peak,
    }
    (ROOT / "benchmarks" / "data_prepare.json").write_text(json.dumps(result, indent=2) + "\n")
    for key, value in result.items():
        print(f"{key:<40} {value:10.2f}")


if __name__ == "__main__":
    main()
