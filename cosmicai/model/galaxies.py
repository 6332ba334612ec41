"""Galaxies to train on, in memory: reading, splitting, turning them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from inference.data import partition
from inference.engine import astromae


@dataclass(frozen=True)
class Galaxies:
    """Tensors in memory: images (N, 5, 32, 32), magnitudes (N, 5), redshift (N,)."""

    images: Tensor
    magnitudes: Tensor
    redshift: Tensor

    def __len__(self) -> int:
        return len(self.redshift)

    def at(self, rows: Tensor) -> Galaxies:
        return Galaxies(self.images[rows], self.magnitudes[rows], self.redshift[rows])

    def to(self, device: str) -> Galaxies:
        return Galaxies(self.images.to(device), self.magnitudes.to(device), self.redshift.to(device))


def read_galaxies(files: Sequence[Path], config: astromae.Config = astromae.Config()) -> Galaxies:  # noqa: B008
    """All galaxies of the partitions, which have the config's bands and size. Raises PartitionError, also for a
    file without redshifts."""
    layout = partition.Layout(config.channels, config.image_size, config.magnitudes)
    parts = [partition.read(file.read_bytes(), file.name, layout) for file in files]
    without = [file.name for file, part in zip(files, parts, strict=True) if part.redshift is None]
    if without:
        raise partition.PartitionError(f"{', '.join(without)}: no redshifts, which training needs")
    return Galaxies(
        torch.from_numpy(np.concatenate([part.images for part in parts])),
        torch.from_numpy(np.concatenate([part.magnitudes for part in parts])),
        torch.from_numpy(np.concatenate([part.redshift for part in parts if part.redshift is not None])),
    )


def split(galaxies: Galaxies, fraction: float) -> tuple[Galaxies, Galaxies]:
    """Galaxies to train on and galaxies held out; several renderings of one galaxy stay on one side.

    They have the same redshift, and hardly any two galaxies have the same.
    """
    _, galaxy = torch.unique(galaxies.redshift, return_inverse=True)
    count = int(galaxy.max()) + 1
    held = torch.zeros(count, dtype=torch.bool)
    held[torch.randperm(count)[: int(count * fraction)]] = True
    rows = torch.arange(len(galaxies))
    return galaxies.at(rows[~held[galaxy]]), galaxies.at(rows[held[galaxy]])


def softening(galaxies: Galaxies) -> tuple[float, ...]:
    """Per channel, three times the pixel noise: linear below it, logarithmic above (Lupton et al. 1999)."""
    rows = galaxies.images[:2048].transpose(0, 1).flatten(1)
    spread = (rows - rows.median(1, keepdim=True).values).abs().median(1).values * 1.4826
    return tuple(round(3.0 * float(s), 6) for s in spread)


def augmented(images: Tensor) -> Tensor:
    """One of the eight flips and quarter turns for the whole batch; a redshift does not depend on them."""
    turns, flip = int(torch.randint(4, ())), bool(torch.randint(2, ()))
    images = torch.rot90(images, turns, (2, 3))
    return images.flip(3) if flip else images


def digest(galaxies: Galaxies) -> str:
    """SHA-256 of magnitudes and redshifts, in order: tells which galaxies a network was trained on."""
    content = galaxies.magnitudes.numpy().tobytes() + galaxies.redshift.numpy().tobytes()
    return hashlib.sha256(content).hexdigest()
