"""FITS: images of four axes, an image of three axes for each band, tables, and what their headers say.

astropy reads headers, tables and compressed tiles. Images are scaled here, in double precision (astropy's
single precision loses digits where BZERO is large), and missing values of integer columns (TNULL) are masked.
Rows are read from the file and not mapped, because mapped pages count as memory of the process.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.utils.exceptions import AstropyUserWarning

from cosmicai.data.sources.base import Array, Column, SourceError, Table
from cosmicai.data.sources.kinds import Kind
from cosmicai.data.sources.skyheader import bands_of, conflicts, pixel_scale, zero_point

KIND = Kind(
    "FITS (`.fits`, `.fit`, `.fits.fz`, `.fits.gz`)",
    "an image (N, C, H, W); an image (N, H, W) for each band, put in order by FILTER, BAND or EXTNAME; stamps "
    "in a table's column; binary and ASCII tables; BSCALE, BZERO, BLANK, TSCAL, TZERO, TNULL, unsigned "
    "integers, tile compression; pixel scale from the WCS or PIXSCALE, unit from BUNIT",
    "a header with two zero points or pixel scales that differ; several possible images, "
    "such as an additional IVAR or MASK; bands that have no name or occur twice; a "
    "column that two tables have; columns of variable length; a file that is cut short",
)


def read(path: Path, stack: ExitStack) -> Table:
    """All images of three or four axes and all columns of tables. Raises SourceError."""
    hdus = stack.enter_context(opened(path))
    columns: list[Column] = []
    notes: list[str] = []
    image_names = [hdu.name for hdu in hdus if is_image(hdu)]
    tables = [hdu.name for hdu in hdus if _is_table(hdu)]
    for index, hdu in enumerate(hdus):
        place = f"HDU {index}" + (f" ({hdu.name})" if hdu.name else "")
        if is_image(hdu) and len(hdu.shape) in (3, 4):
            name = hdu.name if hdu.name and image_names.count(hdu.name) == 1 else f"HDU {index}"
            columns.append(_image(hdu, name, place))
        elif is_image(hdu):
            notes.append(f"{place} has {len(hdu.shape)} axes and is not read; stamps need 3 (one band) or 4")
        elif _is_table(hdu):
            group = f"{hdu.name}." if hdu.name and tables.count(hdu.name) == 1 else f"HDU {index}."
            columns += _columns(path, hdu, group if len(tables) > 1 else "", place, notes)
    return Table(path, tuple(columns), tuple(notes))


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """The file's HDUs. Raises SourceError for a file that is cut short, of which astropy only warns."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always", AstropyUserWarning)
        try:
            hdus = fits.open(path, memmap=False, lazy_load_hdus=False, do_not_scale_image_data=True)
        except (OSError, TypeError, ValueError, IndexError) as error:
            raise SourceError(f"{path}: cannot be read ({error})") from error
    with hdus:
        damaged = [str(one.message) for one in seen if "truncated" in str(one.message)]
        if damaged or not len(hdus):
            raise SourceError(f"{path}: cannot be read ({damaged[0] if damaged else 'it has no HDU'})")
        yield hdus


def is_image(hdu: Any) -> bool:
    return bool(hdu.is_image and hdu.shape)


def _is_table(hdu: Any) -> bool:
    return isinstance(hdu, (fits.BinTableHDU, fits.TableHDU))


def _image(hdu: Any, name: str, place: str) -> Column:
    header = hdu.header
    return Column(
        name,
        hdu.shape[0],
        tuple(hdu.shape[1:]),
        lambda start, stop: section(hdu, slice(start, stop)),
        np.dtype(fits.BITPIX2DTYPE[header["BITPIX"]]).name,
        shown=place,
        bands=bands_of(header, hdu.shape[1] if len(hdu.shape) == 4 else 1),
        pixel_scale=pixel_scale(header),
        zero_point=zero_point(header),
        unit=str(header.get("BUNIT", "")).strip() or None,
        conflicts=conflicts(header),
    )


def section(hdu: Any, part: Any) -> Array:
    """Some of an image's values, float32: stored numbers times BSCALE plus BZERO, NaN for BLANK."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyUserWarning)
        stored = np.asarray(hdu.section[part])
    scale, zero = (float(hdu.header.get(key, default)) for key, default in (("BSCALE", 1), ("BZERO", 0)))
    values = stored if (scale, zero) == (1, 0) else stored * scale + zero
    blank = hdu.header.get("BLANK")
    values = values.astype(np.float32)
    if blank is not None and stored.dtype.kind in "iu":
        values[stored == blank] = np.nan
    return values


def _columns(path: Path, hdu: Any, group: str, place: str, notes: list[str]) -> Iterator[Column]:
    rows = _Rows(path, hdu, place)
    for column in hdu.columns:
        if str(column.format).lstrip("0123456789")[:1] in ("P", "Q"):
            notes.append(f"{place}: column {column.name} has arrays of variable length, which are not read")
            continue
        dtype = hdu.columns.dtype[column.name]
        shape = tuple(int(side) for side in dtype.shape)
        if not shape and column.dim:
            shape = tuple(int(side) for side in reversed(column.dim.strip("() ").split(",")))
        if isinstance(hdu, fits.BinTableHDU) and shape == (1,):
            shape = ()
        yield Column(
            column.name,
            int(hdu.header["NAXIS2"]),
            shape,
            rows.reader(column.name, shape),
            dtype.base.name,
            group,
            unit=column.unit,
            bands=None,
        )


class _Rows:
    """Rows of one table, read from the file as a small table of their own, so that astropy scales them."""

    def __init__(self, path: Path, hdu: Any, place: str) -> None:
        self._path, self._place = path, place
        self._kind = type(hdu)
        self._header = hdu.header.copy()
        self._nulls = {column.name: column.null for column in hdu.columns}
        self._start = hdu.fileinfo()["datLoc"]
        self._width = int(hdu.header["NAXIS1"])
        self._held: tuple[tuple[int, int], Any] = ((0, 0), None)

    def reader(self, name: str, shape: tuple[int, ...]) -> Any:
        def read(start: int, stop: int) -> Array:
            rows = self._rows(start, stop)
            values = np.asarray(rows[name])
            null = self._nulls[name]
            if values.dtype.kind not in "US":
                values = values.reshape(stop - start, *shape)
            if isinstance(null, int) and self._kind is fits.BinTableHDU:
                stored = rows.view(np.ndarray)[name].reshape(values.shape)
                return np.ma.MaskedArray(values, mask=stored == null)
            return values

        return read

    def _rows(self, start: int, stop: int) -> Any:
        if self._held[0] != (start, stop) or self._held[1] is None:
            self._header["NAXIS2"], self._header["PCOUNT"] = stop - start, 0
            with self._path.open("rb") as file:
                file.seek(self._start + start * self._width)
                content = file.read((stop - start) * self._width)
            if len(content) < (stop - start) * self._width:
                raise SourceError(f"{self._path}: {self._place} is cut short in row {start + len(content)}")
            padded = content + bytes(-len(content) % 2880)
            hdu = self._kind.fromstring(self._header.tostring().encode("ascii") + padded)
            self._held = ((start, stop), hdu.data)
        return self._held[1]
