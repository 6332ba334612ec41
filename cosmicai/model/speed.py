"""How fast a network is on one thread of this machine, for the plan of its first run."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from inference.data.partition import READS_AHEAD, PartitionFile, stream
from inference.engine.interface import Engine
from inference.engine.loading import load

BATCH = 256  # galaxies, as a payload's default
LEAST_SECONDS = 2.0  # that are timed
MOST_SECONDS = 30.0
_FILE = "card.json"


class SpeedError(ValueError):
    """No speed can be measured with what was given; the message says what to give."""


@dataclass(frozen=True)
class Measured:
    """images: those that were timed, in seconds, without the first batch. machine: what computed them."""

    images: int
    seconds: float
    machine: str
    precision: str

    @property
    def rate(self) -> float:
        """Images per second of one thread."""
        return self.images / self.seconds


class _Closed:
    """A file that is open only while it is read: the passes over it leave nothing open."""

    def __init__(self, path: Path) -> None:
        self._path, self.size = path, path.stat().st_size

    def read(self, start: int, stop: int) -> bytes:
        with self._path.open("rb") as file:
            return os.pread(file.fileno(), stop - start, start)


def measure(folder: Path, files: list[Path], precision: str = "auto") -> Measured:
    """Times the model's engine, as a rank would run it, over partitions.

    Raises SpeedError for too few galaxies, EngineError, or PartitionError.
    """
    engine = load(folder, "auto", precision, threads=1)
    images, began = 0, 0.0
    while True:
        before = images
        for size in _sizes(engine, files):
            now = time.perf_counter()
            if began:
                images += size
            else:
                began = now  # the first batch also waits for the disk and warms caches
            if images and now - began >= MOST_SECONDS:
                break
        seconds = time.perf_counter() - began
        if images == before:
            raise SpeedError(f"the partitions hold no more than one batch; give more than {BATCH} galaxies")
        if seconds >= LEAST_SECONDS:
            return Measured(images, seconds, _machine(engine), engine.precision)


def write(folder: Path, measured: Measured, command: str) -> None:
    """Adds the speed to the card of a model folder, or begins one.

    Raises SpeedError for a card that cannot be read.
    """
    path = folder / _FILE
    try:
        card = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        if not isinstance(card, dict):
            raise ValueError("it is not a JSON object")
    except (ValueError, RecursionError) as error:
        raise SpeedError(
            f"{_FILE} of the model folder cannot be read ({error}); restore it, or remove it"
        ) from error
    card["speed"] = {
        "images per second and thread": round(measured.rate, 1),
        "machine": measured.machine,
        "precision": measured.precision,
        "images": measured.images,
        "seconds": round(measured.seconds, 2),
        "commands": [command],
    }
    path.write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")


def _sizes(engine: Engine, files: list[Path]) -> Iterator[int]:
    """The galaxies of each batch of the partitions, as the engine has predicted them."""
    openers = [partial(PartitionFile.open, _Closed(path), path.name, engine.layout) for path in files]
    batch = engine.batch(BATCH)
    with ThreadPoolExecutor(READS_AHEAD) as pool:
        blocks = stream(openers, batch, pool)
        for predicted in engine.predict(rows for block in blocks for rows in block.rows.batches(batch)):
            yield len(predicted)


def _machine(engine: Engine) -> str:
    """'AMD EPYC, avx2': the processor and the instruction set that was used."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return ", ".join(filter(None, (named or platform.machine(), engine.instructions)))
