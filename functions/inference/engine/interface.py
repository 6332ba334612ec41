"""What every way to run the network offers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..data.partition import Layout, Partition

Floats = NDArray[np.float32]
REDSHIFT, EMBEDDING, DENSITY = "redshift", "embedding", "density"  # what a graph gives, by name


class EngineError(ValueError):
    """The asked-for engine or precision does not exist here."""


@dataclass(frozen=True)
class Output:
    """Of a batch: redshifts (B,); where asked for embeddings (B, D), and probabilities of bins (B, K).

    An imported network may give no redshift. others: what else it gives, by column, (B, …).
    """

    redshift: Floats | None
    embedding: Floats | None = None
    density: Floats | None = None
    others: Mapping[str, Floats] = field(default_factory=dict)


def redshifts(outputs: Iterable[Output]) -> Iterator[Floats]:
    """The redshifts of outputs. Raises EngineError where there is none."""
    for one in outputs:
        if one.redshift is None:
            raise EngineError("model: this network gives no redshift")
        yield one.redshift


class Engine(Protocol):
    """A loaded network. `layout` is what it takes; the other fields go into the rank info.

    embedding_width: D, the numbers by which the encoder describes an image, the mean of its patch tokens after
    the last normalisation; 0 where the graph does not give them. density_bins: K, of p(z); 0 where the network
    has no head for it.
    """

    name: str
    instructions: str
    precision: str
    device: str
    layout: Layout
    model_bytes: int
    embedding_width: int
    density_bins: int

    def batch(self, asked: int) -> int:
        """How many galaxies `predict` wants at once, where the user asked for `asked`."""

    def predict(self, batches: Iterable[Partition]) -> Iterator[Floats]:
        """Redshifts (B,) of each batch in turn; a galaxy's never depends on the others of its batch.

        Raises EngineError for an imported network that gives none.
        """

    def outputs(self, batches: Iterable[Partition], embedding: bool, density: bool = False) -> Iterator[Output]:
        """The same, with embeddings and p(z) where asked for. Raises EngineError where there are none."""
