"""AstroMAE's redshift network in torch: an encoder over patches, an Inception branch and the magnitudes.

The architecture is that of Fathkouhi and Fox (2024), 'AstroMAE: Redshift Prediction Using a Masked
Autoencoder with a Novel Fine-Tuning Architecture' (arXiv:2409.01825), layer by layer as its published classes
compute it: a vision transformer (Dosovitskiy et al. 2021, arXiv:2010.11929) pretrained as a masked autoencoder
(He et al. 2022, arXiv:2111.06377) whose blocks carry a parallel convolution module (Xu et al. 2021, ViTAE,
arXiv:2106.03348); an Inception network (Szegedy et al. 2015, arXiv:1409.4842; for redshifts Pasquet et al.
2019, A&A 621, A26); and an MLP over the magnitudes. Shapes below: B galaxies, C bands, S pixels a side, T patch
tokens, D the encoder's width.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import POOLS as POOLS
from .config import Config as Config
from .config import ConfigError as ConfigError
from .config import Stack as Stack
from .config import Widths as Widths
from .config import activation as activation
from .config import activation_parts as activation_parts


class Attention(nn.Module):
    """Multi-head self-attention; the published network has biases only on queries and values."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width = config.width
        self.heads, self.scale = config.heads, config.attention_scale
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.query_bias = nn.Parameter(torch.zeros(width)) if config.query_bias else None
        self.key_bias = nn.Parameter(torch.zeros(width)) if config.key_bias else None
        self.value_bias = nn.Parameter(torch.zeros(width)) if config.value_bias else None
        self.project = nn.Linear(width, width)

    def bias(self) -> Tensor:
        """The biases of queries, keys and values, (3 D,); zeros for those that have none."""
        none = self.qkv.weight.new_zeros(self.qkv.in_features)
        parts = (self.query_bias, self.key_bias, self.value_bias)
        return torch.cat([none if part is None else part for part in parts])

    def forward(self, x: Tensor) -> Tensor:
        qkv = F.linear(x, self.qkv.weight, self.bias())  # (B, T+1, 3D)
        q, k, v = qkv.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # each (B, H, T+1, D/H)
        mixed = F.scaled_dot_product_attention(q, k, v, scale=self.scale)
        return self.project(mixed.transpose(1, 2).flatten(2))  # (B, T+1, D)


class ParallelConvolution(nn.Module):
    """Two grouped convolutions over the grid of patch tokens, parallel to attention."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width, hidden = config.width, config.parallel_width
        kernel, groups = config.parallel_kernel, config.parallel_groups
        self.grid = config.image_size // config.patch_size
        self.pointwise = kernel == 1
        self.expand = nn.Conv2d(width, hidden, kernel, padding=kernel // 2, groups=groups)
        self.norm = nn.BatchNorm2d(hidden, eps=config.parallel_norm_eps)
        self.activation = activation(config.parallel_activation)
        self.contract = nn.Conv2d(hidden, width, kernel, padding=kernel // 2, groups=groups)

    def forward(self, tokens: Tensor) -> Tensor:
        # A kernel of 1 sees no neighbours, so it works on any subset of the tokens (masked pretraining).
        shape = (-1, 1) if self.pointwise else (self.grid, self.grid)
        grid = tokens.transpose(1, 2).unflatten(2, shape)  # (B, D, G, G) or (B, D, T, 1)
        out = self.contract(self.activation(self.norm(self.expand(grid))))
        return out.flatten(2).transpose(1, 2)  # (B, T, D)


class Block(nn.Module):
    """Pre-norm transformer block; the parallel module's output is added only to the patch tokens."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width, hidden = config.width, config.mlp_width
        self.attention_norm = nn.LayerNorm(width, eps=config.norm_eps)
        self.attention = Attention(config)
        self.parallel = ParallelConvolution(config) if config.parallel_groups else None
        self.mlp_norm = nn.LayerNorm(width, eps=config.norm_eps)
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden), activation(config.mlp_activation), nn.Linear(hidden, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        out = x + self.attention(self.attention_norm(x))  # (B, T+1, D)
        if self.parallel is not None:
            out = out + F.pad(self.parallel(x[:, 1:]), (0, 0, 1, 0))  # nothing for the class token
        return out + self.mlp(self.mlp_norm(out))


class Encoder(nn.Module):
    """Patches of the image to the mean of the patch tokens, (B, C, S, S) -> (B, head_width)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width, patch = config.width, config.patch_size
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(sine_cosine_positions(config), requires_grad=False)
        self.embed = nn.Conv2d(config.channels, width, patch, stride=patch)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(width, eps=config.final_norm_eps)
        self.head = nn.Linear(width, config.head_width)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.embedding(images))

    def embedding(self, images: Tensor) -> Tensor:
        """The normalised mean of the patch tokens, (B, D)."""
        return self.norm(self.blocks_of(self.tokens(images))[:, 1:].mean(1))

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


class Unit(nn.Sequential):
    """A convolution that keeps the size, BatchNorm and an activation."""

    def __init__(self, config: Config, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2),
            nn.BatchNorm2d(outputs, eps=config.inception_norm_eps),
            activation(config.inception_activation),
        )


class InceptionBlock(nn.Module):
    """Parallel 1×1, 3×3, 5×5 and pooled paths, concatenated in this order.

    A block that does not use its 5×5 path still holds its weights, as the published network does.
    """

    def __init__(self, config: Config, inputs: int, widths: Widths, uses_five: bool) -> None:
        super().__init__()
        one, before_three, three, before_five, five, pooled = widths
        self.uses_five = uses_five
        self.one = Unit(config, inputs, one, 1)
        self.three = nn.Sequential(Unit(config, inputs, before_three, 1), Unit(config, before_three, three, 3))
        self.five = nn.Sequential(Unit(config, inputs, before_five, 1), Unit(config, before_five, five, 5))
        size = config.inception_pool_size
        self.pool = POOLS[config.inception_pool](size, stride=1, padding=size // 2)
        self.pooled = Unit(config, inputs, pooled, 1)
        self.outputs = one + three + (five if uses_five else 0) + pooled

    def forward(self, x: Tensor) -> Tensor:
        five = [self.five(x)] if self.uses_five else []
        return torch.cat([self.one(x), self.three(x), *five, self.pooled(self.pool(x))], 1)


HALVED_AFTER = (1, 3)  # the Inception blocks after which the image is halved; it is also halved after the stem


class Inception(nn.Module):
    """The convolutional branch, (B, C, S, S) -> (B, flat), flat = last block's channels × (S/8)²."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.stem = nn.Conv2d(config.channels, config.stem_width, 1)
        self.halve = POOLS[config.halving](2)
        self.blocks = nn.ModuleList()
        inputs = config.stem_width
        for widths, uses_five in zip(config.inception, config.inception_five, strict=True):
            block = InceptionBlock(config, inputs, widths, uses_five)
            self.blocks.append(block)
            inputs = block.outputs
        self.outputs = inputs * (config.image_size // 8) ** 2

    def forward(self, images: Tensor) -> Tensor:
        x = self.halve(self.stem(images))
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in HALVED_AFTER:
                x = self.halve(x)
        return x.flatten(1)


def stack(inputs: int, described: Stack) -> nn.Sequential:
    """Linear layers with activations between them, at the even places of the Sequential."""
    layers: list[nn.Module] = []
    for before, after in pairwise((inputs, *described.widths)):
        layers += [nn.Linear(before, after), activation(described.activation)]
    return nn.Sequential(*layers[:-1])


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
        self.encoder_branch = stack(config.head_width, config.encoder_branch)
        self.inception = Inception(config)
        self.inception_branch = stack(self.inception.outputs, config.inception_branch)
        self.magnitude_branch = stack(config.magnitudes, config.magnitude_branch)
        branches = (config.encoder_branch, config.inception_branch, config.magnitude_branch)
        joint = sum(branch.widths[-1] for branch in branches)
        self.fusion = stack(joint, config.fusion)
        hidden = (joint, *config.fusion.widths)[-2]
        self.density = nn.Linear(hidden, config.density_bins) if config.density_bins else None

    def forward(self, images: Tensor, magnitudes: Tensor) -> Tensor:
        return self.outputs(images, magnitudes)[0]

    def outputs(self, images: Tensor, magnitudes: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Redshifts (B,); the encoder's description of the images (B, D); probabilities of bins (B, K)."""
        features, embedding = self._features(images)
        redshift, logits = self.heads(features, self.magnitude_branch(magnitudes))
        return redshift, embedding, None if logits is None else torch.softmax(logits, 1)

    def image_features(self, images: Tensor) -> Tensor:
        """The outputs of the encoder's and the Inception branch for images, concatenated."""
        return self._features(images)[0]

    def _features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        if self.softening is not None:
            images = torch.asinh(images / self.softening)
        embedding = self.encoder.embedding(images)
        encoded = self.encoder_branch(self.encoder.head(embedding))
        return torch.cat([encoded, self.inception_branch(self.inception(images))], 1), embedding

    def fused(self, image_features: Tensor, magnitude_features: Tensor) -> Tensor:
        return self.heads(image_features, magnitude_features)[0]

    def heads(self, image_features: Tensor, magnitude_features: Tensor) -> tuple[Tensor, Tensor | None]:
        """Redshifts (B,), and logits of the bins of p(z) (B, K) if there is a head for them."""
        hidden = self.fusion[:-1](torch.cat([image_features, magnitude_features], 1))
        return self.fusion[-1](hidden).squeeze(1), None if self.density is None else self.density(hidden)


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
    from safetensors.torch import save as as_bytes

    folder.mkdir(parents=True, exist_ok=True)
    model.config.write(folder / "config.json")
    tensors = as_bytes({name: tensor.contiguous() for name, tensor in model.state_dict().items()})
    (folder / "model.safetensors").write_bytes(tensors)  # save_file would hide it from all other users
