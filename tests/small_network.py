"""AstroMAE as small as tests of commands need it: 0.3 MB, where the default dense layers take 40."""

from __future__ import annotations

from inference.engine.astromae import Config, Stack

SMALL = Config(
    width=16,
    depth=1,
    heads=2,
    parallel_groups=0,
    head_width=8,
    encoder_branch=Stack((16, 16)),
    inception_branch=Stack((16, 16)),
    magnitude_branch=Stack((16, 16)),
    fusion=Stack((16, 1)),
)
