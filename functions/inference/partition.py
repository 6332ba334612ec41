"""Partition files: the galaxies that a rank reads, checked before anything is computed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .torchfile import Array, TorchFileError, load

Floats = NDArray[np.float32]


class PartitionError(ValueError):
    """A partition file is broken, hostile or not what the model takes; the message names file and fault."""


@dataclass(frozen=True)
class Layout:
    """What a model takes: images (N, channels, size, size) and magnitudes (N, magnitudes)."""

    channels: int = 5
    size: int = 32
    magnitudes: int = 5


@dataclass(frozen=True)
class Partition:
    """The galaxies of one file, in its order: images (N, C, S, S), magnitudes (N, M), redshift (N,) or None."""

    images: Floats
    magnitudes: Floats
    redshift: Floats | None

    def __len__(self) -> int:
        return len(self.images)

    def batches(self, size: int) -> Iterator[Partition]:
        """Consecutive views of at most `size` galaxies."""
        for start in range(0, len(self), size):
            rows = slice(start, start + size)
            redshift = None if self.redshift is None else self.redshift[rows]
            yield Partition(self.images[rows], self.magnitudes[rows], redshift)


def read(data: bytes | memoryview, name: str, layout: Layout = Layout()) -> Partition:
    """The TensorDataset in `data`, checked against `layout`.

    Raises PartitionError, which names `name` and the fault: not a .pt file, cut short, a pickle that asks for
    anything but tensors, the wrong number or shape of tensors, or values that are not finite.
    """
    try:
        tensors = tensors_of(data)
    except TorchFileError as error:
        raise PartitionError(f"{name}: {error}") from None
    return _checked(tensors, name, layout)


class _TensorDataset:
    """Stands in for torch.utils.data.TensorDataset; holds what its pickle sets."""

    tensors: object = None


def _find(module: str, name: str) -> object:
    return {("torch.utils.data.dataset", "TensorDataset"): _TensorDataset}[module, name]


def tensors_of(data: bytes | memoryview) -> tuple[Array, ...]:
    """The tensors of a TensorDataset as views of `data`, whatever their shapes. Raises TorchFileError."""
    dataset = load(data, _find)
    if not isinstance(dataset, _TensorDataset):
        raise TorchFileError(f"holds a {type(dataset).__name__}, not a torch TensorDataset")
    tensors = dataset.tensors
    if not isinstance(tensors, tuple) or not all(isinstance(tensor, np.ndarray) for tensor in tensors):
        raise TorchFileError("its TensorDataset holds something other than tensors")
    return tensors


def _checked(tensors: tuple[Array, ...], name: str, layout: Layout) -> Partition:
    if len(tensors) not in (2, 3):
        raise PartitionError(f"{name}: has {len(tensors)} tensors, expected images, magnitudes and redshift")
    images, magnitudes, *rest = tensors
    count = images.shape[0] if images.ndim else 0
    size = layout.size
    _check_shape(images, (count, layout.channels, size, size), "images", name)
    _check_shape(magnitudes, (count, layout.magnitudes), "magnitudes", name)
    redshift = rest[0] if rest else None
    if redshift is not None:
        _check_shape(redshift, (count, 1) if redshift.ndim == 2 else (count,), "redshift", name)
        redshift = _float32(redshift.reshape(count))
    partition = Partition(_float32(images), _float32(magnitudes), redshift)
    _check_finite(partition, name)
    return partition


def _check_shape(array: Array, expected: tuple[int, ...], what: str, name: str) -> None:
    if array.shape != expected:
        wanted = "(" + ", ".join(["N", *map(str, expected[1:])]) + ("," if len(expected) == 1 else "") + ")"
        count = f" with N = {expected[0]}, the number of images" if what != "images" else ""
        raise PartitionError(f"{name}: {what} have shape {array.shape}, expected {wanted}{count}")


def _float32(array: Array) -> Floats:
    return np.ascontiguousarray(array, np.float32)


def _check_finite(partition: Partition, name: str) -> None:
    for what, array in (("images", partition.images), ("magnitudes", partition.magnitudes)):
        with np.errstate(invalid="ignore", over="ignore"):
            rows = np.isfinite(array.sum(tuple(range(1, array.ndim)), dtype=np.float64))
        if not rows.all():
            bad = np.flatnonzero(~rows)
            raise PartitionError(
                f"{name}: {what} of {len(bad)} of {len(rows)} galaxies hold NaN or infinity, "
                f"the first in row {bad[0]}"
            )
