"""How fast each precision is on CPUs of this machine's kind, for the table that `auto` uses."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from cosmicai.data.dc2 import write_partition
from cosmicai.model.speed import Measured, measure
from inference.contract.model_files import REDUCED, admitted
from inference.engine.choice import read_graphs
from inference.engine.cpu import SPEEDS, cpu_kind, features, instructions

TURNS = 3  # measurements of each precision, one after the other in turn
_GALAXIES = 2048
Json = dict[str, Any]


class BenchError(ValueError):
    """Nothing can be measured, or the record cannot be written; the message says why."""


@dataclass(frozen=True)
class Bench:
    """Images per second of one thread by precision, each the median of TURNS measurements."""

    network: str
    rates: dict[str, float]

    @property
    def record(self) -> Json:
        """As speeds.json keeps it."""
        return {
            "cpu": cpu_kind(),
            "instructions": instructions(),
            "features": list(features()),
            "network": self.network,
            "images per second and thread": {name: round(rate, 1) for name, rate in self.rates.items()},
            "measured": datetime.now(UTC).date().isoformat(),
        }


def bench(model: Path) -> Bench:
    """Measures the admitted precisions of a model folder on one thread. Raises BenchError, or EngineError."""
    graphs = read_graphs(model)
    if instructions() is None:
        raise BenchError("the kernels of the graphs do not run on this CPU; it needs the torch engine")
    reduced = admitted(graphs or {})
    if not reduced:
        remedy = "`cosmicai model optimise --calibration …` makes and judges them"
        raise BenchError(f"{model} has no admitted {' or '.join(REDUCED)} to compare with float32; {remedy}")
    turns: list[dict[str, Measured]] = []
    with _galaxies() as files:
        for _ in range(TURNS):
            turns.append({name: measure(model, files, name) for name in ("float32", *reduced)})
    rates = {name: statistics.median(turn[name].rate for turn in turns) for name in turns[0]}
    return Bench(model.name, rates)


@contextmanager
def _galaxies() -> Iterator[list[Path]]:
    """A partition of random images (5, 32, 32) and magnitudes (5), on which the speed does not depend."""
    rng = np.random.default_rng(0)
    images = rng.standard_normal((_GALAXIES, 5, 32, 32), np.float32)
    magnitudes = rng.uniform(20, 26, (_GALAXIES, 5)).astype(np.float32)
    with TemporaryDirectory() as folder:
        path = Path(folder, "1.pt")
        write_partition(path, images, magnitudes, None)
        yield [path]


def share(record: Json, path: Path) -> None:
    """Writes the records of speeds.json with this one, in the place of an earlier one for this kind of CPU.

    Raises BenchError for a file that cannot be written.
    """
    records = [one for one in json.loads(SPEEDS.read_text()) if _kind(one) != _kind(record)]
    records = sorted([*records, record], key=_kind)
    try:
        path.write_text(json.dumps(records, indent=1) + "\n")
    except OSError as error:
        raise BenchError(f"{path} cannot be written: {error.strerror}; give another file") from error


def _kind(record: Json) -> tuple[str, str]:
    return str(record["cpu"]), str(record["instructions"])
