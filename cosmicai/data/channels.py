"""The channels of a source's images in the order of the model's bands."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cosmicai.data import bands as bandnames
from cosmicai.data import fitting, units
from cosmicai.data.choice import LEAST_SIDE, Choice
from cosmicai.data.layout import ModelLayout
from cosmicai.data.photometry import Described, Photometry, PhotometryError, check_options
from cosmicai.data.reading import Reading
from cosmicai.data.sources.base import (
    PIXEL_SCALE,
    ZERO_POINT,
    Array,
    Column,
    SourceError,
    agree,
    in_words,
)
from initialize.contract.photometry import SAME_SCALE

Floats = NDArray[np.float32]
_OPTIONS = {
    "bands": "--bands",
    "zero_point": "--pixel-zero-point or --pixel-unit",
    "pixel_scale": "--pixel-scale",
}
"""Options, by the field of photometry.json that they may contradict."""


class Channels:
    """Images (n, C, H, W) with the model's bands, whatever axes and columns the source has them in.

    names: of the source's channels, None if nothing names them. columns: those of the images. order: which of
    the channels each band is, None for one that is filled with zeros. bands: of what `read` gives. new_scale:
    arcsec per pixel after `plan`.
    """

    def __init__(
        self,
        path: Path,
        choice: Choice,
        reading: Reading,
        layout: ModelLayout,
        described: Described = Described(),  # noqa: B008
    ) -> None:
        self._path, self.columns, self._reading, self._layout = path, choice.images, reading, layout
        self._described = described
        self._planes = [
            (planes, zero) for planes, zero in ((choice.mask, False), (choice.ivar, True)) if planes
        ]
        self.notes: list[str] = []
        self._last, self.height, self.width, self.count = self._axes()
        self._check_described()
        self.names = self._names()
        self.order = self._order()
        self.bands = layout.bands or reading.bands or self.names
        self.scale = self._scale()
        self.zero_points = self._zero_points()
        self.plan = self._plan()
        self.new_scale = self._new_scale()
        self._add_notes()

    # What the source has

    def _axes(self) -> tuple[bool, int, int, int]:
        """Whether channels are the last axis; height, width and number of channels."""
        shapes = {column.shape for column in self.columns}
        if len(shapes) > 1:
            listed = ", ".join(column.described for column in self.columns)
            raise SourceError(f"{self._path}: bands of different shapes: {listed}")
        shape = shapes.pop()
        if len(shape) == 2:
            return False, *shape, len(self.columns)
        if len(shape) != 3 or len(self.columns) > 1:
            listed = ", ".join(column.described for column in self.columns)
            raise SourceError(
                f"{self._path}: images are {listed}; expected one (N, C, H, W) or (N, H, W, C), or an (N, H, "
                "W) for each band"
            )
        first, middle, last = shape
        if first < min(middle, last) and min(middle, last) >= LEAST_SIDE:
            return False, middle, last, first
        if last < min(first, middle) and min(first, middle) >= LEAST_SIDE:
            return True, first, middle, last
        raise SourceError(
            f"{self._path}: images have rows of shape {shape}, and the axis of the bands is ambiguous: it must "
            "be the shortest one, first or last"
        )

    def _check_described(self) -> None:
        """Raises SourceError where photometry.json contradicts the images or an option."""
        reading, stated = self._reading, self._described.photometry
        if stated.bands is not None and len(stated.bands) != self.count:
            raise SourceError(
                f"{self._described.place} names {len(stated.bands)} bands, {', '.join(stated.bands)}, but the "
                f"images of {self._path} have {self.count} channels: correct the file, or give the images that "
                "it describes"
            )
        options = Photometry(reading.bands, reading.pixel_zero_point, reading.pixel_scale)
        try:
            check_options(self._described, options, _OPTIONS)
        except PhotometryError as error:
            raise SourceError(str(error)) from error

    def _names(self) -> tuple[str, ...] | None:
        if self._reading.bands is not None:
            if len(self._reading.bands) != self.count:
                raise SourceError(
                    f"{self._path}: --bands names {len(self._reading.bands)} bands, the images have "
                    f"{self.count} channels"
                )
            self._check_bands(self._reading.bands)
            return self._reading.bands
        return self._stated_names() or self._described.photometry.bands

    def _stated_names(self) -> tuple[str, ...] | None:
        """Names of the channels by the source itself."""
        if len(self.columns) == 1:
            return self.columns[0].bands
        return tuple(column.bands[0] if column.bands else column.name for column in self.columns)

    def _check_bands(self, bands: tuple[str, ...]) -> None:
        """Raises SourceError where the source names a channel as another one of these bands."""
        for band, name in zip(bands, self._stated_names() or (), strict=False):
            hit = bandnames.named(name, bands)
            if hit is not None and hit.band != band:
                raise SourceError(
                    f"{self._path}: --bands says that a channel is {band}, but the source names it {name}: "
                    "--bands is for channels without names, in the source's order; leave it out, or "
                    "correct the source"
                )

    def _order(self) -> list[int | None]:
        model_bands, model = self._layout.bands, self._layout
        if model_bands is None:
            if self.count != model.channels:
                raise SourceError(
                    f"{self._path}: images have {self.count} channels, the model {model.name} takes "
                    f"{model.channels}"
                )
            return list(range(self.count))
        if self.names is None:
            if self.count == len(model_bands):
                self.notes.append(
                    f"bands are assumed to be {', '.join(model_bands)}, the model's, because the file does not "
                    "name them; if they are not, give --bands"
                )
                return list(range(self.count))
            raise SourceError(self._not_named(model_bands))
        try:
            return bandnames.order(self.names, model_bands, self._reading.filled)
        except bandnames.BandError as error:
            raise SourceError(
                f"{self._path}: {error}. --bands says what the channels are, --images selects some of them, "
                "--model chooses a model of other bands, --fill-bands fills a missing one with zeros"
            ) from error

    def _not_named(self, model_bands: tuple[str, ...]) -> str:
        which = (
            f"at least {len(model_bands) - self.count} of them is missing"
            if self.count < len(model_bands)
            else ""
        )
        return (
            f"{self._path}: images have {self.count} channels that nothing names, and the model "
            f"{self._layout.name} takes {len(model_bands)} bands, "
            f"{', '.join(model_bands)}{': ' if which else ''}{which}. Give --bands with a name for each "
            "channel, in their order"
        )

    def _scale(self) -> float | None:
        """Arcsec per pixel, from the user or the file."""
        if self._reading.pixel_scale is not None:
            return self._reading.pixel_scale
        used = self._used_columns()
        check_conflicts(self._path, used, PIXEL_SCALE, "--pixel-scale")
        known = [column.pixel_scale for column in used if column.pixel_scale is not None]
        if known and max(known) > min(known) * (1 + SAME_SCALE):
            listed = ", ".join(f"{column.label} {column.pixel_scale}" for column in used)
            raise SourceError(f"{self._path}: bands of different pixel scales: {listed}: give --pixel-scale")
        return known[0] if known else self._described.photometry.pixel_scale

    def _zero_points(self) -> list[float] | None:
        """The zero point of each band's pixels, from the user or the file; None if it is not known."""
        zero_point = self._reading.pixel_zero_point
        if zero_point is not None:
            return [zero_point] * len(self.order)
        used = self._used_columns()
        check_conflicts(self._path, used, ZERO_POINT, "--pixel-unit or --pixel-zero-point")
        known = [column.ab_zero_point for column in used]
        if any(one is None for one in known):
            if any(one is not None for one in known):
                listed = ", ".join(column.label for column in used if column.ab_zero_point is None)
                raise SourceError(
                    f"{self._path}: the unit of {listed} is not known, although that of other bands is: "
                    "give --pixel-zero-point"
                )
            described = self._described.photometry.ab_zero_point
            if described is None:
                self._check_units(used)
            return None if described is None else [described] * len(self.order)
        stated = [one for one in known if one is not None]
        if len(self.columns) == 1:
            return stated * len(self.order)
        remaining = iter(stated)
        return [stated[0] if index is None else next(remaining) for index in self.order]

    def _check_units(self, used: list[Column]) -> None:
        """Raises SourceError for a unit of flux that has no zero point here; of others, such as adu, a note."""
        stated = list(dict.fromkeys(column.unit for column in used if column.unit))
        for unit in filter(units.is_light, stated):
            raise SourceError(
                f"{self._path}: pixels in {unit} have no AB zero point that is known here: convert them, "
                "or give --pixel-unit or --pixel-zero-point"
            )
        if stated:
            self.notes.append(
                f"the unit of the pixels, {', '.join(stated)}, says nothing about their zero point"
            )

    @property
    def zero_point(self) -> float | None:
        """The zero point of all bands; None if they differ or it is not known."""
        return self.zero_points[0] if self.zero_points and len(set(self.zero_points)) == 1 else None

    @property
    def zero_point_text(self) -> str | None:
        return (
            None
            if self.zero_points is None
            else ", ".join(f"{one:g}" for one in dict.fromkeys(self.zero_points))
        )

    def _used_columns(self) -> list[Column]:
        if len(self.columns) == 1:
            return list(self.columns)
        return [self.columns[index] for index in self.order if index is not None]

    # What becomes of it

    def _plan(self) -> fitting.Plan:
        reading, layout = self._reading, self._layout
        try:
            return fitting.plan(
                self.height,
                self.width,
                layout.size,
                reading.fit,
                self.scale,
                layout.photometry.pixel_scale,
                reading.pad,
            )
        except fitting.FitError as error:
            raise SourceError(f"{self._path}: {error}") from error

    def _new_scale(self) -> float | None:
        """Arcsec per pixel after `plan`; None if the source does not state its scale.

        With another fit than "scale" the user says that they are those of the model.
        """
        model = self._layout.photometry.pixel_scale
        if self.scale is None:
            return None
        if self._reading.fit == "scale":
            return model if self.plan.zoom != 1 else self.scale
        return self.scale / self.plan.zoom if model is None else model

    def _note_options(self) -> None:
        """What an option says in place of the file."""
        used = self._used_columns()
        for what, option, stated in (
            (ZERO_POINT, self._reading.pixel_zero_point, [column.ab_zero_point for column in used]),
            (PIXEL_SCALE, self._reading.pixel_scale, [column.pixel_scale for column in used]),
        ):
            other = [in_words(one) for one in stated if one is not None and not agree(what, one, option)]
            if option is not None and other:
                self.notes.append(
                    f"{what} {option:g} is used as the option says, although the file states "
                    f"{', '.join(dict.fromkeys(other))}"
                )

    def _add_notes(self) -> None:
        model = self._layout.photometry
        self._note_options()
        for name, unknown, model_value, option in (
            ("pixel scale", self.scale is None, model.pixel_scale, "--pixel-scale"),
            ("zero point of the pixels", not self.zero_points, model.zero_point, "--pixel-unit"),
        ):
            if unknown and model_value is not None:
                self.notes.append(
                    f"{name} is assumed to be {model_value:g}, the model's, because the source does not "
                    f"state it; {option} sets it"
                )
        scale = None if self.scale is None else self.scale / self.plan.zoom
        if self._reading.fit != "scale" and None not in (scale, self.new_scale) and scale != self.new_scale:
            self.notes.append(
                f"pixels of {scale:.4g} arcsec are used as the model's of {self.new_scale:.4g} arcsec, because "
                f"--fit {self._reading.fit} says so"
            )
        if self.names is not None:
            left = [name for index, name in enumerate(self.names) if index not in self.order]
            if left:
                self.notes.append(f"left out, because the model does not take them: {', '.join(left)}")
        filled = [band for band, index in zip(self.bands or (), self.order, strict=False) if index is None]
        if filled:
            self.notes.append(f"filled with zeros, as requested: {', '.join(filled)}")

    def read(self, start: int, stop: int) -> Floats:
        """Images (n, C, H, W) in the order of the bands, before they are fitted; bad pixels are NaN."""
        images = self._ordered(self.columns, start, stop)
        for planes, inverted in self._planes:
            plane = self._ordered(planes, start, stop, one_for_all=True)
            bad = plane == 0 if inverted else plane != 0
            images = np.where(bad, np.float32(np.nan), images)
        return images

    def _ordered(self, columns: tuple[Column, ...], start: int, stop: int, one_for_all: bool = False) -> Floats:
        if one_for_all and len(columns) == 1 and len(columns[0].shape) == 2:
            return _float32(columns[0].read(start, stop))[:, None]
        if one_for_all and {column.shape for column in columns} != {column.shape for column in self.columns}:
            listed = ", ".join(column.described for column in columns)
            raise SourceError(f"{self._path}: planes of bad pixels {listed} do not have the images' shape")
        if len(columns) == 1 and len(columns[0].shape) == 3:
            stack = columns[0].read(start, stop)
            stack = np.moveaxis(stack, -1, 1) if self._last else stack
            if self.order == list(range(stack.shape[1])):
                return _float32(stack)
            return np.stack([self._channel(stack, index) for index in self.order], 1)
        if one_for_all and len(columns) != len(self.columns):
            raise SourceError(f"{self._path}: give one plane of bad pixels, or one for each of the images")
        parts = [None if i is None else _float32(columns[i].read(start, stop)) for i in self.order]
        shape = (stop - start, self.height, self.width)
        return np.stack([np.zeros(shape, np.float32) if part is None else part for part in parts], 1)

    def _channel(self, stack: Array, index: int | None) -> Floats:
        if index is None:
            return np.zeros((len(stack), self.height, self.width), np.float32)
        return _float32(stack[:, index])


def check_conflicts(path: Path, columns: Sequence[Column], what: str, option: str) -> None:
    """Raises SourceError for a column whose file states `what` in two ways that differ."""
    for column in columns:
        if what in column.conflicts:
            raise SourceError(
                f"{path}: {column.label}: {column.conflicts[what]}: give {option} if one value is right for all"
            )


def _float32(array: Array) -> Floats:
    """In the machine's byte order; masked pixels are NaN."""
    if np.ma.isMaskedArray(array):
        return np.ma.filled(array.astype(np.float32), np.nan)
    if array.dtype.kind not in "fiub":
        raise SourceError(f"images hold {array.dtype}, not numbers")
    return np.asarray(array, np.float32)
