"""A source's galaxies as a model takes them: bands in its order, its size, its pixels, its magnitudes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cosmicai.data import fitting, values
from cosmicai.data.brightness import Magnitudes
from cosmicai.data.channels import Channels
from cosmicai.data.choice import Choice, choose
from cosmicai.data.layout import ModelLayout
from cosmicai.data.missing import Counts, known_redshifts
from cosmicai.data.objects import ObjectsError, kept
from cosmicai.data.photometry import Photometry
from cosmicai.data.reading import Reading
from cosmicai.data.sources.base import Array, Column, SourceError, Table
from cosmicai.data.units import unit_of
from inference.data.missing import finite_rows
from inference.data.objects import Objects

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Block:
    """Consecutive galaxies: images (n, C, S, S), magnitudes (n, M), redshift (n,), NaN for what is not known.

    rows: their numbers in the source. objects: `id`, ra and dec if they are known, and kept columns.
    """

    images: Floats
    magnitudes: Floats
    redshift: Floats | None
    rows: NDArray[np.int64]
    objects: Objects

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, part: slice | Array) -> Block:
        return Block(
            self.images[part],
            self.magnitudes[part],
            None if self.redshift is None else self.redshift[part],
            self.rows[part],
            {name: column[part] for name, column in self.objects.items()},
        )


class Galaxies:
    """The galaxies of an opened source for one model. Raises SourceError, if possible before anything is read.

    total: in the source. counts: missing values, by column and kind, as blocks are read. bad_images: galaxies
    with NaN or masked pixels, first_bad the first of them. dropped: galaxies that were left out; unusable:
    those with NaN that were not. notes: choices that no option made.
    """

    def __init__(self, table: Table, reading: Reading, layout: ModelLayout) -> None:
        self.table, self.reading, self.layout = table, reading, layout
        self.choice: Choice = choose(table, reading, layout)
        self.channels = Channels(table.path, self.choice, reading, layout, table.described)
        self.counts = Counts()
        self.magnitudes = Magnitudes(
            table.path, self.choice, reading, layout, self.channels, self.counts, table.described
        )
        self.total = self._checked_rows()
        self.bad_images = 0
        self.first_bad: int | None = None
        self.dropped = 0
        self.unusable = 0
        self.factors = self._factors()

    @property
    def path(self) -> Path:
        return self.table.path

    @property
    def bands(self) -> tuple[str, ...] | None:
        """The bands of the channels in blocks."""
        return self.channels.bands

    @property
    def notes(self) -> list[str]:
        return [*self.table.notes, *self.choice.notes, *self.channels.notes, *self.magnitudes.notes]

    @property
    def photometry(self) -> Photometry:
        """What the numbers of the blocks mean, as far as it is known."""
        channels, model = self.channels, self.layout.photometry.zero_point
        zero_point = None if channels.zero_points is None else channels.zero_point if model is None else model
        return Photometry(
            bands=self.bands,
            zero_point=zero_point,
            pixel_scale=channels.new_scale,
            flux_unit=None if zero_point is None else unit_of(zero_point),
            magnitude_limits=self.magnitudes.limits,
        )

    def _factors(self) -> Floats:
        """(C, 1, 1): the factors that give pixels the model's zero point."""
        stated, model_zero_point = self.channels.zero_points, self.layout.photometry.zero_point
        if stated is None or model_zero_point is None:
            return np.ones((len(self.channels.order), 1, 1), np.float32)
        return (10 ** (0.4 * (model_zero_point - np.array(stated)))).astype(np.float32)[:, None, None]

    def _checked_rows(self) -> int:
        choice = self.choice
        first = choice.images[0]
        others = [*choice.images, *choice.magnitudes, choice.redshift, *choice.mask, *choice.ivar]
        others += [choice.ids, choice.ra, choice.dec, *(column for _, column in choice.kept)]
        for column in others:
            if column is not None and column.rows != first.rows:
                raise SourceError(
                    f"{self.table.path}: {column.label} has {column.rows} rows, {first.label} has {first.rows}"
                )
        return first.rows

    def blocks(self, rows: int) -> Iterator[Block]:
        """All galaxies in order, about `rows` at a time. Raises SourceError."""
        for start in range(0, self.total, rows):
            yield self._block(start, min(start + rows, self.total))

    def _block(self, start: int, stop: int) -> Block:
        images = fitting.fitted(self.channels.read(start, stop), self.channels.plan)
        if (self.factors != 1).any():
            images = images * self.factors
        images = np.ascontiguousarray(images, np.float32)
        good = finite_rows(images)
        if self.first_bad is None and not good.all():
            self.first_bad = start + int(np.argmin(good))
        self.bad_images += int((~good).sum())
        if not good.all() and self.reading.bad_pixels == "zero":
            images = np.nan_to_num(images, copy=True, nan=0.0, posinf=0.0, neginf=0.0)
            good[:] = True
        block = Block(
            images,
            self.magnitudes.read(start, stop),
            self._redshift(start, stop),
            np.arange(start, stop, dtype=np.int64),
            self._objects(start, stop),
        )
        return self._usable(block, good)

    def _usable(self, block: Block, good: NDArray[np.bool_]) -> Block:
        """The galaxies without NaN, if the others are to be left out; else all. good: without NaN pixels."""
        good = good & np.isfinite(block.magnitudes).all(1)
        bad = int((~good).sum())
        if not self.reading.drop_unusable:
            self.unusable += bad
            return block
        self.dropped += bad
        return block[np.flatnonzero(good)] if bad else block

    def _redshift(self, start: int, stop: int) -> Floats | None:
        column = self.choice.redshift
        if column is None:
            return None
        redshifts = self._plain(column, start, stop)
        if redshifts is None:
            return None
        known = known_redshifts(redshifts.reshape(-1), column.label, self.counts)
        if np.isfinite(known).any() and float(np.nanmedian(known)) > 10:
            raise SourceError(
                f"{self.table.path}: {column.label} has a median of {np.nanmedian(known):.4g}, which is not a "
                "redshift, but perhaps a magnitude: give another --redshift NAME, or none"
            )
        return known.astype(np.float32)

    def _plain(self, column: Column | None, start: int, stop: int) -> NDArray[np.float64] | None:
        if column is None:
            return None
        try:
            return values.numbers(column.read(start, stop))[0]
        except values.ValueFault as error:
            raise SourceError(f"{self.table.path}: {column.label}, rows from {start} on: {error}") from error

    def _objects(self, start: int, stop: int) -> Objects:
        """What is stored next to the tensors of partitions; row numbers replace missing identifiers."""
        columns = {"id": self._identifiers(start, stop)}
        for name, column in (("ra", self.choice.ra), ("dec", self.choice.dec)):
            degrees = self._plain(column, start, stop)
            if degrees is not None:
                columns[name] = degrees.reshape(-1)
        for name, column in self.choice.kept:
            try:
                columns[name] = kept(column.read(start, stop))
            except ObjectsError as error:
                raise SourceError(
                    f"{self.table.path}: {column.label}, rows from {start} on: {error}: leave it out of --keep"
                ) from error
        return columns

    def _identifiers(self, start: int, stop: int) -> Array:
        column = self.choice.ids
        if column is None:
            return np.arange(start, stop, dtype=np.int64)
        try:
            return values.identifiers(column.read(start, stop)).reshape(-1)
        except values.ValueFault as error:
            raise SourceError(
                f"{self.table.path}: identifiers {column.label}, rows from {start} on: {error}: give another "
                "--id NAME"
            ) from error
