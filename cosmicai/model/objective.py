"""What training minimises, and how an epoch is judged on held-out galaxies."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cosmicai.model.galaxies import Galaxies
from cosmicai.model.recipe import Recipe
from inference.contract.accuracy import exact_nmad
from inference.engine import astromae

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class Standardised:
    """The network with standardised magnitudes and redshifts around it."""

    def __init__(self, model: Any, galaxies: Galaxies, device: str = DEVICE) -> None:
        self.model = model
        hidden = model.config.hidden_magnitudes
        self.hidden_magnitudes = torch.tensor([hidden], device=device)
        self.mean = galaxies.magnitudes.mean(0).to(device)
        self.scale = galaxies.magnitudes.std(0).to(device)
        self.z_mean, self.z_scale = galaxies.redshift.mean().to(device), galaxies.redshift.std().to(device)

    def standardised(self, magnitudes: Tensor) -> Tensor:
        return (magnitudes - self.mean) / self.scale

    def magnitude_features(self, magnitudes: Tensor) -> Tensor:
        features: Tensor = self.model.magnitude_branch(self.standardised(magnitudes))
        return features

    def heads(self, image_features: Tensor, magnitude_features: Tensor) -> tuple[Tensor, Tensor | None]:
        """Redshifts of B galaxies, and logits of p(z); features of one row apply to all of them."""
        rows = max(len(image_features), len(magnitude_features))
        fused, logits = self.model.heads(image_features.expand(rows, -1), magnitude_features.expand(rows, -1))
        return fused * self.z_scale + self.z_mean, logits

    @torch.no_grad()
    def fold(self, model: astromae.AstroMAE) -> None:
        """Moves the standardisation into `model`'s first magnitude layer and last layer, exactly."""
        first, last = _outermost(model)
        first.weight /= self.scale
        first.bias.sub_(first.weight @ self.mean)
        last.weight *= self.z_scale
        last.bias.mul_(self.z_scale).add_(self.z_mean)

    @torch.no_grad()
    def unfold(self, model: astromae.AstroMAE) -> None:
        """The reverse: `model` then takes standardised magnitudes and gives standardised redshifts."""
        first, last = _outermost(model)
        first.bias.add_(first.weight @ self.mean)
        first.weight *= self.scale
        last.weight /= self.z_scale
        last.bias.sub_(self.z_mean).div_(self.z_scale)


def _outermost(model: astromae.AstroMAE) -> tuple[nn.Linear, nn.Linear]:
    """The first layer that sees magnitudes, and the last one, which gives the redshift."""
    first, last = model.magnitude_branch[0], model.fusion[-1]
    if not isinstance(first, nn.Linear) or not isinstance(last, nn.Linear):
        raise TypeError("the magnitude branch begins and the fusion ends with a Linear layer")
    return first, last


class Photometer(nn.Module):
    """Reads standardised magnitudes from the features of an image; thrown away after the training.

    It makes the image branches measure the fluxes early, which a redshift alone teaches them slowly.
    """

    def __init__(self, model: astromae.AstroMAE) -> None:
        super().__init__()
        config = model.config
        widths = config.encoder_branch.widths[-1] + config.inception_branch.widths[-1]
        self.read = nn.Linear(widths, config.magnitudes)

    def forward(self, image_features: Tensor) -> Tensor:
        magnitudes: Tensor = self.read(image_features)
        return magnitudes


def losses(inputs: Standardised, batch: Galaxies, recipe: Recipe, photometer: Photometer) -> Tensor:
    """The weighted sum of the losses of a training step."""
    known = inputs.magnitude_features(batch.magnitudes)
    if recipe.without_images:
        blank = inputs.model.image_features(torch.zeros_like(batch.images[:2]))[:1]
        return _loss(inputs, blank, known, batch, recipe)
    features = inputs.model.image_features(torch.cat([batch.images, torch.zeros_like(batch.images[:1])]))
    seen, blank = features[:-1], features[-1:]
    unknown = inputs.magnitude_features(inputs.hidden_magnitudes)
    read = F.smooth_l1_loss(photometer(seen), inputs.standardised(batch.magnitudes), beta=0.1)
    return (
        _loss(inputs, seen, known, batch, recipe)
        + recipe.images_weight * _loss(inputs, seen, unknown, batch, recipe)
        + recipe.magnitudes_weight * _loss(inputs, blank, known, batch, recipe)
        + recipe.photometry_weight * read
    )


def _loss(inputs: Standardised, image: Tensor, magnitude: Tensor, batch: Galaxies, recipe: Recipe) -> Tensor:
    """The loss of redshifts and, if there is a head for it, of p(z), from features of images and magnitudes."""
    redshift, logits = inputs.heads(image, magnitude)
    loss = _point_loss(redshift, batch.redshift)
    if logits is None:
        return loss
    return loss + recipe.density_weight * _cross_entropy(inputs.model.config, logits, batch.redshift)


def _cross_entropy(config: astromae.Config, logits: Tensor, true: Tensor) -> Tensor:
    place = torch.log1p(true) / math.log1p(config.density_to) * config.density_bins
    bins = place.long().clamp(0, config.density_bins - 1)
    return F.cross_entropy(logits.expand(len(true), -1), bins)


def _point_loss(predicted: Tensor, true: Tensor) -> Tensor:
    return F.smooth_l1_loss((predicted - true) / (1.0 + true), torch.zeros_like(true), beta=0.02)


@torch.inference_mode()
def validate(
    inputs: Standardised, galaxies: Galaxies, recipe: Recipe
) -> tuple[float, tuple[float, float, float]]:
    """The loss from image and magnitudes; NMAD from both, from images alone, from magnitudes alone."""
    inputs.model.eval()
    blank = inputs.model.image_features(torch.zeros_like(galaxies.images[:1]).to(DEVICE))
    unknown = inputs.magnitude_features(inputs.hidden_magnitudes)
    predicted: list[list[Tensor]] = [[], [], []]
    entropy = 0.0
    parts = (galaxies.images.split(256), galaxies.magnitudes.split(256), galaxies.redshift.split(256))
    for images, magnitudes, true in zip(*parts, strict=True):
        known = inputs.magnitude_features(magnitudes.to(DEVICE))
        seen = blank if recipe.without_images else inputs.model.image_features(images.to(DEVICE))
        for column, pair in zip(predicted, ((seen, known), (seen, unknown), (blank, known)), strict=True):
            redshift, logits = inputs.heads(*pair)
            column.append(redshift.expand(len(magnitudes)).cpu())
            if logits is not None and column is predicted[0]:
                entropy += float(_cross_entropy(inputs.model.config, logits.cpu(), true)) * len(true)
    both, by_images, by_magnitudes = (torch.cat(column) for column in predicted)
    loss = float(_point_loss(both, galaxies.redshift)) + recipe.density_weight * entropy / len(galaxies)
    return loss, (
        _nmad(both, galaxies.redshift),
        _nmad(by_images, galaxies.redshift),
        _nmad(by_magnitudes, galaxies.redshift),
    )


def _nmad(predicted: Tensor, true: Tensor) -> float:
    nmad = exact_nmad(predicted.tolist(), true.tolist())
    return float("nan") if nmad is None else nmad
