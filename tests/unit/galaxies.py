"""Galaxies to prepare, and what has become of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cosmicai.data.places import Folder
from cosmicai.data.prepare import Prepared, prepare
from cosmicai.data.reading import Reading
from cosmicai.data.sources import SourceError
from inference.data.partition import tensors_of

Arrays = dict[str, np.ndarray]
COUNT = 130
BANDS = "ugriz"


def galaxies(count: int = COUNT) -> Arrays:
    """images (N, 5, 32, 32), magnitudes (N, 5) within the model's limits, and redshift (N,), all float32."""
    rng = np.random.default_rng(0)
    arrays = {
        "images": rng.normal(0, 1, (count, 5, 32, 32)),
        "magnitudes": rng.uniform(19, 25, (count, 5)),
        "redshift": rng.uniform(0, 2, count),
    }
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def made(source: Path, out: Path, reading: Reading = Reading(), **about: object) -> tuple[Arrays, Prepared]:  # noqa: B008
    """The prepared partitions of a source as whole arrays, and what `prepare` says."""
    outcome = prepare(source, Folder(out), 1, reading, **about)  # type: ignore[arg-type]
    return prepared(out), outcome


def prepared(folder: Path) -> Arrays:
    """All partitions of a folder, in order, as one; also those with NaN."""
    files = sorted(folder.glob("*.pt"), key=lambda path: int(path.stem))
    parts = [tensors_of(path.read_bytes()) for path in files]
    return dict(
        zip(("images", "magnitudes", "redshift"), map(np.concatenate, zip(*parts, strict=True)), strict=False)
    )


def differing(actual: Arrays, expected: Arrays) -> set[str]:
    """The names of arrays that only one of both has, or that differ."""
    both = actual.keys() & expected.keys()
    different = {name for name in both if not np.array_equal(actual[name], expected[name], equal_nan=True)}
    return different | (actual.keys() ^ expected.keys())


def refused(path: Path, match: str, reading: Reading = Reading()) -> None:  # noqa: B008
    """`prepare` refuses a source, and the message matches."""
    with pytest.raises(SourceError, match=match):
        prepare(path, Folder(path.parent / "refused"), 1, reading)
