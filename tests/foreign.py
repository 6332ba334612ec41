"""AstroMAE as its users have it, written for the tests from the description of its public classes.

Modules, names, attributes and order of registration are theirs; the code is not. `modules()` puts the classes
under the paths that users' pickles name, for as long as they are needed. Sizes are small unless others are
asked for, and every part can be exchanged.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Norm = Callable[[int], nn.Module]


# timm 0.4.12


class DropPath(nn.Module):
    def __init__(self, drop_prob: float | None = None) -> None:
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x: Tensor) -> Tensor:
        assert not self.training
        return x


class PatchEmbed(nn.Module):
    def __init__(self, image: int, patch: int, channels: int, width: int) -> None:
        super().__init__()
        self.img_size, self.patch_size = (image, image), (patch, patch)
        self.grid_size = (image // patch, image // patch)
        self.num_patches, self.flatten = (image // patch) ** 2, True
        self.proj = nn.Conv2d(channels, width, kernel_size=(patch, patch), stride=(patch, patch))
        self.norm = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        assert tuple(x.shape[2:]) == self.img_size
        x = self.proj(x)
        return self.norm(x.flatten(2).transpose(1, 2) if self.flatten else x)


class Mlp(nn.Module):
    def __init__(self, width: int, hidden: int, act: type[nn.Module] = nn.GELU) -> None:
        super().__init__()
        self.fc1, self.act = nn.Linear(width, hidden), act()
        self.fc2, self.drop = nn.Linear(hidden, width), nn.Dropout(0.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.fc2(self.drop(self.act(self.fc1(x)))))


class CellMlp(Mlp):
    """NormalCell's, which also notes its hidden width."""

    def __init__(self, width: int, hidden: int, act: type[nn.Module] = nn.GELU) -> None:
        super().__init__(width, hidden, act)
        self.hidden_features = hidden


class Attention(nn.Module):
    def __init__(self, width: int, heads: int, bias: bool) -> None:
        super().__init__()
        self.num_heads, self.scale = heads, (width // heads) ** -0.5
        self.qkv, self.attn_drop = nn.Linear(width, 3 * width, bias=bias), nn.Dropout(0.0)
        self.proj, self.proj_drop = nn.Linear(width, width), nn.Dropout(0.0)

    def projected(self, x: Tensor) -> Tensor:
        return self.qkv(x)

    def forward(self, x: Tensor) -> Tensor:
        split = self.projected(x).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        queries, keys, values = split.unbind(0)
        weights = self.attn_drop((self.scale * queries @ keys.mT).softmax(-1))
        return self.proj_drop(self.proj((weights @ values).transpose(1, 2).flatten(2)))


class CellAttention(Attention):
    """NormalCell's: biases of queries and values beside a projection without."""

    def __init__(self, width: int, heads: int, bias: bool) -> None:
        super().__init__(width, heads, bias=False)
        self.q_bias = nn.Parameter(torch.randn(width)) if bias else None
        self.v_bias = nn.Parameter(torch.randn(width)) if bias else None

    def projected(self, x: Tensor) -> Tensor:
        if self.q_bias is None or self.v_bias is None:
            return F.linear(x, self.qkv.weight)
        return F.linear(x, self.qkv.weight, torch.cat([self.q_bias, self.q_bias * 0, self.v_bias]))


class Block(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int, norm: Norm, bias: bool = True) -> None:
        super().__init__()
        self.norm1, self.attn = norm(width), Attention(width, heads, bias)
        self.drop_path, self.norm2 = nn.Identity(), norm(width)
        self.mlp = Mlp(width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class NormalCell(nn.Module):
    def __init__(
        self, width: int, heads: int, hidden: int, norm: Norm, kernel: int, groups: int, bias: bool = True
    ) -> None:
        super().__init__()
        self.norm1, self.class_token = norm(width), True
        self.attn = CellAttention(width, heads, bias)
        self.drop_path, self.norm2 = nn.Identity(), norm(width)
        self.mlp = CellMlp(width, hidden)
        convolution = partial(nn.Conv2d, kernel_size=kernel, padding=kernel // 2, groups=groups)
        self.PCM = nn.Sequential(
            convolution(width, hidden),
            nn.BatchNorm2d(hidden),
            nn.SiLU(inplace=True),
            convolution(hidden, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        first = 1 if self.class_token else 0
        patches = x[:, first:].transpose(1, 2)
        side = int(patches.shape[2] ** 0.5)
        beside = self.PCM(patches.unflatten(2, (side, -1))).flatten(2).transpose(1, 2)
        x = x + self.drop_path(self.attn(self.norm1(x)))
        x = x + F.pad(self.drop_path(beside), (0, 0, first, 0))
        return x + self.drop_path(self.mlp(self.norm2(x)))


# blocks.photoz


class ConvBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


Widths = tuple[int, int, int, int, int, int]


class InceptionBlock(nn.Module):
    def __init__(self, inputs: int, widths: Widths, is_custom: bool = False) -> None:
        super().__init__()
        one, before_three, three, before_five, five, pooled = widths
        self.is_custom = is_custom
        self.branch1 = ConvBlock(inputs, one, 1)
        self.branch2 = nn.Sequential(ConvBlock(inputs, before_three, 1), ConvBlock(before_three, three, 3))
        self.branch3 = nn.Sequential(ConvBlock(inputs, before_five, 1), ConvBlock(before_five, five, 5))
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), ConvBlock(inputs, pooled, 1))

    def forward(self, x: Tensor) -> Tensor:
        skipped = self.branch3 if self.is_custom else None
        paths = (self.branch1, self.branch2, self.branch3, self.branch4)
        return torch.cat([path(x) for path in paths if path is not skipped], 1)


class Input_Mix_Model(nn.Module):
    def __init__(self, stem: int, widths: list[Widths], branch: int, magnitude: int, pixels: int) -> None:
        super().__init__()
        self.Inception_only, self.magnitude, self.uk_paper = False, True, False
        self.embed_dim, self.device = 192, "cpu"
        self.conv2d_init = nn.Conv2d(5, stem, kernel_size=(1, 1), padding_mode="zeros")
        self.avgpool, self.avgpool2 = nn.AvgPool2d(2, stride=2), nn.AvgPool2d(2, stride=2)
        self.magnitude_block = stack(5, [magnitude] * 5)
        self.config = [{"in_channel": 32, "out_11": one, "out_mxpl": pooled} for one, *_, pooled in widths]
        inputs, blocks = stem, []
        for index, block in enumerate(widths):
            blocks.append(InceptionBlock(inputs, block, is_custom=index == 4))
            one, _, three, _, five, pooled = block
            inputs = one + three + pooled + (0 if index == 4 else five)
        a, b, c, d, e = blocks
        self.vis_inception = nn.Sequential(
            self.conv2d_init, self.avgpool, a, b, nn.AvgPool2d(2), c, d, nn.AvgPool2d(2), e, nn.Flatten(),
            *stack(inputs * pixels, [branch, branch]),
        )  # fmt: skip

    def forward(self, x: list[Tensor]) -> Tensor:
        return torch.cat([self.vis_inception(x[0]), self.magnitude_block(x[1].float())], 1)


def stack(inputs: int, widths: list[int], act: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in zip([inputs, *widths], widths, strict=False):
        layers += [nn.Linear(before, after), act()]
    return nn.Sequential(*layers[:-1])


# blocks.model_vit_inception

SMALL: list[Widths] = [(6, 5, 4, 3, 5, 6), (4,) * 6, (3,) * 6, (4, 2, 5, 3, 2, 5), (2,) * 6]


class ViT_Astro(nn.Module):
    """groups 0: timm's Blocks."""

    def __init__(
        self,
        width: int = 24,
        depth: int = 2,
        heads: int = 3,
        hidden: int = 48,
        patch: int = 8,
        groups: int = 6,
        kernel: int = 1,
        eps: float = 1e-6,
        bias: bool = True,
        widths: list[Widths] = SMALL,
        stem: int = 8,
        branch: int = 20,
        magnitude: int = 14,
        fusion: int = 16,
        image: int = 32,
    ) -> None:
        super().__init__()
        norm = partial(nn.LayerNorm, eps=eps)
        self.embed_dim = width
        self.fc_norm, self.head = nn.LayerNorm(width, eps=1e-6), nn.Linear(width, width)
        self.inception_model = Input_Mix_Model(stem, widths, branch, magnitude, (image // 8) ** 2)
        tokens = 1 + (image // patch) ** 2
        self.cls_token = nn.Parameter(torch.randn(1, 1, width))
        self.pos_embed = nn.Parameter(torch.randn(1, tokens, width), requires_grad=False)
        cell = partial(NormalCell, kernel=kernel, groups=groups) if groups else Block
        cells = [cell(width, heads, hidden, norm, bias=bias) for _ in range(depth)]
        self.blocks = nn.ModuleList(cells) if groups else nn.Sequential(*cells)
        self.patch_embed = PatchEmbed(image, patch, 5, width)
        for parameter in self.patch_embed.parameters():
            parameter.requres_grad = False  # type: ignore[attr-defined]  # misspelt in the public code
        self.vit_block = stack(width, [branch, branch])
        self.concat_block = stack(2 * branch + magnitude, [fusion, 1])

    def forward(self, x: list[Tensor]) -> Tensor:
        tokens = self.patch_embed(x[0])
        tokens = torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], 1) + self.pos_embed
        for block in self.blocks:
            tokens = block(tokens)
        encoded = self.vit_block(self.head(self.fc_norm(tokens[:, 1:].mean(1))))
        return self.concat_block(torch.cat([encoded, self.inception_model(x)], 1))


HOMES: dict[str, dict[str, type[nn.Module]]] = {
    "timm.models.vision_transformer": {"Block": Block, "Attention": Attention},
    "timm.models.layers.patch_embed": {"PatchEmbed": PatchEmbed},
    "timm.models.layers.drop": {"DropPath": DropPath},
    "timm.models.layers.mlp": {"Mlp": Mlp},
    "NormalCell": {"NormalCell": NormalCell, "Attention": CellAttention, "Mlp": CellMlp},
    "blocks.photoz": {
        "Input_Mix_Model": Input_Mix_Model,
        "InceptionBlock": InceptionBlock,
        "ConvBlock": ConvBlock,
    },
    "blocks.model_vit_inception": {"ViT_Astro": ViT_Astro},
}


@contextmanager
def modules(homes: dict[str, dict[str, type[nn.Module]]] = HOMES) -> Iterator[None]:
    """The classes at the module paths of `homes`, which pickles then name; afterwards they are gone."""
    before = set(sys.modules)
    for path, classes in homes.items():
        parts = path.split(".")
        for end in range(1, len(parts) + 1):
            name = ".".join(parts[:end])
            sys.modules.setdefault(name, types.ModuleType(name))
        for name, cls in classes.items():
            cls.__module__, cls.__name__, cls.__qualname__ = path, name, name
            setattr(sys.modules[path], name, cls)
    try:
        yield
    finally:
        for name in set(sys.modules) - before:
            if name.partition(".")[0] in {path.partition(".")[0] for path in homes}:
                del sys.modules[name]


def astromae(seed: int = 0, **sizes: object) -> ViT_Astro:
    """In eval mode, with BatchNorm statistics as after training, and outputs that vary."""
    torch.manual_seed(seed)
    model = ViT_Astro(**sizes)  # type: ignore[arg-type]
    return randomised(model, seed)


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.weight.data *= 2
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            module.running_mean.normal_(generator=generator)
            assert module.running_var is not None
            module.running_var.uniform_(0.5, 2.0, generator=generator)
        if isinstance(module, nn.BatchNorm2d | nn.LayerNorm) and module.weight is not None:
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.normal_(generator=generator)
    return model.eval()


def galaxies(count: int = 6, channels: int = 5, image: int = 32, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(count, channels, image, image, generator=generator),
        torch.randn(count, 5, generator=generator),
    ]


def save(content: object, folder: Path, **options: object) -> Path:
    """As its users save it."""
    path = folder / "checkpoint.pt"
    with modules():
        torch.save(content, path, **options)  # type: ignore[arg-type]
    return path
