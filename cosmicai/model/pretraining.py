"""Pretraining the encoder as a masked autoencoder (He et al. 2022, arXiv:2111.06377): three quarters of the
patches are hidden, and a small decoder, thrown away afterwards, must draw them from the rest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cosmicai.model.galaxies import Galaxies, augmented, softening
from cosmicai.model.objective import DEVICE
from cosmicai.model.recipe import Recipe
from inference.engine import astromae

MASKED = 0.75
_DECODER_DEPTH = 2

Report = Callable[[int, float], None]
"""Called with the epoch's number and its mean squared error, in units of each patch's variance."""


class MaskedAutoencoder(nn.Module):
    """The encoder of `model` and a decoder of plain blocks of the same width."""

    def __init__(self, model: astromae.AstroMAE) -> None:
        super().__init__()
        config = model.config
        if config.parallel_groups and config.parallel_kernel != 1:
            raise astromae.ConfigError(
                "model config: parallel_kernel must be 1 for masked pretraining, which breaks up the grid"
            )
        self.encoder, self.config = model.encoder, config
        plain = replace(config, parallel_groups=0)
        self.mask_token = nn.Parameter(torch.randn(1, 1, config.width) * 0.02)
        self.decoder = nn.ModuleList(astromae.Block(plain) for _ in range(_DECODER_DEPTH))
        self.norm = nn.LayerNorm(config.width)
        self.draw = nn.Linear(config.width, config.channels * config.patch_size**2)

    def forward(self, images: Tensor, hidden: Tensor) -> Tensor:
        """Mean squared error over the hidden patches; images (B, C, S, S) after asinh, hidden (T,) bool."""
        tokens = self.encoder.tokens(images)
        seen = self.encoder.blocks_of(tokens[:, ~hidden])[:, 1:]
        full = self.mask_token.expand(*tokens.shape[:2], -1).clone()
        full[:, ~hidden] = seen
        x = full + self.encoder.positions[:, 1:]
        for block in self.decoder:
            x = block(x)
        drawn = self.draw(self.norm(x))[:, hidden]
        return F.mse_loss(drawn, self._patches(images)[:, hidden])

    def _patches(self, images: Tensor) -> Tensor:
        """Pixels by patch, (B, T, C p p), each patch with zero mean and unit variance as the paper advises."""
        size = self.config.patch_size
        pixels = F.unfold(images, size, stride=size).transpose(1, 2)
        mean, variance = pixels.mean(2, keepdim=True), pixels.var(2, keepdim=True)
        return (pixels - mean) / (variance + 1e-6).sqrt()


def pretrain(
    config: astromae.Config, galaxies: Galaxies, recipe: Recipe, report: Report = lambda epoch, loss: None
) -> astromae.AstroMAE:
    """A network whose encoder has seen the galaxies' images, and nothing of their redshifts."""
    torch.manual_seed(recipe.seed)
    model = astromae.AstroMAE(replace(config, asinh_softening=softening(galaxies)))
    coder = MaskedAutoencoder(model).to(DEVICE).train()
    optimiser = torch.optim.AdamW(coder.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    steps = recipe.epochs * -(-len(galaxies) // recipe.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, recipe.learning_rate, total_steps=steps)
    scale = torch.tensor(model.config.asinh_softening, device=DEVICE)[:, None, None]
    for epoch in range(1, recipe.epochs + 1):
        total = 0.0
        for rows in torch.randperm(len(galaxies)).split(recipe.batch_size):
            images = torch.asinh(augmented(galaxies.images[rows].to(DEVICE)) / scale)
            loss = coder(images, _hidden(config.tokens).to(DEVICE))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += float(loss.detach()) * len(rows)
        report(epoch, total / len(galaxies))
    return model.cpu().eval()


def _hidden(tokens: int) -> Tensor:
    """Which patches are hidden, the same ones for a whole batch."""
    hidden = torch.zeros(tokens, dtype=torch.bool)
    hidden[torch.randperm(tokens)[: round(tokens * MASKED)]] = True
    return hidden
