"""A rank's part of a catalogue as Parquet, by arro3 and by pyarrow: size, import, writing, memory.

    .venv/bin/python benchmarks/parquet.py

Each runs in a new process. Prints the median of five; writes benchmarks/parquet.json.
"""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
import sys
from importlib.metadata import distribution

from cosmicai.packaging.places import ROOT

PACKAGES = {"arro3": ("arro3-core", "arro3-io"), "pyarrow": ("pyarrow",)}
GALAXIES = (1_228, 12_280)  # of partitions of 25 and 250 MB
_REPEATS = 5
_CHILD = """
import importlib, io, json, resource, sys, time
import numpy as np
library, count = sys.argv[1], int(sys.argv[2])
random = np.random.default_rng(0)
table = {"id": 2**60 + np.arange(count), "file": np.array(["25MB/1.pt"] * count), "row": np.arange(count)}
table |= {f"z_{n}": random.normal(1, 0.3, count).astype(np.float32) for n in range(11)}
table["pdf"] = random.random((count, 315)).astype(np.float16).astype(np.float32)
start = time.perf_counter()
if library == "arro3":
    import arro3.core, arro3.io
    from inference.table import parquet
    imported = time.perf_counter()
    body = parquet(table, {}, {})
else:
    import pyarrow as pa, pyarrow.parquet
    imported = time.perf_counter()
    lists = lambda array: pa.FixedSizeListArray.from_arrays(pa.array(array.reshape(-1)), array.shape[1])
    arrays = {name: pa.array(one) if one.ndim == 1 else lists(one) for name, one in table.items()}
    stream = io.BytesIO()
    pa.parquet.write_table(pa.table(arrays), stream, compression="zstd")
    body = stream.getvalue()
end = time.perf_counter()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"import_ms": 1e3 * (imported - start), "write_ms": 1e3 * (end - imported),
                  "file_kb": len(body) / 1e3, "peak_mib": peak}))
"""


def installed_mb(packages: tuple[str, ...]) -> float:
    """Size of the packages' files, as they are in an image."""
    files = (file for name in packages for file in distribution(name).files or ())
    paths = {file.locate() for file in files if "__pycache__" not in str(file)}
    return sum(path.stat().st_size for path in map(ROOT.joinpath, paths) if path.is_file()) / 1e6


def measured(library: str, galaxies: int) -> dict[str, float]:
    """The median of each figure over new processes."""
    command = [sys.executable, "-c", _CHILD, library, str(galaxies)]
    runs = [
        json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        for _ in range(_REPEATS)
    ]
    return {name: round(statistics.median(run[name] for run in runs), 1) for name in runs[0]}


def main() -> None:
    measurements = {
        library: {
            "installed_mb": round(installed_mb(packages), 1),
            "galaxies": {str(count): measured(library, count) for count in GALAXIES},
        }
        for library, packages in PACKAGES.items()
    }
    result = {"machine": platform.machine(), "python": platform.python_version(), **measurements}
    text = json.dumps(result, indent=1)
    (ROOT / "benchmarks" / "parquet.json").write_text(f"{text}\n")
    print(text)


if __name__ == "__main__":
    main()
