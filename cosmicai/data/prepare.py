"""From a team's own files to partitions 1.pt, 2.pt, … in a folder or in S3.

They appear together at the end. What is there already with the same content is left alone, so that the
same call finishes one that was interrupted.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import TensorDataset

from cosmicai.data import layout as layouts
from cosmicai.data import objects
from cosmicai.data.galaxies import Block, Galaxies
from cosmicai.data.layout import ModelLayout
from cosmicai.data.places import sha256
from cosmicai.data.reading import Reading
from cosmicai.data.sets import NewSet, Place, new_set
from cosmicai.data.sources import opened_source
from cosmicai.data.sources.base import SourceError
from cosmicai.data.summary import Sample, Summary
from inference.data.objects import Objects

Progress = Callable[[int, int], None]
"""Called with (finished, total) galaxies."""

MIB = 1024 * 1024
_BLOCK_BYTES = 8 << 20  # read at once; a partition is put together of such blocks
_IN_FLIGHT = 2  # partitions being written at once; each is held about three times while it is


@dataclass(frozen=True)
class Prepared:
    """What `prepare` did; removed: partitions of another set."""

    partitions: int
    galaxies: int
    written: int
    removed: list[str]
    summary: Summary


def prepare(
    source: Path,
    place: Place,
    partition_mb: float,
    reading: Reading = Reading(),  # noqa: B008
    model: Path = layouts.BUNDLED,
    progress: Progress = lambda stored, total: None,
    overwrite: bool = False,
) -> Prepared:
    """Writes the partitions of one source; memory is bounded by a few partitions, whatever its size.

    overwrite: replace another set of partitions. Raises SourceError that names file, place and fault,
    LayoutError, or SetError if the place holds another set; the place is then as before.
    """
    layout = layouts.read(model)
    with opened_source(source, reading, layout) as table:
        galaxies = Galaxies(table, reading, layout)
        sample = Sample(galaxies)
        size = rows_per_partition(partition_mb, layout)
        names = {f"{number}.pt" for number in range(1, -(-galaxies.total // size) + 1)}
        with new_set(place, overwrite, names.__contains__) as partitions:
            number, stored, written = _write(galaxies, partitions, size, sample, progress)
            if not stored:
                raise SourceError(f"{source}: holds no galaxy" + (" that is usable" * bool(galaxies.dropped)))
            place.describe(galaxies.photometry)
            removed = partitions.finish()
        return Prepared(number, stored, written, removed, sample.summary())


def _write(
    galaxies: Galaxies, partitions: NewSet, size: int, sample: Sample, progress: Progress
) -> tuple[int, int, int]:
    """How many partitions and galaxies there are, and how many partitions were written."""
    number, stored, written = 0, 0, 0
    pending: dict[Future[bool], int] = {}
    with ThreadPoolExecutor(_IN_FLIGHT) as pool:
        for number, (rows, columns) in enumerate(_partitions(galaxies, size, sample), 1):
            pending[pool.submit(_store, partitions, f"{number}.pt", rows, columns)] = len(rows)
            while len(pending) >= _IN_FLIGHT:
                finished, _ = wait(pending, return_when=FIRST_COMPLETED)
                written += sum(future.result() for future in finished)
                stored += sum(pending.pop(future) for future in finished)
                progress(stored, galaxies.total - galaxies.dropped)
        written += sum(future.result() for future in pending)
        stored += sum(pending.values())
        progress(stored, stored)
    return number, stored, written


def rows_per_partition(partition_mb: float, layout: ModelLayout) -> int:
    """Galaxies in a partition of `partition_mb` MiB of tensors. Raises SourceError if not even one fits."""
    rows = int(partition_mb * MIB // layout.sample_bytes)
    if rows < 1:
        raise SourceError(
            f"--partition-mb is {partition_mb}: one galaxy alone needs {layout.sample_bytes / MIB:.3f}"
        )
    return rows


def _store(partitions: NewSet, name: str, dataset: TensorDataset, columns: Objects) -> bool:
    """Adds a partition; says whether it had to be written."""
    body = io.BytesIO()
    torch.save(dataset, body)
    try:
        objects.append(body, columns)
    except objects.ObjectsError as error:
        raise SourceError(f"{name}: {error}") from error
    body.seek(0)
    digest = sha256(body)
    body.seek(0)
    return partitions.add(name, body, digest)


def _partitions(galaxies: Galaxies, size: int, sample: Sample) -> Iterator[tuple[TensorDataset, Objects]]:
    """TensorDatasets of `size` galaxies, the last perhaps of fewer, and the columns stored next to them."""
    held: list[Block] = []
    count = 0
    for block in galaxies.blocks(max(1, min(size, _BLOCK_BYTES // galaxies.layout.sample_bytes))):
        sample.add(block)
        rest = block
        while len(rest):
            held.append(rest[: size - count])
            rest = rest[size - count :]
            count += len(held[-1])
            if count == size:
                yield _dataset(held)
                held, count = [], 0
    if held:
        yield _dataset(held)


def _dataset(held: list[Block]) -> tuple[TensorDataset, Objects]:
    columns = [[block.images for block in held], [block.magnitudes for block in held]]
    if held[0].redshift is not None:
        columns.append([block.redshift for block in held if block.redshift is not None])
    dataset = TensorDataset(*(torch.from_numpy(np.concatenate(column)) for column in columns))
    return dataset, objects.concatenated([block.objects for block in held])
