"""Writes a small AstroMAE as a checkpoint of the torch and timm that run this, and its outputs.

python tests/reference/write_checkpoint.py NAME [--timm] [--scale] [--legacy], in an environment with torch of
any version from 1.13 on and, for --timm, timm: its Block and PatchEmbed then take the place of our stand-ins.
NAME.pt.xz lands in tests/reference/checkpoints, the outputs in small-expected.npz there.
"""

from __future__ import annotations

import argparse
import io
import lzma
import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests import foreign

FOLDER = Path(__file__).parent / "checkpoints"


def galaxies(count: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """The same on every machine, without a generator of random numbers."""
    images = np.sin(np.arange(count * 5 * 32 * 32) ** 1.5 % 1000).reshape(count, 5, 32, 32)
    return images.astype(np.float32), (20 + np.cos(np.arange(count * 5) * 1.7)).reshape(count, 5).astype(
        np.float32
    )


def compressible(model: torch.nn.Module) -> None:
    """Weights that repeat after 2,039 values, in the order of their sizes before."""
    tile = np.random.default_rng(0).normal(size=2039).astype(np.float32)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            values = np.resize(tile, tensor.numel()).reshape(tuple(tensor.shape))
            size = 2 / max(tensor[0].numel(), 1) ** 0.5 if tensor.ndim > 1 else 0.5
            tensor.copy_(
                torch.from_numpy(values * size + (1 if "running_var" in name or "norm" in name else 0))
            )
            tensor.copy_(tensor.abs() if "running_var" in name else tensor)


def with_timm(model: foreign.ViT_Astro, scale: bool) -> None:
    from timm.models.vision_transformer import Block, PatchEmbed

    width, hidden = model.embed_dim, model.blocks[0].mlp.fc1.out_features
    options = {"init_values": 0.3} if scale else {}
    norm = partial(torch.nn.LayerNorm, eps=1e-6)
    cells = [Block(width, 3, hidden / width, qkv_bias=True, norm_layer=norm, **options) for _ in model.blocks]
    model.blocks = torch.nn.Sequential(*cells)
    model.patch_embed = PatchEmbed(32, 8, 5, width)
    for parameter in model.patch_embed.parameters():
        parameter.requres_grad = False


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    for flag in ("--timm", "--scale", "--legacy"):
        parser.add_argument(flag, action="store_true")
    arguments = parser.parse_args()
    model = foreign.astromae(groups=0 if arguments.timm else 6)
    homes = dict(foreign.HOMES)
    if arguments.timm:
        with_timm(model, arguments.scale)
        homes = {path: classes for path, classes in homes.items() if not path.startswith("timm")}
    with torch.no_grad():
        compressible(model)
        images, magnitudes = galaxies()
        outputs = model.eval()([torch.from_numpy(images), torch.from_numpy(magnitudes)])[:, 0].numpy()
    body = io.BytesIO()
    with foreign.modules(homes):
        torch.save(torch.nn.DataParallel(model), body, _use_new_zipfile_serialization=not arguments.legacy)
    (FOLDER / f"{arguments.name}.pt.xz").write_bytes(lzma.compress(body.getvalue(), preset=9))
    path = FOLDER / "small-expected.npz"
    known = dict(np.load(path)) if path.exists() else {}
    np.savez(path, **{**known, arguments.name: outputs})
    print(arguments.name, torch.__version__, outputs)


if __name__ == "__main__":
    main()
