"""Compares an imported model with the outputs that the user's own code gave for the same galaxies."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosmicai.model.foreign.errors import CheckpointError, listed
from inference.data.partition import Partition
from inference.engine.astromae import Config
from inference.engine.loading import load

Floats = NDArray[np.float32]

TOLERANCE = 1e-5  # of max(1, |expected|)
_BATCH = 256


@dataclass(frozen=True)
class Expected:
    """Galaxies, what the user's code gave for them, and the name of that array in its file."""

    path: Path
    galaxies: Partition
    outputs: Floats
    name: str

    @classmethod
    def read(cls, path: Path, checkpoint: Path, outputs: str | None = None) -> Expected:
        """images (N, C, S, S), magnitudes (N, M) and outputs (N,) or (N, 1) of an .npz.

        outputs: the array's name; else `outputs`, else the checkpoint's own name, else the only one that fits.
        Raises CheckpointError.
        """
        arrays = _arrays(path)
        missing = [name for name in ("images", "magnitudes") if name not in arrays]
        if missing:
            raise CheckpointError(f"{path}: lacks {' and '.join(missing)}; it has {listed(arrays)}")
        images, magnitudes = arrays.pop("images"), arrays.pop("magnitudes")
        if images.ndim != 4 or not len(images) or magnitudes.ndim != 2 or len(magnitudes) != len(images):
            shapes = f"{images.shape} and {magnitudes.shape}"
            raise CheckpointError(f"{path}: images and magnitudes are {shapes}, not (N, C, S, S) and (N, M)")
        fitting = {n: a for n, a in arrays.items() if a.shape in ((len(images),), (len(images), 1))}
        name = _name(path, list(fitting), checkpoint.name.partition(".")[0], outputs)
        galaxies = Partition(images.astype(np.float32), magnitudes.astype(np.float32), None)
        return cls(path, galaxies, fitting[name].reshape(-1).astype(np.float64), name)

    def check(self, folder: Path, graph: bool) -> dict[str, Any]:
        """Compares a model folder, in torch and, if `graph`, in its float32 graph; returns what a card says.

        Raises CheckpointError beyond TOLERANCE.
        """
        config = Config.read(folder / "config.json")
        shape = (config.channels, config.image_size, config.image_size)
        if self.galaxies.images.shape[1:] != shape or self.galaxies.magnitudes.shape[1] != config.magnitudes:
            shapes = f"{self.galaxies.images.shape[1:]} and {self.galaxies.magnitudes.shape[1]}"
            raise CheckpointError(
                f"{self.path}: its galaxies are {shapes}; the model takes {shape} and {config.magnitudes}"
            )
        errors = {
            f"largest error, {engine}": self._error(folder, engine)
            for engine in (("torch", "onnxruntime") if graph else ("torch",))
        }
        digest = hashlib.sha256(self.path.read_bytes()).hexdigest()
        return {"galaxies": len(self.outputs), "outputs": self.name, "sha256": digest, **errors}

    def _error(self, folder: Path, engine: str) -> float:
        """The largest of all galaxies, as a fraction of max(1, |expected|)."""
        network = load(folder, engine, "float32", threads=1)
        predicted = np.concatenate(list(network.predict(self.galaxies.batches(network.batch(_BATCH))))).reshape(
            -1
        )
        errors = np.abs(predicted - self.outputs) / np.maximum(1, np.abs(self.outputs))
        worst = int(np.argmax(np.where(np.isnan(errors), np.inf, errors)))
        if not errors[worst] <= TOLERANCE:
            raise CheckpointError(
                f"{self.path}: {self.name} of galaxy {worst} is {self.outputs[worst]:.8g}, the imported model "
                f"gives {predicted[worst]:.8g} ({engine}); {TOLERANCE} of max(1, |expected|) is allowed"
            )
        return float(errors[worst])


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with path.open("rb") as opened:
            file = np.load(opened, allow_pickle=False)
            if not isinstance(file, Mapping):
                raise CheckpointError(f"{path}: is one array, not an .npz with images, magnitudes and outputs")
            return {name: file[name] for name in file}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path}: cannot be read as an .npz file ({error})") from error


def _name(path: Path, fitting: list[str], stem: str, chosen: str | None) -> str:
    for name in [chosen] if chosen is not None else ["outputs", stem]:
        if name in fitting:
            return name
    if chosen is None and len(fitting) == 1:
        return fitting[0]
    what = f"no outputs {chosen}" if chosen is not None else "no array that is clearly the outputs"
    remedy = "name one with --outputs" if fitting else "one of shape (N,) is needed"
    raise CheckpointError(f"{path}: has {what}; of the right shape are: {listed(fitting) or 'none'}; {remedy}")
