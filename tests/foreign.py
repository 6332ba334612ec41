"""An AstroMAE as its users' own code has it, written for the tests: other names, other registration orders.

`modules()` puts the classes under the module paths that users' pickles name, for as long as they are needed.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn


class PatchEmbed(nn.Module):
    def __init__(self, channels: int, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, patch, patch)
        self.norm = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.proj(x).flatten(2).transpose(1, 2))


class DropPath(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


class Mlp(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.act = nn.Linear(width, hidden), nn.GELU()
        self.fc2, self.drop = nn.Linear(hidden, width), nn.Dropout(0.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.fc2(self.act(self.fc1(x))))


class Attention(nn.Module):
    """With q_bias and v_bias, or with timm's bias on all three."""

    def __init__(self, width: int, heads: int, key_bias: bool) -> None:
        super().__init__()
        self.num_heads, self.scale = heads, (width // heads) ** -0.5
        self.qkv = nn.Linear(width, 3 * width, bias=key_bias)
        if not key_bias:
            self.q_bias, self.v_bias = (nn.Parameter(torch.randn(width)) for _ in range(2))
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x)
        if self.qkv.bias is None:
            qkv = qkv + torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        b, n, c = x.shape
        q, k, v = qkv.reshape(b, n, 3, self.num_heads, c // self.num_heads).permute(2, 0, 3, 1, 4)
        weights = ((q * self.scale) @ k.transpose(-2, -1)).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(b, n, c))


class Block(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int, norm_layer: partial[nn.LayerNorm]) -> None:
        super().__init__()
        self.norm1, self.norm2 = norm_layer(width), norm_layer(width)
        self.attn, self.mlp = Attention(width, heads, key_bias=True), Mlp(width, hidden)
        self.drop_path = DropPath()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class NormalCell(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int, groups: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn, self.drop_path = Attention(width, heads, key_bias=False), DropPath()
        self.mlp = Mlp(width, hidden)
        self.PCM = nn.Sequential(
            nn.Conv2d(width, hidden, 1, groups=groups),
            nn.BatchNorm2d(hidden),
            nn.SiLU(inplace=True),
            nn.Conv2d(hidden, width, 1, groups=groups),
        )

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        side = int((n - 1) ** 0.5)
        grid = x[:, 1:].view(b, side, side, c).permute(0, 3, 1, 2).contiguous()
        conv = self.PCM(grid).permute(0, 2, 3, 1).contiguous().view(b, n - 1, c)
        mixed = self.attn(self.norm1(x))
        mixed[:, 1:] = mixed[:, 1:] + conv
        x = x + self.drop_path(mixed)
        return x + self.drop_path(self.mlp(self.norm2(x)))


class ViT_Astro(nn.Module):
    def __init__(self, width: int, depth: int, heads: int, patch: int, groups: int) -> None:
        super().__init__()
        hidden, norm = 4 * width, partial(nn.LayerNorm, eps=1e-6)
        self.norm_layer = norm
        self.patch_embed = PatchEmbed(5, width, patch)
        tokens = (32 // patch) ** 2
        self.cls_token = nn.Parameter(torch.randn(1, 1, width))
        self.pos_embed = nn.Parameter(torch.randn(1, tokens + 1, width), requires_grad=False)
        cells = [
            NormalCell(width, heads, hidden, groups) if groups else Block(width, heads, hidden, norm)
            for _ in range(depth)
        ]
        self.blocks = nn.ModuleList(cells)
        self.fc_norm, self.head = norm(width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.head(self.fc_norm(x[:, 1:].mean(1)))


class ConvBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.conv(x))


class InceptionBlock(nn.Module):
    """Registers and concatenates its paths in another order than ours: 3×3, pooled, 5×5, 1×1."""

    def __init__(self, inputs: int, reduce: int, path: int, five: bool = True) -> None:
        super().__init__()
        self.s1 = nn.Sequential(ConvBlock(inputs, reduce, 1), ConvBlock(reduce, path, 3))
        self.s2, self.pool = ConvBlock(inputs, reduce, 1), nn.AvgPool2d(3, 1, 1)
        if five:
            self.s3 = nn.Sequential(ConvBlock(inputs, reduce, 1), ConvBlock(reduce, path, 5))
        self.five = five
        self.s4 = ConvBlock(inputs, path, 1)
        self.outputs = reduce + (3 if five else 2) * path

    def forward(self, x: Tensor) -> Tensor:
        five = [self.s3(x)] if self.five else []
        return torch.cat([self.s1(x), self.pool(self.s2(x)), *five, self.s4(x)], 1)


class Input_Mix_Model(nn.Module):
    def __init__(
        self, width: int = 24, depth: int = 2, heads: int = 3, patch: int = 8, groups: int = 6
    ) -> None:
        super().__init__()
        self.vit = ViT_Astro(width, depth, heads, patch, groups)
        self.vit_block = nn.Sequential(nn.Linear(width, 20), nn.ReLU(), nn.Linear(20, 20))
        widths, inputs = [(6, 4), (6, 4), (5, 3), (5, 3), (3, 2)], 8
        layers: list[nn.Module] = [nn.Conv2d(5, inputs, 1), nn.AvgPool2d(2)]
        for index, (reduce, path) in enumerate(widths):
            block = InceptionBlock(inputs, reduce, path, five=index < 4)
            layers += [block] + ([nn.AvgPool2d(2)] if index in (1, 3) else [])
            inputs = block.outputs
        self.inception = nn.Sequential(*layers, nn.Flatten())
        self.inception_block = nn.Sequential(nn.Linear(inputs * 16, 20), nn.ReLU(), nn.Linear(20, 20))
        stack: list[nn.Module] = [nn.Linear(5, 14)]
        for _ in range(4):
            stack += [nn.ReLU(), nn.Linear(14, 14)]
        self.magnitude_block = nn.Sequential(*stack)
        self.final = nn.Sequential(nn.Linear(54, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, inputs: list[Tensor]) -> Tensor:
        image, magnitude = inputs
        parts = [
            self.vit_block(self.vit(image)),
            self.inception_block(self.inception(image)),
            self.magnitude_block(magnitude),
        ]
        return self.final(torch.cat(parts, 1))


_HOMES = {
    "timm.models.vision_transformer": (Block, Attention),
    "timm.layers.patch_embed": (PatchEmbed,),
    "timm.models.layers.drop": (DropPath,),
    "timm.layers.mlp": (Mlp,),
    "blocks.normal_cell": (NormalCell,),
    "blocks.model_vit_inception": (ViT_Astro, Input_Mix_Model, InceptionBlock, ConvBlock),
}


@contextmanager
def modules() -> Iterator[None]:
    """The classes at the module paths of _HOMES, which pickles then name; afterwards they are gone."""
    for path, classes in _HOMES.items():
        module = types.ModuleType(path)
        for cls in classes:
            cls.__module__ = path
            setattr(module, cls.__name__, cls)
        parts = path.split(".")
        for end in range(1, len(parts)):
            parent = ".".join(parts[:end])
            sys.modules.setdefault(parent, types.ModuleType(parent))
        sys.modules[path] = module
    try:
        yield
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] in ("timm", "blocks")]:
            del sys.modules[name]


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model in eval mode with BatchNorm statistics as after training, and outputs that vary."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.weight.data *= 2
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            module.running_mean.normal_(generator=generator)
            assert module.running_var is not None
            module.running_var.uniform_(0.5, 2.0, generator=generator)
    return model.eval()
