"""What a model takes, by the config and card of its folder."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import inference
from cosmicai.data.photometry import Photometry
from inference.contract.model_files import BUNDLED as BUNDLED_NAME
from initialize.contract.photometry import of_card

BUNDLED = Path(inference.__file__).parent / "models" / BUNDLED_NAME


class LayoutError(ValueError):
    """A model folder does not say what its model takes."""


@dataclass(frozen=True)
class ModelLayout:
    """images (N, channels, size, size), magnitudes (N, magnitudes), and what their numbers mean.

    ranges: magnitudes at 0.1 and 99.9 percent of the training galaxies, by band; redshifts: least and greatest.
    """

    name: str
    channels: int = 5
    size: int = 32
    magnitudes: int = 5
    photometry: Photometry = field(default_factory=Photometry)
    ranges: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    redshifts: tuple[float, float] | None = None

    @property
    def bands(self) -> tuple[str, ...] | None:
        return self.photometry.bands

    @property
    def sample_bytes(self) -> int:
        """Of a galaxy's tensors in a partition, redshift included."""
        return (self.channels * self.size**2 + self.magnitudes + 1) * 4

    def described(self) -> str:
        bands = f"{', '.join(self.bands)} " if self.bands else f"{self.channels} bands "
        scale = self.photometry.pixel_scale
        return f"{bands}at {self.size}×{self.size}" + (f' pixels of {scale:g}"' if scale else " pixels")


def read(folder: Path) -> ModelLayout:
    """The layout of a model folder, or of a config.json alone: a network that is still to be trained.

    Raises LayoutError.
    """
    config_path = folder if folder.is_file() else folder / "config.json"
    config = _json(config_path)
    card_path = config_path.parent / "card.json"
    card = _json(card_path) if card_path.is_file() and folder.is_dir() else {}
    try:
        known = {name: int(config.get(name, default)) for name, default in _DEFAULTS.items()}
        trained = card.get("trained on") or {}
        ranges = trained.get("magnitudes, 0.1 and 99.9 percent")
        layout = ModelLayout(
            folder.name if folder.is_dir() else str(folder),
            known["channels"],
            known["image_size"],
            known["magnitudes"],
            of_card(card),
            None if ranges is None else (tuple(ranges[0]), tuple(ranges[1])),
            tuple(trained["redshift"]) if "redshift" in trained else None,
        )
    except (TypeError, ValueError, AttributeError, IndexError) as error:
        raise LayoutError(
            f"{folder}: config.json or card.json is not one of a model folder ({error})"
        ) from error
    if layout.bands is not None and len(layout.bands) != layout.channels:
        raise LayoutError(
            f"{card_path}: names {len(layout.bands)} bands; config.json has {layout.channels} channels"
        )
    return layout


_DEFAULTS = {"channels": 5, "image_size": 32, "magnitudes": 5}


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise LayoutError(f"{path}: {error.strerror}; give the folder of a model") from error
    except ValueError as error:
        raise LayoutError(f"{path}: is not JSON ({error})") from error
    if not isinstance(content, dict):
        raise LayoutError(f"{path}: is not a JSON object")
    return content
