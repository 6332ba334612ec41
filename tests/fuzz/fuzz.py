"""Fuzzes a target by coverage, with atheris: python -m tests.fuzz.fuzz TARGET SECONDS; `make fuzz` runs all.

What it finds lies in .cosmicai/fuzz/TARGET; a crash becomes a test beside those of what crashed.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(
    include=["initialize", "inference", "rendezvous", "summarize", "cosmicai.model.foreign"]
):
    from tests.fuzz.targets import TARGETS, seeds


def main() -> None:
    name, seconds = sys.argv[1], int(sys.argv[2])
    folder = Path(".cosmicai") / "fuzz" / name
    folder.mkdir(parents=True, exist_ok=True)
    for seed in seeds(name):
        (folder / hashlib.sha256(seed).hexdigest()[:16]).write_bytes(seed)
    options = [f"-max_total_time={seconds}", "-timeout=20", "-rss_limit_mb=3000", "-max_len=30000"]
    options += [f"-artifact_prefix={folder.parent}/crash-{name}-", "-print_final_stats=1"]
    atheris.Setup([sys.argv[0], *options, str(folder)], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
