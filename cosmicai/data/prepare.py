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
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from cosmicai.data.dc2 import SAMPLE_BYTES, rows_per_partition
from cosmicai.data.sources import Array, Block, Columns, SourceError, blocks

Fit = Literal["crop", "resize"]
Progress = Callable[[int, int], None]
"""Called with (done, total) galaxies."""

CHANNELS, SIZE, MAGNITUDES = 5, 32, 5
_BLOCK_BYTES = 8 << 20  # read at once; a partition is put together of such blocks
_IN_FLIGHT = 2  # partitions being written at once; each is held about three times while it is


@dataclass(frozen=True)
class Prepared:
    """What `prepare` did."""

    partitions: int
    galaxies: int
    written: int


class Target(Protocol):
    """Where partitions go."""

    def digest(self, name: str) -> str | None:
        """SHA-256 of what is there under a name, None where nothing is."""

    def write(self, name: str, data: io.BytesIO, digest: str) -> None: ...


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
            raise SourceError(f"s3://{self._bucket}/{self._prefix}/: {error}") from None
        return str(head["Metadata"].get("sha256", ""))

    def write(self, name: str, data: io.BytesIO, digest: str) -> None:
        extra = {"Metadata": {"sha256": digest}, "ChecksumAlgorithm": "SHA256"}
        data.seek(0)
        self._s3.upload_fileobj(data, self._bucket, f"{self._prefix}/{name}", ExtraArgs=extra)


def prepare(
    source: Path,
    target: Target,
    partition_mb: float,
    columns: Columns = Columns(),  # noqa: B008
    fit: Fit = "crop",
    progress: Progress = lambda done, total: None,
) -> Prepared:
    """Writes the partitions of one source; memory is bounded by a few partitions, whatever its size.

    Raises SourceError that names file, place and fault; partitions written before stay.
    """
    size, done, written = rows_per_partition(partition_mb), 0, 0
    pending: dict[Future[bool], int] = {}
    with ThreadPoolExecutor(_IN_FLIGHT) as pool:
        number = 0
        for number, (rows, total) in enumerate(_partitions(source, columns, fit, size), 1):
            pending[pool.submit(_store, target, f"{number}.pt", rows)] = len(rows)
            while len(pending) >= _IN_FLIGHT:
                finished, _ = wait(pending, return_when=FIRST_COMPLETED)
                written += sum(future.result() for future in finished)
                done += sum(pending.pop(future) for future in finished)
                progress(done, total)
        written += sum(future.result() for future in pending)
        done += sum(pending.values())
        progress(done, done)
    if not done:
        raise SourceError(f"{source}: holds no galaxy")
    return Prepared(number, done, written)


def _store(target: Target, name: str, dataset: TensorDataset) -> bool:
    """Writes a partition unless just it is there; says whether it wrote."""
    body = io.BytesIO()
    torch.save(dataset, body)
    digest = hashlib.sha256(body.getbuffer()).hexdigest()
    if target.digest(name) == digest:
        return False
    target.write(name, body, digest)
    return True


def _partitions(source: Path, columns: Columns, fit: Fit, size: int) -> Iterator[tuple[TensorDataset, int]]:
    """TensorDatasets of exactly `size` galaxies, the last one of what is left; and the source's galaxies."""
    held: list[tuple[torch.Tensor, ...]] = []
    count = 0
    first = 0
    for block in blocks(source, columns, max(1, min(size, _BLOCK_BYTES // SAMPLE_BYTES))):
        tensors = _converted(block, source, fit)
        _check_finite(tensors[0], first, source)
        first += len(block)
        while len(tensors[0]):
            room = size - count
            held.append(tuple(tensor[:room] for tensor in tensors))
            count += len(held[-1][0])
            tensors = tuple(tensor[room:] for tensor in tensors)
            if count == size:
                yield _dataset(held), block.total
                held, count = [], 0
    if held:
        yield _dataset(held), first


def _dataset(held: list[tuple[torch.Tensor, ...]]) -> TensorDataset:
    return TensorDataset(*(torch.cat(column) for column in zip(*held, strict=True)))


def _converted(block: Block, source: Path, fit: Fit) -> tuple[torch.Tensor, ...]:
    """images (n, 5, 32, 32), magnitudes (n, 5) and, where there is one, redshift (n,), as float32."""
    images = _sized(_channels_first(block.images, source)[:, :CHANNELS], fit, source)
    magnitudes = block.magnitudes
    if magnitudes.ndim != 2 or magnitudes.shape[1] < MAGNITUDES:
        raise SourceError(
            f"{source}: magnitudes have shape {magnitudes.shape}, expected at least (N, {MAGNITUDES})"
        )
    tensors = [images, torch.from_numpy(_float32(magnitudes[:, :MAGNITUDES]))]
    if block.redshift is not None:
        tensors.append(torch.from_numpy(_float32(block.redshift)))
    return tuple(tensors)


def _channels_first(images: Array, source: Path) -> Array:
    if images.ndim != 4:
        raise SourceError(f"{source}: images have shape {images.shape}, expected 4 axes")
    _, a, b, c = images.shape
    if b == c and a >= CHANNELS:
        return images
    if a == b and c >= CHANNELS:
        return images.transpose(0, 3, 1, 2)
    raise SourceError(
        f"{source}: images have shape {images.shape}; "
        f"expected (N, C, S, S) or (N, S, S, C) with C of at least {CHANNELS}"
    )


def _sized(images: Array, fit: Fit, source: Path) -> torch.Tensor:
    side = images.shape[2]
    if side < SIZE:
        raise SourceError(
            f"{source}: stamps are {side}×{side}; the network takes {SIZE}×{SIZE} and none is enlarged"
        )
    if side > SIZE and fit == "crop":
        start = (side - SIZE) // 2
        images = images[:, :, start : start + SIZE, start : start + SIZE]
    tensor = torch.from_numpy(_float32(images))
    if tensor.shape[2] > SIZE:
        # Mean of the light per pixel, not its sum: multiply by (side/32)² to keep fluxes.
        tensor = F.interpolate(tensor, size=(SIZE, SIZE), mode="bilinear", antialias=True)
        tensor *= (side / SIZE) ** 2
    return tensor


def _check_finite(images: torch.Tensor, first: int, source: Path) -> None:
    """Raises SourceError that names the first galaxy and channel with a NaN or an infinity."""
    good = torch.isfinite(images.sum((2, 3), dtype=torch.float64))
    if not good.all():
        row, channel = (int(index) for index in (~good).nonzero()[0])
        raise SourceError(
            f"{source}: images of galaxy {first + row}, channel {channel} (both from 0) hold NaN or infinity"
        )


def _float32(array: Array) -> Array:
    """A float32 copy in C order and the machine's byte order (FITS is big-endian)."""
    return np.array(array, np.float32, order="C")
