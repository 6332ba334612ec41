"""Training AstroMAE on partitions: augmentation, a validation split, early stopping, resumption, a seed.

Every step asks for three redshifts of each galaxy: from image and magnitudes, from its image alone, from
its magnitudes alone. So the network cannot ignore either, and a galaxy that lacks one of them still gets a
redshift. A hidden image is all zeros; hidden magnitudes have the values of the config's `hidden_magnitudes`.
"""

from __future__ import annotations

import copy
import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from cosmicai.model.galaxies import Galaxies, augmented, digest, softening, split
from cosmicai.model.objective import DEVICE, Photometer, Standardised, losses, validate
from cosmicai.model.recipe import Recipe
from inference.engine import astromae

Report = Callable[["Epoch"], None]


@dataclass(frozen=True)
class Epoch:
    """What one pass over the training galaxies gave; losses are mean smooth-L1 of (z_pred - z)/(1 + z).

    A network with a head for p(z) adds the weighted cross entropy of its bins to either.
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
        """Chooses the best epoch: the loss is sensitive to outliers, the NMAD to the bulk of the galaxies."""
        return self.validation_loss + self.nmad


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
    it). start: a model folder to train further, whose config takes the place of `config`; it gets a head for
    p(z) if `config` has one. resume: a file that holds the state after each epoch; a call that finds it
    continues from there, and ends with exactly the weights of a call that was never cut off.
    """
    torch.manual_seed(recipe.seed)
    training, validation = split(galaxies, recipe.validation_fraction)
    if start is None:
        model = _begin(_with_hidden(config, training), training, encoder)
    else:
        model = _with_density(astromae.load(start), config)
        Standardised(model, training, "cpu").unfold(model)
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
    if recipe.without_images:
        ignore_images(model)
    return model, trainer.history


_HIDDEN = 5.0  # standard deviations above the mean: fainter in every band than any galaxy


def _with_hidden(config: astromae.Config, galaxies: Galaxies) -> astromae.Config:
    """The config with the magnitudes that replace unknown ones."""
    mean, scale = galaxies.magnitudes.mean(0), galaxies.magnitudes.std(0)
    return replace(config, hidden_magnitudes=tuple(round(float(v), 3) for v in mean + _HIDDEN * scale))


def _with_density(model: astromae.AstroMAE, config: astromae.Config) -> astromae.AstroMAE:
    if model.config.density_bins or not config.density_bins:
        return model
    head = {"density_bins": config.density_bins, "density_to": config.density_to}
    wider = astromae.AstroMAE(replace(model.config, **head))  # type: ignore[arg-type]
    wider.load_state_dict(model.state_dict(), strict=False)
    return wider.eval()


def _begin(config: astromae.Config, galaxies: Galaxies, encoder: Path | None) -> astromae.AstroMAE:
    """The network before training; a pretrained encoder brings the softening of its images with it."""
    if encoder is None:
        return astromae.AstroMAE(replace(config, asinh_softening=softening(galaxies)))
    pretrained = astromae.load(encoder)
    model = astromae.AstroMAE(replace(config, asinh_softening=pretrained.config.asinh_softening))
    try:
        model.encoder.load_state_dict(pretrained.encoder.state_dict())
    except RuntimeError as error:
        raise astromae.ConfigError(
            f"{encoder}: its encoder does not fit --config; leave --config out to use its own config.json"
        ) from error
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


@torch.no_grad()
def ignore_images(model: astromae.AstroMAE) -> None:
    """Makes a network that was trained with blank images alone give the redshifts of those for every image."""
    config, first = model.config, model.fusion[0]
    if not isinstance(first, nn.Linear):
        raise TypeError("the fusion begins with a Linear layer")
    blank = model.image_features(torch.zeros(1, config.channels, config.image_size, config.image_size))[0]
    weights = first.weight[:, : len(blank)]
    first.bias.add_(weights @ blank)
    weights.zero_()


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
        self._photometer = Photometer(model).to(DEVICE)
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
        averaged = Standardised(self._average.module, self._galaxies)
        held_loss, nmads = validate(averaged, validation, self._recipe)
        seconds = time.monotonic() - start
        epoch = Epoch(len(self.history) + 1, loss, held_loss, *nmads, best=False, seconds=seconds)
        if epoch.score < min((earlier.score for earlier in self.history), default=float("inf")):
            self._best = copy.deepcopy(self._average.module.state_dict())
            epoch = replace(epoch, best=True)
        self.history.append(epoch)
        return epoch

    def _one_epoch(self) -> float:
        inputs, recipe, total = Standardised(self.model, self._galaxies), self._recipe, 0.0
        self.model.train()
        for rows in torch.randperm(len(self._galaxies)).split(recipe.batch_size):
            batch = self._galaxies.at(rows).to(DEVICE)
            noise = torch.randn_like(batch.magnitudes) * recipe.magnitude_noise
            images = augmented(batch.images).contiguous(memory_format=torch.channels_last)
            noisy = replace(batch, images=images, magnitudes=batch.magnitudes + noise)
            loss = losses(inputs, noisy, recipe, self._photometer)
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
        Standardised(model, self._galaxies, "cpu").fold(model)
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


def _moving_average(average: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
    """Exponential, over about 200 steps, and over a ninth of the steps so far at the beginning."""
    return average + (current - average) * max(1 / 200, 9 / (10 + int(count)))


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
