"""The interface of the engines, which run the network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..data.partition import Layout, Partition

Floats = NDArray[np.float32]
REDSHIFT, EMBEDDING, DENSITY = "redshift", "embedding", "density"  # names of a graph's outputs


class EngineError(ValueError):
    """The requested engine or precision is not available here."""


@dataclass(frozen=True, repr=False, eq=False)
class Output:
    """The results of a batch: redshifts (B,) and, if requested, embeddings (B, D) and p(z) in bins (B, K).

    An imported network may give no redshift. others: what else it gives, by column, (B, …).
    """

    redshift: Floats | None
    embedding: Floats | None = None
    density: Floats | None = None
    others: Mapping[str, Floats] = field(default_factory=dict)


def redshifts(outputs: Iterable[Output]) -> Iterator[Floats]:
    """The redshifts of outputs. Raises EngineError if there is none."""
    for one in outputs:
        if one.redshift is None:
            raise EngineError("model: this network gives no redshift")
        yield one.redshift


class Engine(Protocol):
    """A loaded network. `layout` describes its inputs; the other fields go into the rank info.

    embedding_width: D, the length of the encoder's embedding of an image, which is the mean of its patch tokens
    after the last normalisation; 0 if the graph does not give it. density_bins: K, the bins of p(z); 0 if the
    network has no head for it.
    """

    name: str
    instructions: str
    precision: str
    device: str
    layout: Layout
    model_bytes: int
    embedding_width: int
    density_bins: int

    def batch(self, requested: int) -> int:
        """The best batch size for `predict`, given the one that the user has requested."""

    def predict(self, batches: Iterable[Partition]) -> Iterator[Floats]:
        """Redshifts (B,) of each batch in turn; a galaxy's never depends on the others of its batch.

        Raises EngineError for an imported network that gives none.
        """

    def outputs(self, batches: Iterable[Partition], embedding: bool, density: bool = False) -> Iterator[Output]:
        """The same, with embeddings and p(z) if requested. Raises EngineError if the network has none."""
