"""What the numbers of a partition mean: bands, zero point, pixel scale, flux unit, limits.

No tensor says it, and a network that was trained on one photometric system is wrong on another. So there is a
photometry.json next to partitions, and a model's card repeats it. Every command, and Initialize, follows the
rules of this module: what two of them state must agree, and what one does not state is not compared. Uses only
the standard library.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from .units import zero_point_of

FILE = "photometry.json"
MOST_BYTES = 1 << 16
SAME_SCALE = 0.005  # pixel scales closer than this are one: 32 pixels then differ by a sixth of a pixel
SAME_MAGNITUDE = 0.005  # so are zero points and limits
_MOST_BANDS = 1000
_MOST_CHARACTERS = 200


class PhotometryError(ValueError):
    """Descriptions of the photometry that are broken or contradict each other; the message names the field."""


@dataclass(frozen=True)
class Photometry:
    """What is known about the numbers of a partition; None stands for a value that is not known.

    bands: names in the order of the channels. zero_point: AB magnitude of a flux of 1. pixel_scale: arcsec per
    pixel. flux_unit: of the images' pixels. magnitude_limits: by band, the magnitude of a galaxy that is
    not detected in it.
    """

    bands: tuple[str, ...] | None = None
    zero_point: float | None = None
    pixel_scale: float | None = None
    flux_unit: str | None = None
    magnitude_limits: tuple[float, ...] | None = None

    @classmethod
    def from_json(cls, content: Any) -> Photometry:
        """Raises PhotometryError."""
        if not isinstance(content, dict):
            raise PhotometryError("is not a JSON object")
        unknown = content.keys() - {field.name for field in fields(cls)}
        if unknown:
            raise PhotometryError(f"unknown fields: {', '.join(sorted(unknown))[:_MOST_CHARACTERS]}")
        faults = [
            f"{name} is {json.dumps(value)[:_MOST_CHARACTERS]}, not {expected}"
            for name, (is_right, expected) in _RULES.items()
            if (value := content.get(name)) is not None and not is_right(value)
        ]
        if faults:
            raise PhotometryError("; ".join(faults))
        values: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in content.items()}
        stated = cls(**values)
        by_unit = None if stated.flux_unit is None else zero_point_of(stated.flux_unit)
        if None not in (by_unit, stated.zero_point) and not _agree("zero_point", by_unit, stated.zero_point):
            raise PhotometryError(
                f"zero_point is {stated.zero_point}, but fluxes in {stated.flux_unit} have {by_unit:g}"
            )
        return stated

    @property
    def unknown(self) -> list[str]:
        return [name for name, value in asdict(self).items() if value is None]

    @property
    def ab_zero_point(self) -> float | None:
        """The zero point, or if it is not stated, the one that follows from the flux unit."""
        if self.zero_point is not None or self.flux_unit is None:
            return self.zero_point
        return zero_point_of(self.flux_unit)

    def completed(self, other: Photometry) -> Photometry:
        """This photometry, with the values of `other` for fields that it does not state itself."""
        own = {name: value for name, value in asdict(self).items() if value is not None}
        return replace(other, **own)

    def differences(self, other: Photometry) -> list[tuple[str, str, str]]:
        """(field, value here, value there) for the fields that both state and that differ."""
        pairs: list[tuple[str, Any, Any]] = [
            ("bands", self.bands, other.bands),
            ("zero_point", self.ab_zero_point, other.ab_zero_point),
            ("pixel_scale", self.pixel_scale, other.pixel_scale),
            ("magnitude_limits", self.magnitude_limits, other.magnitude_limits),
        ]
        if self.ab_zero_point is None or other.ab_zero_point is None:
            pairs.append(("flux_unit", self.flux_unit, other.flux_unit))
        return [
            (name, shown(one), shown(two))
            for name, one, two in pairs
            if one is not None and two is not None and not _agree(name, one, two)
        ]

    def described(self) -> str:
        """The values that are known, in words."""
        zero_point = self.ab_zero_point
        texts = [
            self.bands and f"bands {shown(self.bands)}",
            None if zero_point is None else f"zero point {zero_point:g}",
            None if self.pixel_scale is None else f'pixel scale {self.pixel_scale:g}"',
            self.flux_unit if self.flux_unit and zero_point is None else None,
            self.magnitude_limits and f"magnitude limits {shown(self.magnitude_limits)}",
        ]
        return ", ".join(text for text in texts if text)


def shown(value: Any) -> str:
    """A value for a message."""
    if isinstance(value, tuple):
        return ", ".join(map(shown, value))
    return value if isinstance(value, str) else f"{value:g}"


def parsed(body: bytes, place: str) -> Photometry:
    """The content of a photometry.json. Raises PhotometryError, which names the place."""
    try:
        if len(body) > MOST_BYTES:
            raise PhotometryError(f"has {len(body):,} bytes, and at most {MOST_BYTES:,} are read")
        return Photometry.from_json(json.loads(body))
    except (PhotometryError, RecursionError, ValueError) as error:
        what = str(error) if isinstance(error, PhotometryError) else f"is not JSON ({error})"
        raise PhotometryError(f"{place}: {what}; correct the file, or prepare the partitions again") from error


def of_card(card: Any) -> Photometry:
    """What a model's card.json states. Raises PhotometryError."""
    stated = card.get("photometry") if isinstance(card, dict) else None
    return Photometry() if stated is None else Photometry.from_json(stated)


def common(described: Iterable[tuple[str, Photometry]]) -> Photometry:
    """The values that all descriptions, each given with its place, agree on.

    Raises PhotometryError if two of them disagree.
    """
    agreed = Photometry()
    sources: dict[str, str] = {}  # by field: the first place that states it
    for place, photometry in described:
        for name, value, before in photometry.differences(agreed):
            raise PhotometryError(
                f"{place}: {name} is {value}, but {before} in {sources[name]}: give partitions of one "
                "photometric system at a time"
            )
        agreed = agreed.completed(photometry)
        for field in fields(Photometry):
            if getattr(photometry, field.name) is not None:
                sources.setdefault(field.name, place)
                if field.name == "flux_unit" and photometry.ab_zero_point is not None:
                    sources.setdefault("zero_point", place)
    return agreed


def check_model(place: str, photometry: Photometry, model: str, card: Photometry) -> None:
    """Raises PhotometryError if partitions have another photometry than the network's card states.

    Limits may differ: ranks and commands use the model's.
    """
    differences = replace(photometry, magnitude_limits=None).differences(card)
    if differences:
        faults = "; ".join(f"{name} is {here}, but {there}" for name, here, there in differences)
        raise PhotometryError(
            f"{place}: {faults} on the card of {model}, so its results would be wrong: make partitions for "
            "this model with `cosmicai data prepare`, choose the model that these were made for, or correct "
            "the file"
        )


def _agree(name: str, one: Any, two: Any) -> bool:
    if name == "pixel_scale":
        return bool(abs(one / two - 1) < SAME_SCALE)
    if name == "zero_point":
        return bool(abs(one - two) < SAME_MAGNITUDE)
    if name == "magnitude_limits":
        return len(one) == len(two) and all(abs(a - b) < SAME_MAGNITUDE for a, b in zip(one, two, strict=True))
    return bool(one == two)


def _is_number(value: Any) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an int beyond the floats
        return False


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value.isprintable() and 0 < len(value) <= _MOST_CHARACTERS


def _is_list(value: Any) -> bool:
    return isinstance(value, list) and 0 < len(value) <= _MOST_BANDS


_RULES = {
    "bands": (
        lambda value: _is_list(value) and all(map(_is_text, value)) and len(set(value)) == len(value),
        "a list of different names",
    ),
    "zero_point": (_is_number, "a magnitude"),
    "pixel_scale": (lambda value: _is_number(value) and value > 0, "arcsec, above 0"),
    "flux_unit": (_is_text, "a unit"),
    "magnitude_limits": (
        lambda value: _is_list(value) and all(map(_is_number, value)),
        "a list of magnitudes, one for each band",
    ),
}
