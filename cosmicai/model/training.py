"""Training AstroMAE on partitions: flips and quarter turns, a validation split, early stopping, a seed."""

from __future__ import annotations

import copy
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cosmicai.model.recipe import Recipe
from inference import astromae, partition
from inference.accuracy import Accuracy

Report = Callable[["Epoch"], None]


@dataclass(frozen=True)
class Epoch:
    """What one pass over the training galaxies gave; losses are mean smooth-L1 of (z_pred - z)/(1 + z)."""

    number: int
    training_loss: float
    validation_loss: float
    nmad: float
    best: bool
    seconds: float


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


def read_galaxies(files: Sequence[Path]) -> Galaxies:
    """All galaxies of the partitions; raises PartitionError for a file without redshifts."""
    parts = [partition.read(file.read_bytes(), file.name) for file in files]
    without = [file.name for file, part in zip(files, parts, strict=True) if part.redshift is None]
    if without:
        raise partition.PartitionError(f"{', '.join(without)}: no redshifts, which training needs")
    return Galaxies(
        torch.from_numpy(np.concatenate([part.images for part in parts])),
        torch.from_numpy(np.concatenate([part.magnitudes for part in parts])),
        torch.from_numpy(np.concatenate([part.redshift for part in parts if part.redshift is not None])),
    )


def train(
    config: astromae.Config, galaxies: Galaxies, recipe: Recipe, report: Report = lambda epoch: None
) -> tuple[astromae.AstroMAE, list[Epoch]]:
    """The network with the least validation loss, and the history of all epochs."""
    torch.manual_seed(recipe.seed)
    training, validation = _split(galaxies, recipe.validation_fraction)
    config = replace(config, asinh_softening=_softening(training))
    model = astromae.AstroMAE(config)
    inputs = _Standardised(model, training)
    best, history = copy.deepcopy(model.state_dict()), []
    optimiser = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    steps = recipe.epochs * -(-len(training) // recipe.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, recipe.learning_rate, total_steps=steps)
    average = torch.optim.swa_utils.AveragedModel(model, avg_fn=_moving_average, use_buffers=True)
    least, since = float("inf"), 0
    for number in range(1, recipe.epochs + 1):
        start = time.monotonic()
        loss = _one_epoch(inputs, training, recipe, optimiser, schedule, average)
        held_loss, nmad = _validate(_Standardised(average.module, training), validation)
        since = 0 if held_loss < least else since + 1
        if since == 0:
            least, best = held_loss, copy.deepcopy(average.module.state_dict())
        history.append(Epoch(number, loss, held_loss, nmad, since == 0, time.monotonic() - start))
        report(history[-1])
        if since >= recipe.patience:
            break
    model.load_state_dict(best)
    inputs.fold(model)
    return model.eval(), history


def _split(galaxies: Galaxies, fraction: float) -> tuple[Galaxies, Galaxies]:
    """Galaxies to train on and galaxies held out; several renderings of one galaxy stay on one side."""
    _, galaxy = torch.unique(galaxies.magnitudes, dim=0, return_inverse=True)
    count = int(galaxy.max()) + 1
    held = torch.zeros(count, dtype=torch.bool)
    held[torch.randperm(count)[: int(count * fraction)]] = True
    rows = torch.arange(len(galaxies))
    return galaxies.at(rows[~held[galaxy]]), galaxies.at(rows[held[galaxy]])


def _moving_average(average: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
    """Exponential, over about 200 steps, and over a ninth of the steps so far at the beginning."""
    return average + (current - average) * max(1 / 200, 9 / (10 + int(count)))


def _softening(galaxies: Galaxies) -> tuple[float, ...]:
    """Per channel, three times the pixel noise: linear below it, logarithmic above (Lupton et al. 1999)."""
    rows = galaxies.images[:2048].transpose(0, 1).flatten(1)
    spread = (rows - rows.median(1, keepdim=True).values).abs().median(1).values * 1.4826
    return tuple(round(3.0 * float(s), 6) for s in spread)


class _Standardised:
    """The network with standardised magnitudes and redshifts around it."""

    def __init__(self, model: nn.Module, galaxies: Galaxies) -> None:
        self.model = model
        self.mean, self.scale = galaxies.magnitudes.mean(0), galaxies.magnitudes.std(0)
        self.z_mean, self.z_scale = galaxies.redshift.mean(), galaxies.redshift.std()

    def __call__(self, images: Tensor, magnitudes: Tensor) -> Tensor:
        out = self.model(images, (magnitudes - self.mean) / self.scale)
        return out * self.z_scale + self.z_mean

    @torch.no_grad()
    def fold(self, model: astromae.AstroMAE) -> None:
        """Moves the standardisation into `model`'s first magnitude layer and last layer, exactly."""
        first, last = model.magnitude_branch[0], model.fusion[-1]
        if not isinstance(first, nn.Linear) or not isinstance(last, nn.Linear):
            raise TypeError("the magnitude branch begins and the fusion ends with a Linear layer")
        first.weight /= self.scale
        first.bias.sub_(first.weight @ self.mean)
        last.weight *= self.z_scale
        last.bias.mul_(self.z_scale).add_(self.z_mean)


def _one_epoch(
    inputs: _Standardised,
    galaxies: Galaxies,
    recipe: Recipe,
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    average: torch.optim.swa_utils.AveragedModel,
) -> float:
    inputs.model.train()
    total = 0.0
    for rows in torch.randperm(len(galaxies)).split(recipe.batch_size):
        batch = galaxies.at(rows)
        noise = torch.randn_like(batch.magnitudes) * recipe.magnitude_noise
        loss = _loss(inputs(_augmented(batch.images), batch.magnitudes + noise), batch.redshift)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(inputs.model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        average.update_parameters(inputs.model)
        total += float(loss.detach()) * len(rows)
    return total / len(galaxies)


def _augmented(images: Tensor) -> Tensor:
    """One of the eight flips and quarter turns for the whole batch; a redshift does not depend on them."""
    turns, flip = int(torch.randint(4, ())), bool(torch.randint(2, ()))
    images = torch.rot90(images, turns, (2, 3))
    return images.flip(3) if flip else images


def _loss(predicted: Tensor, true: Tensor) -> Tensor:
    return F.smooth_l1_loss((predicted - true) / (1.0 + true), torch.zeros_like(true), beta=0.02)


@torch.inference_mode()
def _validate(inputs: _Standardised, galaxies: Galaxies) -> tuple[float, float]:
    inputs.model.eval()
    pairs = zip(galaxies.images.split(256), galaxies.magnitudes.split(256), strict=True)
    predicted = torch.cat([inputs(images, magnitudes) for images, magnitudes in pairs])
    measured = Accuracy.of(predicted.tolist(), galaxies.redshift.tolist()).measures()
    return float(_loss(predicted, galaxies.redshift)), float(measured["precision (NMAD)"] or 0.0)


def digest(galaxies: Galaxies) -> str:
    """SHA-256 of magnitudes and redshifts, in order: tells which galaxies a network was trained on."""
    content = galaxies.magnitudes.numpy().tobytes() + galaxies.redshift.numpy().tobytes()
    return hashlib.sha256(content).hexdigest()


def write_card(
    folder: Path, recipe: Recipe, galaxies: Galaxies, history: list[Epoch], commands: list[str]
) -> None:
    """card.json of a model folder: the galaxies, the recipe, the commands and what they reached."""
    best = min(history, key=lambda epoch: epoch.validation_loss)
    card = {
        "commands": commands,
        "parameters": astromae.parameter_count(astromae.load(folder)),
        "galaxies": len(galaxies),
        "galaxies sha256": digest(galaxies),
        "recipe": asdict(recipe),
        "epochs run": len(history),
        "best epoch, on held-out training galaxies": asdict(best),
        "torch": torch.__version__.partition("+")[0],
    }
    (folder / "card.json").write_text(json.dumps(card, indent=2) + "\n")
