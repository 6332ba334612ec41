"""One file for each galaxy: a folder of cut-outs, or a table whose rows name files."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cosmicai.data import bands as bandnames
from cosmicai.data.reading import Reading
from cosmicai.data.sources import fitsfile
from cosmicai.data.sources.base import (
    PIXEL_SCALE,
    ZERO_POINT,
    Array,
    Column,
    SourceError,
    Table,
    agree,
    in_words,
)
from cosmicai.data.sources.kinds import Kind
from cosmicai.data.sources.skyheader import bands_of, conflicts, pixel_scale, zero_point
from cosmicai.data.sources.unpack import unpacked

FOLDER = Kind(
    "folder of cut-outs, one FITS or .npy per galaxy",
    "a cube (C, H, W), or an image (H, W) for each band, with the same names and sizes in every file; header "
    "keywords are columns (`OBJECT`, `RA`, `DEC`, `REDSHIFT`, `MAG_G`); with `--catalogue`, the rows of a "
    "table whose file names or identifiers are the files' names",
    "a file of another size, or with other HDUs, bands, zero point or pixel scale than the first; "
    "a row of the catalogue that has no file, or two",
)
PATHS = Kind(
    "table of paths (CSV, FITS, Parquet, …)",
    "a column `path`, `file`, `filename` or one that `--images` names, with one file per galaxy or one for "
    "each band; paths are relative to the table; identifiers, ra, dec and magnitudes from the other columns",
    "a file that is missing; two possible columns of paths",
)
PATH_NAMES = ("path", "file", "filename", "file_name", "filepath", "file_path", "cutout", "image_path", "fits")
_STRUCTURE = (
    "SIMPLE",
    "XTENSION",
    "EXTEND",
    "PCOUNT",
    "GCOUNT",
    "COMMENT",
    "HISTORY",
    "CHECKSUM",
    "DATASUM",
    "END",
    "",
)


def path_columns(table: Table, requested: Sequence[str] | None) -> list[Column]:
    """The text columns that name files; none if the table has images itself. Raises SourceError."""
    texts = [
        column
        for column in table.columns
        if column.dtype.startswith(("text", "bytes", "str", "<U", "|S", "string", "large_string"))
    ]
    if requested:
        columns = [column for name in requested for column in texts if column.name.lower() == name.lower()]
        return columns if len(columns) == len(requested) else []
    usual = [column for column in texts if column.name.lower() in PATH_NAMES]
    if len(usual) > 1:
        listed = " or ".join(column.label for column in usual)
        raise SourceError(f"{table.path}: the files could be those of {listed}: give --images NAME")
    return usual


def with_files(table: Table, paths: Sequence[Column], reading: Reading) -> Table:
    """The table with the images of the files that its columns name."""
    columns: list[Column] = []
    for column in paths:
        texts = [str(one).strip() for one in np.asarray(column.read(0, column.rows))]
        files = [table.path.parent / text for text in texts]
        missing = [(row, file) for row, file in enumerate(files) if not texts[row] or not file.is_file()]
        if missing:
            row, file = missing[0]
            raise SourceError(
                f"{table.path}: {len(missing)} of {len(files)} files are missing, the first in row {row}: "
                f"{file}"
            )
        images = _images(files, reading)
        if len(paths) > 1:
            if len(images) > 1:
                raise SourceError(f"{files[0]}: has several images; one for each of --images is expected")
            images = [replace(images[0], name=column.name, shown=f"{images[0].shown} of {column.label}")]
        columns += images
    rest = tuple(column for column in table.columns if column not in paths)
    return replace(table, columns=(*columns, *rest))


def folder(path: Path, files: Sequence[Path], reading: Reading) -> Table:
    """Cut-outs in the order of their names, with what their headers say as columns."""
    header = [] if _is_numpy(files[0]) else _header_columns(files)
    stems = np.array([stem(file.name) for file in files])
    name = Column("file", len(files), (), lambda start, stop: stems[start:stop], "text")
    return Table(path, (*_images(files, reading), *header, name))


def matched(path: Path, files: Sequence[Path], catalogue: Table, reading: Reading) -> Table:
    """Cut-outs in the order of a catalogue, whose file names or identifiers are the files' names."""
    by_stem = {stem(file.name): file for file in files}
    if len(by_stem) < len(files):
        raise SourceError(f"{path}: two files have the same name except for the ending")
    candidates = _name_columns(catalogue, by_stem)
    if not candidates:
        raise SourceError(
            f"{catalogue.path}: no column has the names of the files in {path}, such as {files[0].name}"
        )
    hits = max(one[0] for one in candidates)
    column, keys = _only(
        catalogue, [(name, keys) for count, name, keys in candidates if count == hits], reading
    )
    if hits < len(keys):
        row = next(row for row, key in enumerate(keys) if key not in by_stem)
        raise SourceError(
            f"{catalogue.path}: {len(keys) - hits} of {len(keys)} rows have no file in {path}, the first is "
            f"row {row}, {column.label} {keys[row]}"
        )
    if len(set(keys)) < len(keys):
        raise SourceError(f"{catalogue.path}: two rows name the same file in {column.label}")
    images = _images([by_stem[key] for key in keys], reading)
    notes = [f"files are matched by the catalogue's {column.label}"]
    if len(files) > len(keys):
        notes.append(
            f"{len(files) - len(keys)} of {len(files)} files are not in the catalogue and are left out"
        )
    return Table(path, (*images, *catalogue.columns), (*catalogue.notes, *notes))


def _name_columns(catalogue: Table, files: Container[str]) -> list[tuple[int, Column, list[str]]]:
    """How many rows of a column name files, the column, and the name in each row."""
    candidates = []
    for column in catalogue.columns:
        if column.shape or column.dtype.startswith(("float", "double")):
            continue
        keys = [stem(Path(str(one).strip()).name) for one in np.asarray(column.read(0, column.rows))]
        hits = sum(key in files for key in keys)
        if hits:
            candidates.append((hits, column, keys))
    return candidates


def _only(
    catalogue: Table, candidates: list[tuple[Column, list[str]]], reading: Reading
) -> tuple[Column, list[str]]:
    """The one that --id names, else the first. Raises SourceError if others name the files in another order."""
    named = [one for one in candidates if one[0].name.lower() == (reading.columns.ids or "").lower()]
    chosen = named[0] if len(named) == 1 else candidates[0]
    if not named and any(keys != chosen[1] for _, keys in candidates):
        listed = " or ".join(column.label for column, _ in candidates)
        raise SourceError(
            f"{catalogue.path}: the files' names could be in {listed}, which differ: give --id NAME to choose"
        )
    return chosen


def stem(name: str) -> str:
    """A file's name without the endings of FITS, numpy and compression."""
    for ending in (".gz", ".bz2", ".xz", ".fz", ".fits", ".fit", ".npy"):
        name = name[: -len(ending)] if name.lower().endswith(ending) else name
    return name


def _is_numpy(file: Path) -> bool:
    return file.suffix.lower() == ".npy"


def _images(files: Sequence[Path], reading: Reading) -> list[Column]:
    """The images that the first file has, of every file."""
    if _is_numpy(files[0]):
        return [_numpy(files)]
    with ExitStack() as stack:
        hdus = stack.enter_context(fitsfile.opened(unpacked(files[0], stack)))
        files_of = _Files(files, {i: _stated(hdu.header, hdu.shape) for i, hdu in enumerate(hdus)}, reading)
        images = [
            _column(files_of, len(files), index, hdu)
            for index, hdu in enumerate(hdus)
            if fitsfile.is_image(hdu) and len(hdu.shape) in (2, 3)
        ]
    if not images:
        raise SourceError(f"{files[0]}: has no image of two or three axes")
    return images


def _column(files: _Files, rows: int, index: int, hdu: Any) -> Column:
    shape = tuple(hdu.shape)
    return Column(
        hdu.name or f"HDU {index}",
        rows,
        shape,
        files.reader(index, shape),
        "float32",
        shown=f"HDU {index}" + (f" ({hdu.name})" if hdu.name else ""),
        unit=str(hdu.header.get("BUNIT", "")).strip() or None,
        bands=bands_of(hdu.header, _channels(shape)),
        pixel_scale=pixel_scale(hdu.header),
        zero_point=zero_point(hdu.header),
        conflicts=conflicts(hdu.header),
    )


def _channels(shape: tuple[int, ...]) -> int:
    return shape[0] if len(shape) == 3 else 1


@dataclass(frozen=True)
class _Stated:
    """What the header of one file's image says; bands: as far as their names are known ones."""

    bands: tuple[str | None, ...] | None
    numbers: dict[str, float | None]


def _stated(header: Any, shape: tuple[int, ...]) -> _Stated:
    names = bands_of(header, _channels(shape)) if shape else None
    hits = None if names is None else tuple(bandnames.named(name, bandnames.KNOWN) for name in names)
    bands = None if hits is None else tuple(None if hit is None else hit.band for hit in hits)
    return _Stated(bands, {ZERO_POINT: zero_point(header), PIXEL_SCALE: pixel_scale(header)})


class _Files:
    """The images of many FITS files; those of the rows that were read last are kept for the other columns."""

    def __init__(self, files: Sequence[Path], first: Mapping[int, _Stated], reading: Reading) -> None:
        self._files, self._first = files, first
        options = {
            ZERO_POINT: ("--pixel-zero-point", reading.pixel_zero_point),
            PIXEL_SCALE: ("--pixel-scale", reading.pixel_scale),
        }
        self._compared = {what: option for what, (option, value) in options.items() if value is None}
        self._rows: tuple[int, int] = (0, 0)
        self._held: list[dict[int, tuple[Array, _Stated]]] = []

    def reader(self, index: int, shape: tuple[int, ...]) -> Callable[[int, int], Array]:
        def read(start: int, stop: int) -> Array:
            if self._rows != (start, stop):
                self._rows, self._held = (start, stop), [_read(file) for file in self._files[start:stop]]
            return np.stack([self._checked(start + n, one, index, shape) for n, one in enumerate(self._held)])

        return read

    def _checked(
        self, row: int, images: dict[int, tuple[Array, _Stated]], index: int, shape: tuple[int, ...]
    ) -> Array:
        image, stated = images.get(index, (None, None))
        if image is None or stated is None or image.shape != shape:
            has = "no image" if image is None else f"an image of shape {image.shape}"
            raise SourceError(
                f"{self._files[row]}: HDU {index} has {has}, that of {self._files[0].name} has {shape}"
            )
        self._check_stated(row, index, stated)
        return np.asarray(image, np.float32)

    def _check_stated(self, row: int, index: int, stated: _Stated) -> None:
        """Raises SourceError where a file's header says something else than that of the first file."""
        first, name = self._first[index], self._files[0].name
        if stated.bands != first.bands:
            names, expected = (", ".join(map(str, one.bands or ("none",))) for one in (stated, first))
            raise SourceError(
                f"{self._files[row]}: HDU {index} has the bands {names}, that of {name} has {expected}: "
                "give files with the bands in one order"
            )
        for what, option in self._compared.items():
            here, there = stated.numbers[what], first.numbers[what]
            if not agree(what, here, there):
                raise SourceError(
                    f"{self._files[row]}: HDU {index} has the {what} {in_words(here)}, that of {name} has "
                    f"{in_words(there)}: give files of one {what}, or {option} if the headers are wrong"
                )


def _read(file: Path) -> dict[int, tuple[Array, _Stated]]:
    with ExitStack() as stack:
        hdus = stack.enter_context(fitsfile.opened(unpacked(file, stack)))
        return {
            i: (fitsfile.section(hdu, ...), _stated(hdu.header, hdu.shape))
            for i, hdu in enumerate(hdus)
            if fitsfile.is_image(hdu)
        }


def _header_columns(files: Sequence[Path]) -> list[Column]:
    """Numbers and text of the first HDUs' headers, by the first file's keywords."""
    header = _header(files[0])
    skipped = ("NAXIS", "BITPIX", "BSCALE", "BZERO", *_STRUCTURE)
    keys = [key for key in dict.fromkeys(header) if not key.startswith(skipped[:4]) and key not in skipped]

    def reader(key: str) -> Callable[[int, int], Array]:
        def read(start: int, stop: int) -> Array:
            values = [_header(file).get(key) for file in files[start:stop]]
            return _typed(values)

        return read

    kinds = {int: "int64", float: "float64", str: "text"}
    return [
        Column(key, len(files), (), reader(key), kinds[type(header[key])])
        for key in keys
        if type(header[key]) in kinds
    ]


def _header(file: Path) -> Any:
    with ExitStack() as stack:
        return stack.enter_context(fitsfile.opened(unpacked(file, stack)))[0].header.copy()


def _typed(values: list[object]) -> Array:
    missing = np.array([value is None for value in values])
    if all(type(value) is int or value is None for value in values):
        return np.ma.MaskedArray(np.array([value or 0 for value in values], np.int64), mask=missing)
    if all(type(value) in (int, float) or value is None for value in values):
        return np.array([np.nan if value is None else float(value) for value in values])  # type: ignore[arg-type]
    return np.array(["" if value is None else str(value) for value in values])


def _numpy(files: Sequence[Path]) -> Column:
    first = np.load(files[0], allow_pickle=False)

    def read(start: int, stop: int) -> Array:
        images = [np.load(file, allow_pickle=False) for file in files[start:stop]]
        for file, image in zip(files[start:stop], images, strict=True):
            if image.shape != first.shape:
                raise SourceError(f"{file}: has shape {image.shape}, {files[0].name} has {first.shape}")
        return np.stack(images)

    return Column("images", len(files), first.shape, read, str(first.dtype))
