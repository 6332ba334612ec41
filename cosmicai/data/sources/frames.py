"""A frame of the sky for each band, and a catalogue of positions: stamps are cut by the world coordinates."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np
from astropy.coordinates import SkyCoord
from astropy.nddata import Cutout2D, NoOverlapError
from astropy.wcs import WCS

from cosmicai.data import bands as bandnames
from cosmicai.data import fitting, values
from cosmicai.data.sources import fitsfile
from cosmicai.data.sources.base import DEC, RA, Array, Column, SourceError, Table
from cosmicai.data.sources.kinds import Kind
from cosmicai.data.sources.skyheader import bands_of, celestial, conflicts, pixel_scale, zero_point
from cosmicai.data.sources.stampfiles import stem
from cosmicai.data.sources.unpack import unpacked
from initialize.contract.photometry import SAME_SCALE

KIND = Kind(
    "one frame per band (a folder, or HDUs of one FITS) with `--catalogue`",
    "stamps around the catalogue's ra and dec (degrees), centred to half a pixel, cut by the frames' world "
    "coordinates, and resampled to the model's pixel scale; pixels beyond a frame's edge are bad",
    "two frames of one band; a frame without celestial coordinates; a catalogue without ra and dec",
)
_MARGIN = 4  # pixels more than needed, for the edges of resampling


@dataclass(frozen=True)
class Frame:
    """One image of the sky. name: of its band, as header or file name have it."""

    place: str
    name: str
    hdu: Any
    world: WCS
    scale: float
    zero_point: float | None


def frames_of(files: Sequence[Path], images: Sequence[str] | None, stack: ExitStack) -> list[Frame]:
    """All images of two axes with celestial coordinates, of the HDUs that `images` names, if it names any."""
    frames = []
    hdu_names = {name.lower() for name in images or ()}
    for file in files:
        hdus = stack.enter_context(fitsfile.opened(unpacked(file, stack)))
        for index, hdu in enumerate(hdus):
            if not fitsfile.is_image(hdu) or len(hdu.shape) != 2:
                continue
            if hdu_names and not hdu_names & {hdu.name.lower(), f"hdu {index}", str(index)}:
                continue
            world, scale = celestial(hdu.header), pixel_scale(hdu.header)
            if world is None or scale is None:
                continue
            frames.append(_frame(file, index, hdu, world, scale))
    return frames


def _frame(file: Path, index: int, hdu: Any, world: WCS, scale: float) -> Frame:
    stated = bands_of(hdu.header, 1) or ("",)
    name = (
        stated[0]
        if bandnames.is_known(stated[0]) or not bandnames.is_known(stem(file.name))
        else stem(file.name)
    )
    place = f"{file.name} HDU {index}" + (f" ({hdu.name})" if hdu.name else "")
    return Frame(place, name or stem(file.name), hdu, world, scale, zero_point(hdu.header))


def are_frames(frames: Sequence[Frame], catalogue: Table) -> bool:
    """Whether each of several frames is of another band, and the catalogue has positions."""
    names = [frame.name for frame in frames]
    return len(frames) > 0 and len(set(names)) == len(names) and _position(catalogue, RA) is not None


def table(
    path: Path, frames: Sequence[Frame], catalogue: Table, size: int, scale: float | None, resample: bool
) -> Table:
    """A column of stamps (size, size) for each frame, and those of the catalogue. scale: of the model's pixels.

    Raises SourceError.
    """
    ra, dec = _position(catalogue, RA), _position(catalogue, DEC)
    if ra is None or dec is None:
        raise SourceError(
            f"{catalogue.path}: has no columns ra and dec, which are needed to cut stamps from the frames"
        )
    names = [frame.name for frame in frames]
    for name in names:
        if names.count(name) > 1:
            places = ", ".join(frame.place for frame in frames if frame.name == name)
            raise SourceError(
                f"{path}: several frames of band {name}: {places}: give --images NAME, or one for each"
            )
    columns = [
        _column(frame, _Positions(catalogue.path, ra, dec), size, scale if resample else None)
        for frame in frames
    ]
    listed = ", ".join(f"{frame.name} from {frame.place}" for frame in frames)
    ids = tuple(replace(column, name=name) for column, name in ((ra, "ra"), (dec, "dec")))
    rest = tuple(column for column in catalogue.columns if column not in (ra, dec))
    return Table(path, (*columns, *ids, *rest), (*catalogue.notes, f"stamps are cut from frames: {listed}"))


def _position(catalogue: Table, usual: Sequence[str]) -> Column | None:
    by_name = {column.name.lower(): column for column in catalogue.columns if not column.shape}
    return next((by_name[name] for name in usual if name in by_name), None)


class _Positions:
    def __init__(self, path: Path, ra: Column, dec: Column) -> None:
        self._path, self._ra, self._dec = path, ra, dec
        self.rows = ra.rows

    def read(self, start: int, stop: int) -> SkyCoord:
        try:
            ra, dec = (values.numbers(column.read(start, stop))[0] for column in (self._ra, self._dec))
        except values.ValueFault as error:
            raise SourceError(
                f"{self._path}: ra and dec, rows from {start} on: {error}: give degrees"
            ) from error
        if (np.abs(dec) > 90).any():
            row = start + int(np.argmax(np.abs(dec) > 90))
            raise SourceError(f"{self._path}: dec in row {row} is not between -90 and 90 degrees")
        return SkyCoord(ra * u.deg, dec * u.deg)


def _column(frame: Frame, positions: _Positions, size: int, target: float | None) -> Column:
    zoom = 1.0 if target is None or abs(frame.scale / target - 1) < SAME_SCALE else frame.scale / target
    side = size if zoom == 1 else ceil(size / zoom) + _MARGIN
    plan = fitting.Plan(size, side, side, zoom)

    def read(start: int, stop: int) -> Array:
        x, y = frame.world.world_to_pixel(positions.read(start, stop))
        cut = np.stack([_cut(frame, float(a), float(b), side) for a, b in zip(x, y, strict=True)])
        return fitting.fitted(cut[:, None], plan)[:, 0]

    return Column(
        frame.name,
        positions.rows,
        (size, size),
        read,
        "float32",
        shown=f"{frame.name} ({frame.place})",
        bands=(frame.name,),
        pixel_scale=frame.scale if zoom == 1 else target,
        zero_point=frame.zero_point,
        unit=str(frame.hdu.header.get("BUNIT", "")).strip() or None,
        conflicts=conflicts(frame.hdu.header),
    )


def _cut(frame: Frame, x: float, y: float, side: int) -> Array:
    """Pixels that the frame does not have are NaN, all of them if it lacks the position.

    Only the pixels around the position are read.
    """
    bounds = [_around(place, side, length) for place, length in zip((y, x), frame.hdu.shape, strict=True)]
    if any(start >= stop for start, stop in bounds):
        return np.full((side, side), np.nan, np.float32)
    piece = fitsfile.section(frame.hdu, tuple(slice(*bound) for bound in bounds))
    place = (x - bounds[1][0], y - bounds[0][0])
    try:
        cut = Cutout2D(piece, place, (side, side), mode="partial", fill_value=np.nan)
        return np.asarray(cut.data, np.float32)
    except NoOverlapError:
        return np.full((side, side), np.nan, np.float32)


def _around(place: float, side: int, length: int) -> tuple[int, int]:
    """The pixels from `side` before a place to `side` after it, as far as there are any."""
    if not np.isfinite(place) or not -side < place < length + side:
        return 0, 0
    return max(0, int(place) - side), min(length, int(place) + side + 1)
