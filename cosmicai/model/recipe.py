"""What training depends on besides data and architecture. Free of torch, so that commands start fast."""

from __future__ import annotations

from dataclasses import dataclass

DENSITY_BINS = 200  # of p(z), by `model train --pdf`: of 0.7 % of 1 + z each for redshifts up to 3


@dataclass(frozen=True)
class Recipe:
    """Everything that training depends on besides the data and the architecture."""

    seed: int = 0
    epochs: int = 60
    patience: int = 15  # epochs without a better score (validation loss + NMAD)
    batch_size: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    magnitude_noise: float = 0.02  # standard deviation of the noise added to magnitudes, mag
    validation_fraction: float = 0.1
    images_weight: float = 0.5  # of the loss of redshifts from images alone; that from both has weight 1
    magnitudes_weight: float = 0.5  # of the loss of redshifts from magnitudes alone
    photometry_weight: float = 0.05  # of the loss of magnitudes read from the image's features
    density_weight: float = 0.02  # of the cross entropy of p(z)'s bins, for a network with a head for p(z)
    without_images: bool = False  # trains on magnitudes alone, to measure what the images add
    freeze_encoder: bool = False
    mixed_precision: bool = False  # the encoder in bfloat16; weights, other branches and validation in float32
