"""calibration.json of a model folder, which turns predicted redshifts into calibrated densities.

`cosmicai model calibrate` writes it. Weights are float32 in base64, everything else is plain JSON:

    {"format": 1, "network": SHA-256 of model.safetensors, "galaxies": {"fitted": N, "calibrated": N},
     "magnitudes": 5, "features": {"centre": […], "scale": […]}, "unit": …, "residuals": […],
     "members": [[{"shape": [out, in], "weights": "…", "biases": "…"}, …], …],
     "calibrator": {"base": […], "level": […]}, "redshifts": {"to": 3.2, "step": 0.01}}

For a network that gives p(z) itself, `edges`, the redshifts between its bins, replaces the fields from
`features` to `members`.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..contract.columns import redshift_grid
from ..contract.model_files import CALIBRATION
from ..contract.untrusted import load
from ..engine.interface import EngineError, Floats

FORMAT = 1
REFERENCE_BAND = 3  # i of ugriz, by which accuracy is binned, too

_MOST_BYTES = 8 << 20
_MOST_DIGITS = 20
_MOST_MEMBERS = 32
_MOST_LAYERS = 8
_MOST_WIDTH = 1024
_MOST_KNOTS = 2000
_LARGEST = 1e6  # of a weight or a feature

Doubles = NDArray[np.float64]
Json = dict[str, Any]
Parsed = TypeVar("Parsed")


class CalibrationError(EngineError):
    """calibration.json is malformed or belongs to another network; the message says what to do."""


def from_file(path: Path, parse: Callable[[Any], Parsed], most_bytes: int, fault: type[EngineError]) -> Parsed:
    """The result of `parse` for a file's JSON. Raises `fault` if that is malformed or `parse` refuses it."""
    try:
        content, faults = load(path.read_bytes(), most_bytes, _MOST_DIGITS)
        if faults:
            raise ValueError(faults[0])
        return parse(content)
    except ValueError as error:  # UntrustedError, base64's and that of `parse`
        raise fault(
            f"model: {path.name} is malformed ({error}); run `cosmicai model calibrate` on the model and "
            "upload it again"
        ) from error


@dataclass(frozen=True, repr=False, eq=False)
class Layer:
    """A Linear layer: weights (out, in), biases (out,)."""

    weights: Floats
    biases: Floats


@dataclass(frozen=True, repr=False, eq=False)
class Calibration:
    """A predictive distribution of the scaled residual (z - z_pred) / (1 + z_pred), and its calibrator.

    members: multilayer perceptrons (tanh) over the features; each gives a mixture of logistic distributions,
    as weights (logits), centres and log widths, the last two in `unit`s. The base distribution is the mean of
    the members' distributions, computed at `residuals` (J,) and linear between them. The calibrator maps a
    probability of the base, `base` (L,), to the calibrated one, `level` (L,), and is linear between them.

    edges (K + 1,): of the K bins of a network that gives its own density; there are no members then.
    """

    network: str
    fitted: int
    calibrated: int
    magnitudes: int
    centre: Floats
    scale: Floats
    unit: float
    residuals: Doubles
    members: tuple[tuple[Layer, ...], ...]
    base: Doubles
    level: Doubles
    redshift_to: float
    redshift_step: float
    edges: Doubles | None = None

    @property
    def redshifts(self) -> Doubles:
        """The grid of p(z), from 0."""
        return np.array(redshift_grid(self.redshift_to, self.redshift_step))

    def features(self, z_pred: NDArray[np.floating], magnitudes: NDArray[np.floating]) -> Floats:
        """The scaled inputs of the members, (N, features); see `features`."""
        scaled = (features(z_pred, magnitudes) - self.centre) / self.scale
        return np.clip(np.nan_to_num(scaled, nan=0.0), -4.0, 4.0).astype(np.float32)

    def to_json(self) -> Json:
        return {
            "format": FORMAT,
            "network": self.network,
            "galaxies": {"fitted": self.fitted, "calibrated": self.calibrated},
            "magnitudes": self.magnitudes,
            **(self._mixture() if self.edges is None else {"edges": self.edges.tolist()}),
            "calibrator": {"base": self.base.tolist(), "level": self.level.tolist()},
            "redshifts": {"to": self.redshift_to, "step": self.redshift_step},
        }

    def _mixture(self) -> Json:
        return {
            "features": {"centre": self.centre.tolist(), "scale": self.scale.tolist()},
            "unit": self.unit,
            "residuals": self.residuals.tolist(),
            "members": [[_packed(layer) for layer in member] for member in self.members],
        }

    def write(self, folder: Path) -> None:
        (folder / CALIBRATION).write_text(json.dumps(self.to_json(), indent=1) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Calibration:
        """Raises CalibrationError."""
        return from_file(folder / CALIBRATION, cls.from_json, _MOST_BYTES, CalibrationError)

    def check(self, network: str | None, magnitudes: int, bins: int = 0) -> None:
        """Raises CalibrationError if it was made for another network.

        network: the digest of the weights that the engine runs; bins: of the network's own p(z).
        """
        if self.edges is not None and bins != len(self.edges) - 1:
            raise CalibrationError(
                f"model: {CALIBRATION} is for p(z) in {len(self.edges) - 1} bins, and the graph has {bins}; "
                "run `cosmicai model optimise` and `cosmicai model calibrate` on the model and upload it again"
            )
        if network != self.network or magnitudes != self.magnitudes:
            raise CalibrationError(
                f"model: {CALIBRATION} was made for another network than the one in its folder; run `cosmicai "
                "model calibrate` on the model and upload it again"
            )

    @classmethod
    def from_json(cls, content: Any) -> Calibration:
        """Raises ValueError for anything that `to_json` would not write."""
        if at(content, "format") != FORMAT:
            raise ValueError(f"format is not {FORMAT}")
        bands = whole(content, "magnitudes", 0, _MOST_WIDTH)
        edges = _rising(content, "edges", (0.0, _LARGEST)) if "edges" in content else None
        calibrator, galaxies = at(content, "calibrator"), at(content, "galaxies")
        base, level = _rising(calibrator, "base", (0, 1)), _rising(calibrator, "level", (0, 1))
        if len(base) != len(level) or [base[0], base[-1], level[0], level[-1]] != [0, 1, 0, 1]:
            raise ValueError("calibrator does not map 0 to 0 and 1 to 1")
        redshifts = at(content, "redshifts")
        stop, step = (_positive(redshifts, name) for name in ("to", "step"))
        redshift_grid(stop, step)
        return cls(
            network=str(at(content, "network")),
            fitted=whole(galaxies, "fitted", 0 if edges is not None else 1, 2**53),
            calibrated=whole(galaxies, "calibrated", 1, 2**53),
            magnitudes=bands,
            **(_mixture(content, 1 + bands) if edges is None else WITHOUT_MIXTURE),
            base=base,
            level=level,
            redshift_to=stop,
            redshift_step=step,
            edges=edges,
        )


WITHOUT_MIXTURE: Json = {
    "centre": np.zeros(0, np.float32),
    "scale": np.zeros(0, np.float32),
    "unit": 1.0,
    "residuals": np.zeros(0),
    "members": (),
}


def _mixture(content: Json, features: int) -> Json:
    members = at(content, "members")
    if not isinstance(members, list) or not 1 <= len(members) <= _MOST_MEMBERS:
        raise ValueError(f"members is not a list of 1 to {_MOST_MEMBERS}")
    return {
        "centre": _numbers(at(content, "features"), "centre", features).astype(np.float32),
        "scale": _scale(at(content, "features"), features),
        "unit": _positive(content, "unit"),
        "residuals": _rising(content, "residuals"),
        "members": tuple(_member(member, features) for member in members),
    }


def bin_edges(bins: int, to: float) -> Doubles:
    """Redshifts (bins + 1,) from 0, evenly spaced in ln(1 + z)."""
    return np.expm1(np.linspace(0.0, np.log1p(to), bins + 1))


def features(z_pred: NDArray[np.floating], magnitudes: NDArray[np.floating]) -> Floats:
    """(N, 1 + M): the predicted redshift, the reference magnitude, and the colours of neighbouring bands."""
    columns = [np.asarray(z_pred, np.float32)[:, None]]
    if magnitudes.shape[1]:
        columns.append(magnitudes[:, [min(REFERENCE_BAND, magnitudes.shape[1] - 1)]])
        columns.append(-np.diff(magnitudes, axis=1))
    return np.concatenate(columns, axis=1, dtype=np.float32)


def _member(content: Any, inputs: int) -> tuple[Layer, ...]:
    if not isinstance(content, list) or not 1 <= len(content) <= _MOST_LAYERS:
        raise ValueError(f"a member does not have 1 to {_MOST_LAYERS} layers")
    layers = []
    for one in content:
        shape = at(one, "shape")
        if not isinstance(shape, list) or len(shape) != 2 or shape[1] != inputs:
            raise ValueError(f"a layer does not take {inputs} values")
        outputs = whole({"shape": shape[0]}, "shape", 1, _MOST_WIDTH)
        layers.append(
            Layer(
                unpacked(one, "weights", outputs * inputs).reshape(outputs, inputs),
                unpacked(one, "biases", outputs),
            )
        )
        inputs = outputs
    if inputs % 3:
        raise ValueError("a member's last layer does not give weights, centres and widths")
    return tuple(layers)


def _packed(layer: Layer) -> Json:
    weights, biases = (
        base64.b64encode(values.astype("<f4").tobytes()).decode() for values in (layer.weights, layer.biases)
    )
    return {"shape": list(layer.weights.shape), "weights": weights, "biases": biases}


def unpacked(content: Any, name: str, count: int) -> Floats:
    text = at(content, name)
    if not isinstance(text, str):
        raise ValueError(f"{name} is not base64")
    content = base64.b64decode(text, validate=True)  # its error is a ValueError
    values = np.frombuffer(content, "<f4") if len(content) == 4 * count else np.empty(0)
    if values.shape != (count,) or not np.all(np.abs(values) <= _LARGEST):
        raise ValueError(f"{name} is not {count} numbers within bounds")
    return values.astype(np.float32)


def at(content: Any, name: str) -> Any:
    if not isinstance(content, dict) or name not in content:
        raise ValueError(f"{name} is missing")
    return content[name]


def whole(content: Any, name: str, least: int, most: int) -> int:
    value = at(content, name)
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{name} is not a whole number from {least} to {most}")
    return value


def _positive(content: Any, name: str) -> float:
    value = at(content, name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= _LARGEST:
        raise ValueError(f"{name} is not a positive number within bounds")
    return float(value)


def _numbers(content: Any, name: str, count: int | None = None) -> Doubles:
    values = at(content, name)
    if not isinstance(values, list) or not all(type(value) in (int, float) for value in values):
        raise ValueError(f"{name} is not a list of numbers")
    if (count is not None and len(values) != count) or not all(
        math.isfinite(value) and abs(value) <= _LARGEST for value in values
    ):
        raise ValueError(f"{name} is not {count or 'some'} numbers within bounds")
    return np.array(values, np.float64)


def _scale(content: Any, count: int) -> Floats:
    scale = _numbers(content, "scale", count).astype(np.float32)
    if not np.all(scale > 0):
        raise ValueError("scale is not positive")
    return scale


def _rising(content: Any, name: str, within: tuple[float, float] = (-_LARGEST, _LARGEST)) -> Doubles:
    values = _numbers(content, name)
    rising = bool(np.all(np.diff(values) > 0))
    if not 2 <= len(values) <= _MOST_KNOTS or not rising or values[0] < within[0] or values[-1] > within[1]:
        raise ValueError(f"{name} is not 2 to {_MOST_KNOTS} rising numbers within bounds")
    return values
