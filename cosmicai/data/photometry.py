"""What the numbers of a partition mean: bands, zero point, pixel scale, flux unit, limits.

No tensor says it, and a network that was trained on one photometric system is wrong on another. So a folder of
partitions may hold photometry.json, and a model folder's card repeats it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

FILE = "photometry.json"


class PhotometryError(ValueError):
    """Descriptions of the photometry that are broken or contradict each other; the message names the field."""


@dataclass(frozen=True)
class Photometry:
    """None if a value is not known.

    bands: names in the order of the channels. zero_point: AB magnitude of a flux of 1. pixel_scale: arcsec per
    pixel. flux_unit: of the images' pixels. magnitude_limits: by band, the magnitude of a galaxy that is
    not detected in it.
    """

    bands: tuple[str, ...] | None = None
    zero_point: float | None = None
    pixel_scale: float | None = None
    flux_unit: str | None = None
    magnitude_limits: tuple[float, ...] | None = None

    @property
    def unknown(self) -> list[str]:
        return [name for name, value in asdict(self).items() if value is None]

    def corrected(self, stated: Photometry) -> Photometry:
        """With the values that are stated in place of its own."""
        return replace(self, **{name: value for name, value in asdict(stated).items() if value is not None})

    def write(self, folder: Path) -> None:
        (folder / FILE).write_text(json.dumps(asdict(self), indent=2) + "\n")


def read(folder: Path) -> Photometry:
    """That of a folder of partitions; all unknown if it has no photometry.json."""
    path = folder / FILE
    if not path.exists():
        return Photometry()
    try:
        values = json.loads(path.read_text())
        known: dict[str, Any] = {field.name: values.pop(field.name, None) for field in fields(Photometry)}
    except (ValueError, AttributeError, TypeError) as error:
        raise PhotometryError(f"{path}: is not a JSON object ({error})") from error
    if values:
        raise PhotometryError(f"{path}: unknown fields: {', '.join(map(str, values))}")
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in known.items()}
    return Photometry(**values)


def common(folders: Iterable[Path]) -> Photometry:
    """What all folders agree on; raises PhotometryError if two of them disagree."""
    agreed: dict[str, Any] = {}
    for folder in folders:
        for name, value in asdict(read(folder)).items():
            if value is not None and agreed.setdefault(name, value) != value:
                raise PhotometryError(
                    f"{folder}: {name} is {value}, but {agreed[name]} in another folder: "
                    "train on one photometric system at a time"
                )
    return Photometry(**agreed)
