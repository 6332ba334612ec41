"""What executes the network: one small interface, and the choice among its implementations."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .partition import Layout, Partition

Floats = NDArray[np.float32]

MODEL_FILES = ("config.json", "model.safetensors")
BUNDLED_MODEL = Path(__file__).parent / "models" / "dc2-small"


class EngineError(ValueError):
    """The asked-for engine or precision does not exist here."""


class Engine(Protocol):
    """A loaded network. `name`, `precision` and `device` go into the rank info; `layout` is what it takes."""

    name: str
    precision: str
    device: str
    layout: Layout
    model_bytes: int

    def predict(self, batches: Iterable[Partition]) -> Iterator[Floats]:
        """Redshifts (B,) of each batch in turn; a galaxy's never depends on the others of its batch."""


def load(folder: Path, engine: str, precision: str, threads: int, device: str = "cpu") -> Engine:
    """The engine for a model folder; `auto` picks the best that this host has. Raises EngineError."""
    if precision not in ("auto", "float32"):
        raise EngineError(f"precision: {precision} is not available; give auto or float32")
    if engine not in ("auto", "torch"):
        raise EngineError(f"engine: {engine} is not available; give auto or torch")
    from .torch_engine import TorchEngine  # torch takes a second to import: only when it is needed

    return TorchEngine(folder, threads, device)
