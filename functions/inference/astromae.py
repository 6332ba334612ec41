"""AstroMAE's redshift network in torch: an encoder over patches, an Inception branch and the magnitudes.

The architecture is that of Fathkouhi and Fox (2024), 'AstroMAE: Redshift Prediction Using a Masked
Autoencoder with a Novel Fine-Tuning Architecture' (arXiv:2409.01825): a vision transformer (Dosovitskiy
et al. 2021, arXiv:2010.11929) pretrained as a masked autoencoder (He et al. 2022, arXiv:2111.06377) whose
blocks carry a parallel convolution module (Xu et al. 2021, ViTAE, arXiv:2106.03348); an Inception network
as in Pasquet et al. (2019, A&A 621, A26); and an MLP over the magnitudes. Shapes below: B galaxies,
C bands, T patch tokens, D the encoder's width.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ConfigError(ValueError):
    """A model's config.json or weights do not describe a network that this file can build."""


@dataclass(frozen=True)
class Config:
    """Every width of the network. The defaults are the published ones."""

    image_size: int = 32
    channels: int = 5
    asinh_softening: tuple[float, ...] | None = None  # images -> asinh(images / softening), per channel
    patch_size: int = 8
    width: int = 192
    depth: int = 12
    heads: int = 6
    mlp_ratio: float = 4.0
    key_bias: bool = False
    parallel_groups: int = 48  # of the parallel convolution module; 0: plain blocks without it
    parallel_kernel: int = 1
    head_width: int = 192
    branch_width: int = 1096  # of the encoder's and the Inception branch's last two Linear layers
    stem_width: int = 32
    inception: tuple[tuple[int, int], ...] = ((16, 12), (16, 12), (24, 6), (24, 6), (4, 4))
    magnitudes: int = 5
    magnitude_width: int = 1024
    magnitude_depth: int = 5
    fusion_width: int = 1024

    def __post_init__(self) -> None:
        _require(self.image_size % self.patch_size == 0, "image_size", "a multiple of patch_size")
        _require(self.image_size % 8 == 0, "image_size", "a multiple of 8 (three average pools)")
        _require(self.width % self.heads == 0, "width", "a multiple of heads")
        _require(self.width % 4 == 0, "width", "a multiple of 4 (sine-cosine positions)")
        _require(len(self.inception) == 5, "inception", "five pairs (reduction width, path width)")
        _require(self.magnitude_depth >= 2, "magnitude_depth", "at least 2")
        if self.asinh_softening is not None:
            _require(len(self.asinh_softening) == self.channels, "asinh_softening", "one value a channel")

    @property
    def tokens(self) -> int:
        return (self.image_size // self.patch_size) ** 2

    @classmethod
    def read(cls, path: Path) -> Config:
        """A Config from a JSON file; raises ConfigError that names an unknown or refused field."""
        values: dict[str, Any] = json.loads(path.read_text())
        unknown = sorted(set(values) - {field.name for field in fields(cls)})
        _require(not unknown, ", ".join(unknown), f"known fields of {path.name}")
        for name in ("inception", "asinh_softening"):
            if values.get(name) is not None:
                values[name] = tuple(tuple(v) if isinstance(v, list) else v for v in values[name])
        return cls(**values)

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=2) + "\n")


def _require(holds: bool, name: str, allowed: str) -> None:
    if not holds:
        raise ConfigError(f"model config: {name} must be {allowed}")


class Attention(nn.Module):
    """Multi-head self-attention; the published network has biases on queries and values alone."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.query_bias = nn.Parameter(torch.zeros(width))
        self.value_bias = nn.Parameter(torch.zeros(width))
        self.key_bias = nn.Parameter(torch.zeros(width)) if config.key_bias else None
        self.project = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        key_bias = torch.zeros_like(self.query_bias) if self.key_bias is None else self.key_bias
        bias = torch.cat([self.query_bias, key_bias, self.value_bias])
        qkv = F.linear(x, self.qkv.weight, bias)  # (B, T+1, 3D)
        q, k, v = qkv.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # each (B, H, T+1, D/H)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.project(mixed.transpose(1, 2).flatten(2))  # (B, T+1, D)


class ParallelConvolution(nn.Module):
    """Two grouped convolutions over the grid of patch tokens, beside attention."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width, hidden = config.width, int(config.width * config.mlp_ratio)
        kernel, groups = config.parallel_kernel, config.parallel_groups
        self.grid = config.image_size // config.patch_size
        self.pointwise = kernel == 1
        self.expand = nn.Conv2d(width, hidden, kernel, padding=kernel // 2, groups=groups)
        self.norm = nn.BatchNorm2d(hidden)
        self.contract = nn.Conv2d(hidden, width, kernel, padding=kernel // 2, groups=groups)

    def forward(self, tokens: Tensor) -> Tensor:
        # A kernel of 1 sees no neighbours, and so takes any subset of the tokens (masked pretraining).
        shape = (-1, 1) if self.pointwise else (self.grid, self.grid)
        grid = tokens.transpose(1, 2).unflatten(2, shape)  # (B, D, G, G) or (B, D, T, 1)
        out = self.contract(F.silu(self.norm(self.expand(grid))))
        return out.flatten(2).transpose(1, 2)  # (B, T, D)


class Block(nn.Module):
    """Pre-norm transformer block; the parallel module's output is added to the patch tokens alone."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width, hidden = config.width, int(config.width * config.mlp_ratio)
        self.attention_norm = nn.LayerNorm(width, eps=1e-6)
        self.attention = Attention(config)
        self.parallel = ParallelConvolution(config) if config.parallel_groups else None
        self.mlp_norm = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        out = x + self.attention(self.attention_norm(x))  # (B, T+1, D)
        if self.parallel is not None:
            out = out + F.pad(self.parallel(x[:, 1:]), (0, 0, 1, 0))  # nothing for the class token
        return out + self.mlp(self.mlp_norm(out))


class Encoder(nn.Module):
    """Patches of the image to the mean of the patch tokens, (B, C, S, S) -> (B, head_width)."""

    positions: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        width, patch = config.width, config.patch_size
        self.embed = nn.Conv2d(config.channels, width, patch, stride=patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.register_buffer("positions", sine_cosine_positions(config))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, config.head_width)

    def forward(self, images: Tensor) -> Tensor:
        x = self.blocks_of(self.tokens(images))
        return self.head(self.norm(x[:, 1:].mean(1)))

    def tokens(self, images: Tensor) -> Tensor:
        """Patch tokens with their positions, (B, T, D)."""
        return self.embed(images).flatten(2).transpose(1, 2) + self.positions[:, 1:]

    def blocks_of(self, tokens: Tensor) -> Tensor:
        """The class token and any tokens through all blocks, (B, n, D) -> (B, n + 1, D)."""
        first = (self.class_token + self.positions[:, :1]).expand(len(tokens), -1, -1)
        x = torch.cat([first, tokens], 1)
        for block in self.blocks:
            x = block(x)
        return x


def sine_cosine_positions(config: Config) -> Tensor:
    """The fixed two-dimensional positions of masked autoencoders, (1, T+1, D), zero for the class token."""
    side, quarter = config.image_size // config.patch_size, config.width // 4
    frequency = 10000.0 ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
    angle = torch.arange(side, dtype=torch.float64)[:, None] * frequency  # (G, D/4)
    axis = torch.cat([angle.sin(), angle.cos()], 1)  # (G, D/2)
    columns, rows = axis.repeat(side, 1), axis.repeat_interleave(side, 0)
    grid = torch.cat([columns, rows], 1)  # (T, D)
    return F.pad(grid, (0, 0, 1, 0)).float()[None]


class ConvBlock(nn.Sequential):
    """A convolution that keeps the size, then ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__(nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2), nn.ReLU())


class InceptionBlock(nn.Module):
    """Parallel 1×1, 3×3, (5×5) and pooled paths, concatenated: 3·path + reduce channels (2· without 5×5)."""

    def __init__(self, inputs: int, reduce: int, path: int, with_five: bool) -> None:
        super().__init__()
        self.one = ConvBlock(inputs, path, 1)
        self.three = nn.Sequential(ConvBlock(inputs, reduce, 1), ConvBlock(reduce, path, 3))
        self.five = (
            nn.Sequential(ConvBlock(inputs, reduce, 1), ConvBlock(reduce, path, 5)) if with_five else None
        )
        self.pooled = ConvBlock(inputs, reduce, 1)
        self.outputs = (3 if with_five else 2) * path + reduce

    def forward(self, x: Tensor) -> Tensor:
        paths = [self.one(x), self.three(x)] + ([] if self.five is None else [self.five(x)])
        pooled = F.avg_pool2d(self.pooled(x), 3, stride=1, padding=1)
        return torch.cat([*paths, pooled], 1)


HALVED_BEHIND = (1, 3)  # the Inception blocks behind which 2×2 pixels are averaged


class Inception(nn.Module):
    """The convolutional branch, (B, C, S, S) -> (B, flat), flat = last block's channels × (S/8)²."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.stem = nn.Conv2d(config.channels, config.stem_width, 1)
        self.blocks = nn.ModuleList()
        inputs = config.stem_width
        for index, (reduce, path) in enumerate(config.inception):
            block = InceptionBlock(inputs, reduce, path, with_five=index < 4)
            self.blocks.append(block)
            inputs = block.outputs
        self.outputs = inputs * (config.image_size // 8) ** 2

    def forward(self, images: Tensor) -> Tensor:
        x = F.avg_pool2d(self.stem(images), 2)
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in HALVED_BEHIND:
                x = F.avg_pool2d(x, 2)
        return x.flatten(1)


def two_layers(inputs: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width))


class AstroMAE(nn.Module):
    """Images (B, C, S, S) and magnitudes (B, M) to photometric redshifts (B,)."""

    softening: Tensor | None

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        softening = config.asinh_softening
        values = None if softening is None else torch.tensor(softening)[:, None, None]
        self.register_buffer("softening", values, persistent=False)
        self.encoder = Encoder(config)
        self.encoder_branch = two_layers(config.head_width, config.branch_width)
        self.inception = Inception(config)
        self.inception_branch = two_layers(self.inception.outputs, config.branch_width)
        self.magnitude_branch = _magnitude_branch(config)
        fused = 2 * config.branch_width + config.magnitude_width
        self.fusion = nn.Sequential(
            nn.Linear(fused, config.fusion_width), nn.ReLU(), nn.Linear(config.fusion_width, 1)
        )

    def forward(self, images: Tensor, magnitudes: Tensor) -> Tensor:
        if self.softening is not None:
            images = torch.asinh(images / self.softening)
        branches = [
            self.encoder_branch(self.encoder(images)),
            self.inception_branch(self.inception(images)),
            self.magnitude_branch(magnitudes),
        ]
        return self.fusion(torch.cat(branches, 1)).squeeze(1)


def _magnitude_branch(config: Config) -> nn.Sequential:
    widths = [config.magnitudes] + [config.magnitude_width] * config.magnitude_depth
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])  # nothing after the last Linear


def parameter_count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def load(folder: Path) -> AstroMAE:
    """The network of a model folder (config.json, model.safetensors), ready for inference.

    Raises ConfigError when the weights do not fit the config.
    """
    from safetensors.torch import load_file

    model = AstroMAE(Config.read(folder / "config.json"))
    try:
        model.load_state_dict(load_file(folder / "model.safetensors"))
    except RuntimeError as error:
        raise ConfigError(f"{folder.name}/model.safetensors does not fit its config.json: {error}") from error
    return model.eval()


def save(model: AstroMAE, folder: Path) -> None:
    """Writes the model folder that `load` reads."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    model.config.write(folder / "config.json")
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "model.safetensors")
