"""Small networks and random galaxies, for the tests of graphs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from inference.data.partition import Partition
from inference.engine import astromae

from .test_astromae import SMALL, randomised


def small_model(**changes: object) -> astromae.AstroMAE:
    return randomised(replace(SMALL, **changes))  # type: ignore[arg-type]


def random_galaxies(count: int, config: astromae.Config = SMALL, seed: int = 0) -> Partition:
    random = np.random.default_rng(seed)
    shape = (count, config.channels, config.image_size, config.image_size)
    images = random.normal(0, 1, shape).astype(np.float32)
    magnitudes = random.normal(0, 1, (count, config.magnitudes)).astype(np.float32)
    return Partition(images, magnitudes, random.uniform(0.1, 2, count).astype(np.float32))


def label(changes: dict[str, object]) -> str:
    return ",".join(
        f"{k}={v.widths}{v.activation}" if isinstance(v, astromae.Stack) else f"{k}={v}"
        for k, v in changes.items()
    )
