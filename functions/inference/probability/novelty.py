"""Galaxies unlike those that a network was made for: how unlikely they are, and how rare that is.

The encoder's embedding and the magnitudes form one vector, whose density is modelled by a mixture of normal
distributions (Lee et al. 2018, arXiv:1807.03888, model that of a network's features). A galaxy's score is minus
its log-density. The p-value is conformal (Laxhammar and Falkman 2010, StreamKDD): the share of galaxies with
such a high score, among the calibration galaxies and the galaxy itself. Whatever the density, a galaxy from the
same distribution as the calibration galaxies has p <= a with a probability of at most a.

`cosmicai model calibrate` writes novelty.json, with float32 numbers in base64:

    {"format": 1, "network": SHA-256 of model.safetensors, "galaxies": {"fitted": N, "calibrated": n},
     "embedding": D, "magnitudes": M, "components": K, "constants": "…", "centres": "…", "whitenings": "…",
     "scores": "…"}
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..contract.model_files import NOVELTY
from ..engine.interface import EngineError, Floats
from .calibration import at, from_file, unpacked, whole

RARE = 0.001  # a galaxy with a smaller p-value is flagged
_FORMAT = 1
_MOST_BYTES = 64 << 20
_MOST_NUMBERS = 2048  # of an embedding and magnitudes
_MOST_COMPONENTS = 64
_MOST_SCORES = 1_000_000
_ARRAYS = ("constants", "centres", "whitenings", "scores")

Json = dict[str, Any]


class NoveltyError(EngineError):
    """novelty.json is malformed or belongs to another network; the message says what to do."""


@dataclass(frozen=True, repr=False, eq=False)
class Novelty:
    """The density of galaxies as vectors of D numbers of the embedding and M magnitudes, D + M = k.

    constants (K,): for each normal distribution, the logarithm of its weight times its greatest density.
    centres (K, k). whitenings (K, k, k): turn differences from the centre into uncorrelated numbers of variance
    1. scores (n,): of the calibration galaxies, rising.
    """

    network: str
    fitted: int
    embedding: int
    magnitudes: int
    constants: Floats
    centres: Floats
    whitenings: Floats
    scores: Floats

    def score(self, embedding: Floats, magnitudes: Floats) -> Floats:
        """Minus the log-density divided by k, (N,), for embeddings (N, D) and magnitudes (N, M)."""
        vectors = np.concatenate([embedding, magnitudes], axis=1, dtype=np.float32)
        logs = np.empty((len(vectors), len(self.constants)), np.float64)
        parts = zip(self.constants, self.centres, self.whitenings, strict=True)
        for number, (constant, centre, whitening) in enumerate(parts):
            logs[:, number] = constant - 0.5 * np.square((vectors - centre) @ whitening).sum(
                1, dtype=np.float64
            )
        greatest = logs.max(axis=1, keepdims=True)
        density = greatest[:, 0] + np.log(np.exp(logs - greatest).sum(axis=1))
        return (-density / vectors.shape[1]).astype(np.float32)

    def p_value(self, score: Floats) -> Floats:
        """The share of galaxies with a score at least as high, (N,); NaN if the score is NaN."""
        lower = np.searchsorted(self.scores, score, side="left")
        shares = (1 + len(self.scores) - lower) / (1 + len(self.scores))
        return np.where(np.isnan(score), np.nan, shares).astype(np.float32)

    def to_json(self) -> Json:
        return {
            "format": _FORMAT,
            "network": self.network,
            "galaxies": {"fitted": self.fitted, "calibrated": len(self.scores)},
            "embedding": self.embedding,
            "magnitudes": self.magnitudes,
            "components": len(self.constants),
            **{name: _packed(getattr(self, name)) for name in _ARRAYS},
        }

    def write(self, folder: Path) -> None:
        (folder / NOVELTY).write_text(json.dumps(self.to_json(), indent=1) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Novelty:
        """Raises NoveltyError."""
        return from_file(folder / NOVELTY, cls.from_json, _MOST_BYTES, NoveltyError)

    @classmethod
    def from_json(cls, content: Any) -> Novelty:
        """Raises ValueError for anything that `to_json` would not write."""
        if at(content, "format") != _FORMAT:
            raise ValueError(f"format is not {_FORMAT}")
        embedding = whole(content, "embedding", 1, _MOST_NUMBERS)
        magnitudes = whole(content, "magnitudes", 0, _MOST_NUMBERS)
        components = whole(content, "components", 1, _MOST_COMPONENTS)
        count, galaxies = embedding + magnitudes, at(content, "galaxies")
        scores = unpacked(content, "scores", whole(galaxies, "calibrated", 1, _MOST_SCORES))
        if not np.all(np.diff(scores) >= 0):
            raise ValueError("scores do not rise")
        return cls(
            network=str(at(content, "network")),
            fitted=whole(galaxies, "fitted", 1, 2**53),
            embedding=embedding,
            magnitudes=magnitudes,
            constants=unpacked(content, "constants", components),
            centres=unpacked(content, "centres", components * count).reshape(components, count),
            whitenings=unpacked(content, "whitenings", components * count**2).reshape(components, count, count),
            scores=scores,
        )

    def check(self, network: str | None, embedding: int, magnitudes: int) -> None:
        """network, embedding, magnitudes: those of the network that the engine runs. Raises NoveltyError."""
        if not embedding:
            raise NoveltyError(
                f"model: the graph gives no embedding, which {NOVELTY} needs; run `cosmicai model optimise` on "
                "the model and upload it again"
            )
        if (network, embedding, magnitudes) != (self.network, self.embedding, self.magnitudes):
            raise NoveltyError(
                f"model: {NOVELTY} was made for another network than the one in its folder; run `cosmicai "
                "model calibrate` on the model and upload it again"
            )


def _packed(numbers: NDArray[np.floating]) -> str:
    return base64.b64encode(np.asarray(numbers, "<f4").tobytes()).decode()
