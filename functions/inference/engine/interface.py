"""What every way to run the network offers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..data.partition import Layout, Partition

Floats = NDArray[np.float32]


class EngineError(ValueError):
    """The asked-for engine or precision does not exist here."""


class Engine(Protocol):
    """A loaded network. `layout` is what it takes; the other fields go into the rank info."""

    name: str
    instructions: str
    precision: str
    device: str
    layout: Layout
    model_bytes: int

    def batch(self, asked: int) -> int:
        """How many galaxies `predict` wants at once, where the user asked for `asked`."""

    def predict(self, batches: Iterable[Partition]) -> Iterator[Floats]:
        """Redshifts (B,) of each batch in turn; a galaxy's never depends on the others of its batch."""
