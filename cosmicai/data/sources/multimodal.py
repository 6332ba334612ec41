"""Multimodal Universe's layout (Audenaert et al. 2024, arXiv:2412.02527): image_array, image_band and others.

Its HDF5 files have a dataset for each; its Parquet files on Hugging Face a list of structs `image`, one for
each band. The band names are in every row, so rows may have them in different orders.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from cosmicai.data.sources.base import Array, Column, Read, SourceError, Table
from cosmicai.data.sources.kinds import Kind
from initialize.contract.photometry import SAME_SCALE

KIND = Kind(
    "Multimodal Universe (HDF5, and Parquet of Hugging Face)",
    "`image_array` or `image.flux` in the order of `image_band`, which may differ from row to row; pixel "
    "scale from `image_scale`; `object_id`",
    "a row with other bands than the first; `image_ivar` and `image_mask` are used only if `--ivar` or "
    "`--mask` names them, because masks mean different things in different surveys",
)
ARRAYS = ("image_array", "image.flux", "image.array")
_PLANES = ("image_ivar", "image.ivar", "image_mask", "image.mask", "bit_mask", "image.bit_mask")


def understood(table: Table) -> Table:
    """The table with bands and pixel scale of its images, if it is in this layout; else as it is.

    Channels are in the order of the first row in every row. Raises SourceError for a row with other bands.
    """
    by_name = {column.name: column for column in table.columns}
    image = next((by_name[name] for name in ARRAYS if name in by_name), None)
    bands = by_name.get("image_band") or by_name.get("image.band")
    if (
        image is None
        or bands is None
        or len(image.shape) != 3
        or bands.shape != image.shape[:1]
        or not image.rows
    ):
        return table
    order = tuple(str(name) for name in np.asarray(bands.read(0, 1))[0].astype(np.str_))
    scale = by_name.get("image_scale") or by_name.get("image.scale")
    arcsec = None if scale is None else _one_scale(table, scale)
    image_labels = {image.label, *(by_name[name].label for name in _PLANES if name in by_name)}

    def turned(column: Column) -> Column:
        if column.label not in image_labels or column.shape != image.shape:
            return column
        read: Read = _Reordered(table, column, bands, order).read
        if scale is not None and arcsec is not None:
            read = _of_one_scale(table, read, scale, arcsec)
        return replace(column, read=read, bands=order, pixel_scale=arcsec)

    note = f"Multimodal Universe's layout: bands {', '.join(order)} by {bands.label}"
    return replace(table, columns=tuple(turned(column) for column in table.columns), notes=(*table.notes, note))


def _of_one_scale(table: Table, read: Read, scale: Column, arcsec: float) -> Read:
    """Reads images, and raises SourceError for a row with another pixel scale than the first."""

    def checked(start: int, stop: int) -> Array:
        scales = np.asarray(scale.read(start, stop), np.float64).reshape(stop - start, -1)
        other = (np.abs(scales / arcsec - 1) >= SAME_SCALE).any(1)
        if other.any():
            row = int(np.argmax(other))
            raise SourceError(
                f"{table.path}: {scale.label} is {scales[row].max():g} in row {start + row}, but {arcsec:g} in "
                "the first: prepare galaxies of one pixel scale at a time"
            )
        return read(start, stop)

    return checked


def _one_scale(table: Table, scale: Column) -> float:
    values = np.unique(np.asarray(scale.read(0, 1), np.float64))
    if values.max() > values.min() * 1.001:
        raise SourceError(f"{table.path}: {scale.label} gives bands of different pixel scales: {values}")
    return float(values[0])


class _Reordered:
    def __init__(self, table: Table, column: Column, bands: Column, order: tuple[str, ...]) -> None:
        self._table, self._column, self._bands, self._order = table, column, bands, order

    def read(self, start: int, stop: int) -> Array:
        images = self._column.read(start, stop)
        names = np.asarray(self._bands.read(start, stop)).astype(np.str_)
        expected = np.array(self._order)
        if (names == expected).all():
            return images
        return np.stack([self._row(start + row, names[row], images[row]) for row in range(len(names))])

    def _row(self, row: int, names: Array, image: Array) -> Any:
        if sorted(names) != sorted(self._order):
            raise SourceError(
                f"{self._table.path}: row {row} has bands {', '.join(names)}, the first row "
                f"{', '.join(self._order)}"
            )
        return image[[list(names).index(name) for name in self._order]]
