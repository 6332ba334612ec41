"""Galaxies to train on, in memory: reading, splitting, turning them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cosmicai.model.usable import Needs, Tally, partitions, rules_by, together, usable
from inference.data.partition import Layout, PartitionError
from inference.engine import astromae


@dataclass(frozen=True)
class Galaxies:
    """Tensors in memory: images (N, 5, 32, 32), magnitudes (N, 5), redshift (N,); what was left out of them."""

    images: Tensor
    magnitudes: Tensor
    redshift: Tensor
    tally: Tally = field(default_factory=Tally)

    def __len__(self) -> int:
        return len(self.redshift)

    def at(self, rows: Tensor) -> Galaxies:
        return Galaxies(self.images[rows], self.magnitudes[rows], self.redshift[rows])

    def to(self, device: str) -> Galaxies:
        return Galaxies(self.images.to(device), self.magnitudes.to(device), self.redshift.to(device))


FEWEST_GALAXIES = 10  # to train on: one of them is held out


def read_galaxies(
    files: Sequence[Path],
    config: astromae.Config = astromae.Config(),  # noqa: B008
    limits: Sequence[float] | None = None,
    needs: Needs = Needs(),  # noqa: B008
) -> Galaxies:
    """The galaxies of the partitions that have what is needed, by the rules of the ranks.

    limits: magnitudes of galaxies that are not detected. Raises PartitionError for other bands or sizes
    than the config's, for a file that lacks needed redshifts, and if too few galaxies are left.
    """
    if limits is not None and len(limits) != config.magnitudes:
        raise PartitionError(
            f"photometry.json has {len(limits)} magnitude_limits, the network takes {config.magnitudes} "
            "magnitudes"
        )
    parts = list(partitions(files, Layout(config.channels, config.image_size, config.magnitudes)))
    without = [file.name for file, part in zip(files, parts, strict=True) if part.redshift is None]
    if without and needs.redshift:
        raise PartitionError(f"{', '.join(without)}: no redshifts, which training needs")
    tally, rules = Tally(), rules_by(parts, None if limits is None else np.array(limits, np.float32))
    whole = together(list(usable(parts, rules, tally, needs)))
    if tally.used < FEWEST_GALAXIES:
        raise PartitionError(
            f"{tally.used:,} galaxies to train on, {FEWEST_GALAXIES} are the fewest"
            + "".join(f"; {note}" for note in tally.notes())
        )
    redshift = np.empty(0, np.float32) if whole.redshift is None else whole.redshift
    tensors = torch.from_numpy(whole.images), torch.from_numpy(whole.magnitudes), torch.from_numpy(redshift)
    return Galaxies(*tensors, tally)


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
