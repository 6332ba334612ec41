"""What every kind of source is turned into: named columns, of which rows are read in order."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosmicai.data.photometry import Described
from cosmicai.data.units import zero_point_of
from initialize.contract.photometry import SAME_MAGNITUDE, SAME_SCALE

Array = NDArray[Any]
Read = Callable[[int, int], Array]

RA = ("ra", "raj2000", "ra_deg", "alpha_j2000", "alphawin_j2000", "ra_icrs")
DEC = ("dec", "dej2000", "dec_deg", "delta_j2000", "deltawin_j2000", "de_icrs")
"""Usual names of positions in degrees."""
IDS = ("objectid", "object_id", "objid", "id", "targetid", "specobjid", "source_id")
"""Usual names of identifiers."""

ZERO_POINT, PIXEL_SCALE = "zero point", "pixel scale"
_SAME = {ZERO_POINT: SAME_MAGNITUDE, PIXEL_SCALE: SAME_SCALE}

_INDEXED = re.compile(r"^(.*)\[(\d+)\]$")
_LISTED = 40  # names in a message


class SourceError(ValueError):
    """A source cannot be read, or can be read in several ways; the message names file, place and remedy."""


@dataclass(frozen=True)
class Column:
    """One value or array for each galaxy.

    name: as the file has it. group: its prefix, if a file has several tables or groups. shown: how messages
    name it, if not by group and name. shape: of one row. read(start, stop): these rows, masked where the file
    says that a value is missing; the ranges of successive calls must be adjacent or begin again at 0, because
    compressed files are read from front to back. bands: names of an image's channels;
    pixel_scale: arcsec; zero_point: AB magnitude of a pixel value of 1. conflicts: sentences by `ZERO_POINT` or
    `PIXEL_SCALE`, if the file states it in two ways that differ.
    """

    name: str
    rows: int
    shape: tuple[int, ...]
    read: Read
    dtype: str = ""
    group: str = ""
    shown: str = ""
    unit: str | None = None
    bands: tuple[str, ...] | None = None
    pixel_scale: float | None = None
    zero_point: float | None = None
    conflicts: Mapping[str, str] = field(default_factory=dict)

    @property
    def ab_zero_point(self) -> float | None:
        """The AB magnitude of a value of 1, as the file states it or by the unit."""
        return self.zero_point if self.zero_point is not None else zero_point_of(self.unit or "")

    @property
    def label(self) -> str:
        return self.shown or self.group + self.name

    @property
    def described(self) -> str:
        shape = ", ".join(map(str, (self.rows, *self.shape))) + ("," if not self.shape else "")
        return f"{self.label} ({shape})"

    def part(self, index: int) -> Column:
        """One of the values that the column has for each galaxy."""
        read = self.read
        return Column(
            f"{self.name}[{index}]",
            self.rows,
            self.shape[1:],
            lambda start, stop: read(start, stop)[:, index],
            self.dtype,
            self.group,
            unit=self.unit,
            zero_point=self.zero_point,
            conflicts=self.conflicts,
        )


@dataclass(frozen=True)
class Table:
    """A source's columns.

    notes: what the user should know about how the file was understood. described: what photometry.json says
    about partitions.
    """

    path: Path
    columns: tuple[Column, ...]
    notes: tuple[str, ...] = field(default=())
    described: Described = field(default_factory=Described)

    def find(self, name: str, option: str, images: bool = False) -> Column:
        """The column of this name, whole or without its table, in any case; NAME[0] is the first of its values.

        images: it is one of images, which may share a name with a column of numbers. Raises SourceError if
        there is none or there are several.
        """
        columns = [column for column in self.columns if (len(column.shape) > 1) == images]
        matches = _matching(columns, name)
        indexed = _INDEXED.match(name)
        if not matches and indexed:
            column = self.find(indexed[1], option, images)
            if not column.shape or int(indexed[2]) >= column.shape[0]:
                raise SourceError(
                    f"{self.path}: {column.described} has no value {indexed[2]} (from 0) in a row"
                )
            return column.part(int(indexed[2]))
        if not matches:
            raise SourceError(f"{self.path}: no column {name}; it has {names(columns)}: give {option} NAME")
        if len(matches) > 1:
            raise SourceError(
                f"{self.path}: {name} could be {either(matches)}: give {option} with the whole name"
            )
        return matches[0]


def agree(what: str, one: float | None, two: float | None) -> bool:
    """Whether two zero points or two pixel scales are the same. what: ZERO_POINT or PIXEL_SCALE."""
    if one is None or two is None:
        return one is two
    scale = two if what == PIXEL_SCALE else 1
    return abs(one - two) < _SAME[what] * scale


def in_words(value: float | None) -> str:
    """The value as messages show it."""
    return "not known" if value is None else f"{value:g}"


def _matching(columns: Sequence[Column], name: str) -> list[Column]:
    """All columns that a name may mean: by the whole name, else by the last part of it, else in any case."""
    lower = name.lower()
    for matches in (
        [column for column in columns if column.label == name],
        [column for column in columns if column.name == name],
        [column for column in columns if lower in (column.label.lower(), column.name.lower())],
    ):
        if matches:
            return matches
    return []


def names(columns: Iterable[Column]) -> str:
    """The columns with their shapes, as a message has them."""
    described = [column.described for column in columns]
    more = len(described) - _LISTED
    return ", ".join(described[:_LISTED]) + (f" and {more} more" if more > 0 else "") if described else "none"


def either(columns: Sequence[Column]) -> str:
    return " or ".join(column.described for column in columns)


def array_column(name: str, array: Any, **about: Any) -> Column:
    """A column of anything that is sliced like an array."""
    return Column(
        name,
        len(array),
        tuple(array.shape[1:]),
        lambda start, stop: np.asarray(array[start:stop]),
        str(array.dtype),
        **about,
    )
