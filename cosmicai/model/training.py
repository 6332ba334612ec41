"""Training AstroMAE on partitions: augmentation, a validation split, early stopping, resumption, a seed.

Every step asks for three redshifts of each galaxy: by image and magnitudes, by its image alone, by its
magnitudes alone. So the network cannot ignore either, and a galaxy that lacks one of them still gets a
redshift. A hidden image is all zeros; hidden magnitudes have the values of the config's `hidden_magnitudes`.
"""

from __future__ import annotations

import copy
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from cosmicai.data.photometry import Photometry
from cosmicai.model.recipe import Recipe
from inference.contract.accuracy import exact_nmad
from inference.data import partition
from inference.engine import astromae

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
Report = Callable[["Epoch"], None]


@dataclass(frozen=True)
class Epoch:
    """What one pass over the training galaxies gave; losses are mean smooth-L1 of (z_pred - z)/(1 + z).

    training_loss is the weighted sum of all losses, validation_loss that of image and magnitudes together.
    """

    number: int
    training_loss: float
    validation_loss: float
    nmad: float
    nmad_images_alone: float
    nmad_magnitudes_alone: float
    best: bool
    seconds: float

    @property
    def score(self) -> float:
        """What chooses the epoch: the loss feels outliers, the NMAD the bulk of the galaxies."""
        return self.validation_loss + self.nmad


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


def train(
    config: astromae.Config,
    galaxies: Galaxies,
    recipe: Recipe,
    report: Report = lambda epoch: None,
    encoder: Path | None = None,
    resume: Path | None = None,
    start: Path | None = None,
) -> tuple[astromae.AstroMAE, list[Epoch]]:
    """The network of the epoch with the least score, and the history of all epochs.

    encoder: a folder of `pretrain`, whose encoder the network begins with (and keeps, if the recipe freezes
    it). start: a model folder to train further, whose config takes the place of `config`. resume: a file that
    holds the state after each epoch; a call that finds it goes on from there, and ends with the very weights of
    a call that was never cut off.
    """
    torch.manual_seed(recipe.seed)
    training, validation = _split(galaxies, recipe.validation_fraction)
    if start is None:
        model = _begin(_with_hidden(config, training), training, encoder)
    else:
        model = astromae.load(start)
        _Standardised(model, training, "cpu").unfold(model)
    trainer = _Trainer(model, training, recipe)
    key = {
        "recipe": asdict(recipe),
        "galaxies": digest(galaxies),
        "config": str(model.config),
        "start": ""
        if start is None
        else hashlib.sha256((start / "model.safetensors").read_bytes()).hexdigest(),
    }
    if resume is not None and resume.exists():
        trainer.restore(_read_state(resume, key))
    for epoch in trainer.history:
        report(epoch)
    while not trainer.finished:
        report(trainer.epoch(validation))
        if resume is not None:
            _write_state(resume, {**trainer.state(), "key": key})
    model = trainer.result()
    take_out_bias(model, validation, recipe)
    return model, trainer.history


_HIDDEN = 5.0  # standard deviations above the mean: fainter in every band than any galaxy


def _with_hidden(config: astromae.Config, galaxies: Galaxies) -> astromae.Config:
    """The config with the magnitudes that stand for unknown ones."""
    mean, scale = galaxies.magnitudes.mean(0), galaxies.magnitudes.std(0)
    return replace(config, hidden_magnitudes=tuple(round(float(v), 3) for v in mean + _HIDDEN * scale))


def _begin(config: astromae.Config, galaxies: Galaxies, encoder: Path | None) -> astromae.AstroMAE:
    """The network before training; a pretrained encoder brings the softening of its images with it."""
    if encoder is None:
        return astromae.AstroMAE(replace(config, asinh_softening=softening(galaxies)))
    pretrained = astromae.load(encoder)
    model = astromae.AstroMAE(replace(config, asinh_softening=pretrained.config.asinh_softening))
    try:
        model.encoder.load_state_dict(pretrained.encoder.state_dict())
    except RuntimeError as error:
        raise astromae.ConfigError(f"{encoder}: its encoder does not fit the config: {error}") from None
    return model


@torch.no_grad()
def take_out_bias(model: astromae.AstroMAE, held_out: Galaxies, recipe: Recipe) -> None:
    """Moves the redshifts of `model` so that the mean of (z_pred - z) / (1 + z) is zero for held-out galaxies.

    The loss is close to an absolute error, whose best guess is the median; outliers lie more on one side of it.
    z_pred becomes z_pred - d (1 + z_pred), which changes the last layer alone.
    """
    blank = torch.zeros_like(held_out.images[:1])
    predicted = []
    for images, magnitudes in zip(held_out.images.split(256), held_out.magnitudes.split(256), strict=True):
        seen = model.image_features(blank if recipe.without_images else images)
        known = model.magnitude_branch(magnitudes)
        predicted.append(model.fused(seen.expand(len(known), -1), known))
    ratio = (1.0 + torch.cat(predicted)) / (1.0 + held_out.redshift)  # 1 + the error
    shift = 1.0 - 1.0 / float(ratio.mean())
    last = model.fusion[-1]
    if not isinstance(last, nn.Linear):
        raise TypeError("the fusion ends with a Linear layer")
    last.weight *= 1.0 - shift
    last.bias.mul_(1.0 - shift).sub_(shift)


class ResumeError(ValueError):
    """A state to resume from belongs to another training."""


def _read_state(path: Path, key: dict[str, Any]) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(path, weights_only=True)
    if state["key"] != key:
        raise ResumeError(f"{path}: belongs to another recipe, config or data; delete it or restore them")
    return state


def _write_state(path: Path, state: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    try:
        torch.save(state, partial)
        partial.rename(path)
    finally:
        partial.unlink(missing_ok=True)


class _Trainer:
    """All that changes while a network is trained."""

    def __init__(self, model: astromae.AstroMAE, galaxies: Galaxies, recipe: Recipe) -> None:
        self.model, self._galaxies, self._recipe = model.to(DEVICE), galaxies, recipe
        # oneDNN computes convolutions of few channels twice as fast in this layout.
        model.inception.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if recipe.freeze_encoder:
            model.encoder.requires_grad_(False)
        self._photometer = _Photometer(model).to(DEVICE)
        trained = [p for part in (model, self._photometer) for p in part.parameters() if p.requires_grad]
        self._optimiser = torch.optim.AdamW(
            trained, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
        )
        steps = recipe.epochs * -(-len(galaxies) // recipe.batch_size)
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(
            self._optimiser, recipe.learning_rate, total_steps=steps
        )
        self._average = torch.optim.swa_utils.AveragedModel(model, avg_fn=_moving_average, use_buffers=True)
        self._best = copy.deepcopy(model.state_dict())
        self.history: list[Epoch] = []

    @property
    def _since_best(self) -> int:
        flags = [epoch.best for epoch in self.history]
        return len(flags) - 1 - max((n for n, best in enumerate(flags) if best), default=-1)

    @property
    def finished(self) -> bool:
        return len(self.history) >= self._recipe.epochs or self._since_best >= self._recipe.patience

    def epoch(self, validation: Galaxies) -> Epoch:
        start = time.monotonic()
        with _in_bfloat16(self.model.encoder) if self._recipe.mixed_precision else nullcontext():
            loss = self._one_epoch()
        averaged = _Standardised(self._average.module, self._galaxies)
        held_loss, nmads = _validate(averaged, validation, self._recipe)
        seconds = time.monotonic() - start
        epoch = Epoch(len(self.history) + 1, loss, held_loss, *nmads, best=False, seconds=seconds)
        if epoch.score < min((earlier.score for earlier in self.history), default=float("inf")):
            self._best = copy.deepcopy(self._average.module.state_dict())
            epoch = replace(epoch, best=True)
        self.history.append(epoch)
        return epoch

    def _one_epoch(self) -> float:
        inputs, recipe, total = _Standardised(self.model, self._galaxies), self._recipe, 0.0
        self.model.train()
        for rows in torch.randperm(len(self._galaxies)).split(recipe.batch_size):
            batch = self._galaxies.at(rows).to(DEVICE)
            noise = torch.randn_like(batch.magnitudes) * recipe.magnitude_noise
            images = augmented(batch.images).contiguous(memory_format=torch.channels_last)
            noisy = replace(batch, images=images, magnitudes=batch.magnitudes + noise)
            loss = _losses(inputs, noisy, recipe, self._photometer)
            self._optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self._optimiser.step()
            self._schedule.step()
            self._average.update_parameters(self.model)
            total += float(loss.detach()) * len(rows)
        return total / len(self._galaxies)

    def result(self) -> astromae.AstroMAE:
        """The best network so far, which takes plain magnitudes and gives plain redshifts."""
        self.model.load_state_dict(self._best)
        model = self.model.cpu()
        _Standardised(model, self._galaxies, "cpu").fold(model)
        return model.eval()

    def state(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "average": self._average.state_dict(),
            "photometer": self._photometer.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "schedule": self._schedule.state_dict(),
            "best": self._best,
            "random": torch.get_rng_state(),
            "history": [asdict(epoch) for epoch in self.history],
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self._average.load_state_dict(state["average"])
        self._photometer.load_state_dict(state["photometer"])
        self._optimiser.load_state_dict(state["optimiser"])
        self._schedule.load_state_dict(state["schedule"])
        self._best = state["best"]
        self.history = [Epoch(**epoch) for epoch in state["history"]]
        torch.set_rng_state(state["random"])


def _split(galaxies: Galaxies, fraction: float) -> tuple[Galaxies, Galaxies]:
    """Galaxies to train on and galaxies held out; several renderings of one galaxy stay on one side.

    They have the same redshift, and hardly any two galaxies have the same.
    """
    _, galaxy = torch.unique(galaxies.redshift, return_inverse=True)
    count = int(galaxy.max()) + 1
    held = torch.zeros(count, dtype=torch.bool)
    held[torch.randperm(count)[: int(count * fraction)]] = True
    rows = torch.arange(len(galaxies))
    return galaxies.at(rows[~held[galaxy]]), galaxies.at(rows[held[galaxy]])


def _moving_average(average: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
    """Exponential, over about 200 steps, and over a ninth of the steps so far at the beginning."""
    return average + (current - average) * max(1 / 200, 9 / (10 + int(count)))


def softening(galaxies: Galaxies) -> tuple[float, ...]:
    """Per channel, three times the pixel noise: linear below it, logarithmic above (Lupton et al. 1999)."""
    rows = galaxies.images[:2048].transpose(0, 1).flatten(1)
    spread = (rows - rows.median(1, keepdim=True).values).abs().median(1).values * 1.4826
    return tuple(round(3.0 * float(s), 6) for s in spread)


class _Standardised:
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

    def redshift(self, image_features: Tensor, magnitude_features: Tensor) -> Tensor:
        """Of B galaxies; features of one row stand for all of them."""
        rows = max(len(image_features), len(magnitude_features))
        fused = self.model.fused(image_features.expand(rows, -1), magnitude_features.expand(rows, -1))
        return fused * self.z_scale + self.z_mean

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


class _Photometer(nn.Module):
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


def _losses(inputs: _Standardised, batch: Galaxies, recipe: Recipe, photometer: _Photometer) -> Tensor:
    """The weighted sum of the losses of a training step."""
    known = inputs.magnitude_features(batch.magnitudes)
    if recipe.without_images:
        blank = inputs.model.image_features(torch.zeros_like(batch.images[:2]))[:1]
        return _loss(inputs.redshift(blank, known), batch.redshift)
    features = inputs.model.image_features(torch.cat([batch.images, torch.zeros_like(batch.images[:1])]))
    seen, blank = features[:-1], features[-1:]
    unknown = inputs.magnitude_features(inputs.hidden_magnitudes)
    read = F.smooth_l1_loss(photometer(seen), inputs.standardised(batch.magnitudes), beta=0.1)
    return (
        _loss(inputs.redshift(seen, known), batch.redshift)
        + recipe.images_weight * _loss(inputs.redshift(seen, unknown), batch.redshift)
        + recipe.magnitudes_weight * _loss(inputs.redshift(blank, known), batch.redshift)
        + recipe.photometry_weight * read
    )


@contextmanager
def _in_bfloat16(module: nn.Module) -> Iterator[None]:
    """Lets `module` compute in bfloat16 where that is safe, and give float32."""
    autocast = torch.autocast(DEVICE, torch.bfloat16)

    def before(*_: object) -> None:
        autocast.__enter__()

    def after(_: nn.Module, __: object, out: Tensor) -> Tensor:
        autocast.__exit__(None, None, None)
        return out.float()

    hooks = [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
    # For the few tokens of a galaxy the plain attention is the fastest on CPUs, backwards above all.
    try:
        with sdpa_kernel(SDPBackend.MATH) if DEVICE == "cpu" else nullcontext():
            yield
    finally:
        for hook in hooks:
            hook.remove()


def augmented(images: Tensor) -> Tensor:
    """One of the eight flips and quarter turns for the whole batch; a redshift does not depend on them."""
    turns, flip = int(torch.randint(4, ())), bool(torch.randint(2, ()))
    images = torch.rot90(images, turns, (2, 3))
    return images.flip(3) if flip else images


def _loss(predicted: Tensor, true: Tensor) -> Tensor:
    return F.smooth_l1_loss((predicted - true) / (1.0 + true), torch.zeros_like(true), beta=0.02)


@torch.inference_mode()
def _validate(
    inputs: _Standardised, galaxies: Galaxies, recipe: Recipe
) -> tuple[float, tuple[float, float, float]]:
    """The loss by image and magnitudes; NMAD by both, by images alone, by magnitudes alone."""
    inputs.model.eval()
    blank = inputs.model.image_features(torch.zeros_like(galaxies.images[:1]).to(DEVICE))
    unknown = inputs.magnitude_features(inputs.hidden_magnitudes)
    predicted: list[list[Tensor]] = [[], [], []]
    for images, magnitudes in zip(galaxies.images.split(256), galaxies.magnitudes.split(256), strict=True):
        known = inputs.magnitude_features(magnitudes.to(DEVICE))
        seen = blank if recipe.without_images else inputs.model.image_features(images.to(DEVICE))
        for column, pair in zip(predicted, ((seen, known), (seen, unknown), (blank, known)), strict=True):
            column.append(inputs.redshift(*pair).expand(len(magnitudes)).cpu())
    both, by_images, by_magnitudes = (torch.cat(column) for column in predicted)
    return float(_loss(both, galaxies.redshift)), (
        _nmad(both, galaxies.redshift),
        _nmad(by_images, galaxies.redshift),
        _nmad(by_magnitudes, galaxies.redshift),
    )


def _nmad(predicted: Tensor, true: Tensor) -> float:
    nmad = exact_nmad(predicted.tolist(), true.tolist())
    return float("nan") if nmad is None else nmad


def digest(galaxies: Galaxies) -> str:
    """SHA-256 of magnitudes and redshifts, in order: tells which galaxies a network was trained on."""
    content = galaxies.magnitudes.numpy().tobytes() + galaxies.redshift.numpy().tobytes()
    return hashlib.sha256(content).hexdigest()


def write_card(
    folder: Path,
    recipe: Recipe,
    galaxies: Galaxies,
    history: list[Epoch],
    commands: list[str],
    photometry: Photometry,
) -> None:
    """card.json of a model folder: the galaxies, what their numbers mean, the recipe and what it reached."""
    best = min(history, key=lambda epoch: epoch.score)
    quantiles = torch.quantile(galaxies.magnitudes, torch.tensor([0.001, 0.999]), 0)
    card = {
        "commands": commands,
        "parameters": astromae.parameter_count(astromae.load(folder)),
        "photometry": asdict(photometry),
        "trained on": {
            "galaxies": len(galaxies),
            "sha256 of magnitudes and redshifts": digest(galaxies),
            "redshift": [round(float(galaxies.redshift.min()), 4), round(float(galaxies.redshift.max()), 4)],
            "magnitudes, 0.1 and 99.9 percent": [[round(float(v), 3) for v in row] for row in quantiles],
        },
        "recipe": asdict(recipe),
        "epochs run": len(history),
        "best epoch, on held-out training galaxies": asdict(best),
        "torch": torch.__version__.partition("+")[0],
    }
    (folder / "card.json").write_text(json.dumps(card, indent=2) + "\n")
