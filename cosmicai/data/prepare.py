"""From a team's own files to partitions 1.pt, 2.pt, … in a folder or in S3.

What is there already with the same content is left alone, so that a call that was cut off is finished by
the same call again.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import TensorDataset

from cosmicai.data import layout as layouts
from cosmicai.data import objects
from cosmicai.data.galaxies import Block, Galaxies
from cosmicai.data.layout import ModelLayout
from cosmicai.data.photometry import Photometry
from cosmicai.data.reading import Reading
from cosmicai.data.sources import opened_source
from cosmicai.data.sources.base import SourceError
from cosmicai.data.summary import Sample, Summary
from inference.data.objects import Objects

Progress = Callable[[int, int], None]
"""Called with (done, total) galaxies."""

MIB = 1024 * 1024
_BLOCK_BYTES = 8 << 20  # read at once; a partition is put together of such blocks
_IN_FLIGHT = 2  # partitions being written at once; each is held about three times while it is


@dataclass(frozen=True)
class Prepared:
    """What `prepare` did."""

    partitions: int
    galaxies: int
    written: int
    summary: Summary


class Target(Protocol):
    """Where partitions go."""

    def digest(self, name: str) -> str | None:
        """SHA-256 of what is there under a name, None where nothing is."""

    def write(self, name: str, data: io.BytesIO, digest: str) -> None: ...

    def describe(self, photometry: Photometry) -> None:
        """Keeps what the numbers mean beside the partitions, where that is of use."""


class Folder:
    """Partitions as files; a file appears whole or not at all."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.mkdir(parents=True, exist_ok=True)

    def digest(self, name: str) -> str | None:
        file = self._path / name
        if not file.exists():
            return None
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()

    def write(self, name: str, data: io.BytesIO, digest: str) -> None:
        partial = self._path / f"{name}.partial"
        partial.write_bytes(data.getbuffer())
        partial.rename(self._path / name)

    def describe(self, photometry: Photometry) -> None:
        photometry.write(self._path)


class Bucket:
    """Partitions as objects under s3://bucket/prefix/, uploaded in parts, each with a checksum."""

    def __init__(self, s3: Any, bucket: str, prefix: str) -> None:
        self._s3, self._bucket, self._prefix = s3, bucket, prefix

    def digest(self, name: str) -> str | None:
        try:
            head = self._s3.head_object(Bucket=self._bucket, Key=f"{self._prefix}/{name}")
        except self._s3.exceptions.ClientError as error:
            if error.response["Error"]["Code"] in ("404", "NoSuchKey", "NotFound"):
                return None
            raise SourceError(f"s3://{self._bucket}/{self._prefix}/: {error}") from error
        return str(head["Metadata"].get("sha256", ""))

    def write(self, name: str, data: io.BytesIO, digest: str) -> None:
        extra = {"Metadata": {"sha256": digest}, "ChecksumAlgorithm": "SHA256"}
        data.seek(0)
        self._s3.upload_fileobj(data, self._bucket, f"{self._prefix}/{name}", ExtraArgs=extra)

    def describe(self, photometry: Photometry) -> None:
        """Nothing: networks are trained on folders, and a run takes partitions alone."""


def prepare(
    source: Path,
    target: Target,
    partition_mb: float,
    reading: Reading = Reading(),  # noqa: B008
    model: Path = layouts.BUNDLED,
    progress: Progress = lambda done, total: None,
) -> Prepared:
    """Writes the partitions of one source; memory is bounded by a few partitions, whatever its size.

    Raises SourceError that names file, place and fault, or LayoutError; partitions written before stay.
    """
    layout = layouts.read(model)
    with opened_source(source, reading, layout) as table:
        galaxies = Galaxies(table, reading, layout)
        sample = Sample(galaxies)
        partitions, done, written = _write(galaxies, target, partition_mb, sample, progress)
        if not done:
            raise SourceError(f"{source}: holds no galaxy" + (" that is usable" if galaxies.dropped else ""))
        target.describe(galaxies.photometry)
        return Prepared(partitions, done, written, sample.summary())


def _write(
    galaxies: Galaxies, target: Target, partition_mb: float, sample: Sample, progress: Progress
) -> tuple[int, int, int]:
    """How many partitions and galaxies there are, and how many partitions were written."""
    number, done, written = 0, 0, 0
    size = rows_per_partition(partition_mb, galaxies.layout)
    pending: dict[Future[bool], int] = {}
    with ThreadPoolExecutor(_IN_FLIGHT) as pool:
        for number, (rows, columns) in enumerate(_partitions(galaxies, size, sample), 1):
            pending[pool.submit(_store, target, f"{number}.pt", rows, columns)] = len(rows)
            while len(pending) >= _IN_FLIGHT:
                finished, _ = wait(pending, return_when=FIRST_COMPLETED)
                written += sum(future.result() for future in finished)
                done += sum(pending.pop(future) for future in finished)
                progress(done, galaxies.total - galaxies.dropped)
        written += sum(future.result() for future in pending)
        done += sum(pending.values())
        progress(done, done)
    return number, done, written


def rows_per_partition(partition_mb: float, layout: ModelLayout) -> int:
    """Galaxies in a partition of `partition_mb` MiB of tensors. Raises SourceError where not even one fits."""
    rows = int(partition_mb * MIB // layout.sample_bytes)
    if rows < 1:
        raise SourceError(
            f"--partition-mb is {partition_mb}: one galaxy alone needs {layout.sample_bytes / MIB:.3f}"
        )
    return rows


def _store(target: Target, name: str, dataset: TensorDataset, columns: Objects) -> bool:
    """Writes a partition unless just it is there; says whether it wrote."""
    body = io.BytesIO()
    torch.save(dataset, body)
    try:
        objects.append(body, columns)
    except objects.ObjectsError as error:
        raise SourceError(f"{name}: {error}") from error
    digest = hashlib.sha256(body.getbuffer()).hexdigest()
    if target.digest(name) == digest:
        return False
    target.write(name, body, digest)
    return True


def _partitions(galaxies: Galaxies, size: int, sample: Sample) -> Iterator[tuple[TensorDataset, Objects]]:
    """TensorDatasets of exactly `size` galaxies with what stands beside them; the last one of what is left."""
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
