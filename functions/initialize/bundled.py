"""What Initialize knows about the network in the inference image: both are packaged from the same files."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .contract.model_files import BUNDLED, GRAPHS
from .payload import packaged_json

_FOLDER = Path(__file__).parents[1] / "inference" / "models" / BUNDLED


@dataclass(frozen=True)
class Bundled:
    """The bundled model's graphs.json and card.json.

    Both are {} if the image is not this deployment's own, because it may bundle another network.
    """

    graphs: dict[str, Any] = field(default_factory=dict)
    card: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def packaged(cls) -> Bundled:
        return cls(packaged_json(GRAPHS, _FOLDER), packaged_json("card.json", _FOLDER))
