"""Whatever a team holds its galaxies in, as a table of columns that is read piece by piece."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from cosmicai.data.layout import ModelLayout
from cosmicai.data.photometry import Described, PhotometryError
from cosmicai.data.reading import Reading
from cosmicai.data.sources import (
    csvfile,
    fitsfile,
    frames,
    hdf5,
    multimodal,
    numpyfiles,
    parquet,
    stampfiles,
    torchfile,
)
from cosmicai.data.sources.base import Array, Column, SourceError, Table
from cosmicai.data.sources.concatenated import concatenated
from cosmicai.data.sources.joined import side_by_side
from cosmicai.data.sources.kinds import Kind
from cosmicai.data.sources.unpack import kind_of, unpacked
from initialize.plan import natural

__all__ = ["KINDS", "Array", "Column", "SourceError", "Table", "opened_source"]

Reader = Callable[[Path, ExitStack], Table]
_READERS: dict[str, Reader] = {
    "fits": fitsfile.read,
    "hdf5": hdf5.read,
    "parquet": parquet.read,
    "npz": numpyfiles.read_npz,
    "npy": numpyfiles.read_npy,
    "torch": torchfile.read,
    "csv": csvfile.read,
}
KINDS: tuple[Kind, ...] = (
    fitsfile.KIND,
    hdf5.KIND,
    multimodal.KIND,
    parquet.KIND,
    numpyfiles.KIND,
    torchfile.KIND,
    csvfile.KIND,
    stampfiles.PATHS,
    stampfiles.FOLDER,
    frames.KIND,
)
_MOST_FILES = 500  # of a folder, read one after the other; each stays open
_CUTOUTS = (".fits", ".fit", ".fits.gz", ".fits.fz", ".fits.bz2", ".fit.gz", ".npy")


@contextmanager
def opened_source(path: Path, reading: Reading, layout: ModelLayout) -> Iterator[Table]:
    """The columns of a source and of its catalogue. Raises SourceError, also while rows are read."""
    with ExitStack() as stack:
        with _named(path):
            table = _table(path, reading, layout, stack)
        yield replace(table, columns=tuple(_guarded(path, column) for column in table.columns))


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """What readers raise of a broken file as a SourceError, which names it."""
    try:
        yield
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise SourceError(f"{path}: cannot be read ({type(error).__name__}: {error})") from error


def _guarded(path: Path, column: Column) -> Column:
    read = column.read

    def guarded(start: int, stop: int) -> Array:
        with _named(path):
            return read(start, stop)

    return replace(column, read=guarded)


def _table(path: Path, reading: Reading, layout: ModelLayout, stack: ExitStack) -> Table:
    catalogue = None if reading.catalogue is None else _file(reading.catalogue, stack)
    if path.is_dir():
        return _folder(path, reading, layout, catalogue, stack)
    table, kind = _opened(path, stack)
    table = _described(table) if kind == "torch" else table
    paths = _paths(table, reading)
    if paths:
        table = stampfiles.with_files(table, paths, reading)
    if catalogue is None:
        return table
    sky_frames = (
        frames.frames_of([path], reading.columns.images, stack)
        if kind_of(unpacked(path, stack)) == "fits"
        else []
    )
    if sky_frames and not any(len(column.shape) > 1 for column in table.columns):
        return _cut(path, sky_frames, catalogue, reading, layout)
    return side_by_side(table, catalogue)


def _paths(table: Table, reading: Reading) -> list[Column]:
    """The columns that name files, if the table has no images of its own."""
    if any(len(column.shape) > 1 for column in table.columns):
        return []
    return stampfiles.path_columns(table, reading.columns.images)


def _file(path: Path, stack: ExitStack) -> Table:
    return _opened(path, stack)[0]


def _opened(path: Path, stack: ExitStack) -> tuple[Table, str]:
    """A file's table, and its kind."""
    if not path.is_file():
        raise SourceError(f"{path}: there is no such file")
    plain = unpacked(path, stack)
    kind = kind_of(plain)
    return replace(_READERS[kind](plain, stack), path=path), kind


def _described(table: Table) -> Table:
    """Partitions with what their photometry.json says, and a note on it. Raises SourceError."""
    try:
        described = Described.of(table.path)
    except PhotometryError as error:
        raise SourceError(str(error)) from error
    notes = (
        (f"{described.place} says: {described.photometry.described() or 'nothing'}",) if described.place else ()
    )
    return replace(table, notes=(*table.notes, *notes), described=described)


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _folder(
    path: Path, reading: Reading, layout: ModelLayout, catalogue: Table | None, stack: ExitStack
) -> Table:
    files = sorted(
        (p for p in path.rglob("*") if p.is_file() and not _is_hidden(p.relative_to(path))),
        key=lambda p: natural(str(p)),
    )
    by_kind = {
        "arrays": [
            file for file in files if file.suffix.lower() in (".h5", ".hdf5", ".hdf", ".parquet", ".pq")
        ],
        "partitions": [file for file in files if file.suffix.lower() in (".pt", ".pth", ".npz")],
        "cutouts": [file for file in files if file.name.lower().endswith(_CUTOUTS)],
    }
    kinds = {kind: chosen for kind, chosen in by_kind.items() if chosen}
    if len(kinds) != 1:
        listed = (
            ", ".join(f"{len(chosen)} such as {chosen[0].name}" for chosen in kinds.values())
            or "no file of a known kind"
        )
        raise SourceError(f"{path}: holds {listed}: give a folder of files of one kind")
    ((kind, chosen),) = kinds.items()
    if kind == "cutouts":
        return _cutouts(path, chosen, reading, layout, catalogue, stack)
    if len(chosen) > _MOST_FILES:
        raise SourceError(
            f"{path}: holds {len(chosen)} files, more than {_MOST_FILES}: prepare a part at a time"
        )
    table = concatenated(path, [_file(file, stack) for file in chosen])
    return _described(table) if kind == "partitions" else table


def _cutouts(
    path: Path,
    files: Sequence[Path],
    reading: Reading,
    layout: ModelLayout,
    catalogue: Table | None,
    stack: ExitStack,
) -> Table:
    if all(file.suffix.lower() == ".npy" for file in files):
        table = numpyfiles.read_folder(path, stack)
        if len({column.rows for column in table.columns}) == 1 and len(table.columns) > 1 and catalogue is None:
            return table
    elif catalogue is not None and len(files) <= _MOST_FRAMES:
        sky_frames = frames.frames_of(files, reading.columns.images, stack)
        if frames.are_frames(sky_frames, catalogue):
            return _cut(path, sky_frames, catalogue, reading, layout)
    if catalogue is not None:
        return stampfiles.matched(path, files, catalogue, reading)
    return stampfiles.folder(path, files, reading)


_MOST_FRAMES = 64


def _cut(
    path: Path, sky_frames: Sequence[frames.Frame], catalogue: Table, reading: Reading, layout: ModelLayout
) -> Table:
    if reading.pixel_scale is not None:
        sky_frames = [replace(frame, scale=reading.pixel_scale) for frame in sky_frames]
    resample = reading.fit == "scale"
    return frames.table(path, sky_frames, catalogue, layout.size, layout.photometry.pixel_scale, resample)
