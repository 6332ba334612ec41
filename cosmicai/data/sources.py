"""Whatever a team holds its galaxies in, as a stream of blocks with images (n, C, H, W).

Read piece by piece, so that memory does not grow with the file: TensorDataset .pt, .npz, HDF5, and FITS
(a four-dimensional image, one three-dimensional image per band, or a table with a stamp in each row).
"""

from __future__ import annotations

import mmap
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference.partition import tensors_of
from inference.torchfile import TorchFileError

Array = NDArray[Any]

IMAGE_NAMES = ("images", "image", "stamps", "stamp", "cutouts", "cutout", "x")
MAGNITUDE_NAMES = ("magnitudes", "magnitude", "mags", "mag")
REDSHIFT_NAMES = ("redshift", "redshifts", "z", "z_spec", "specz", "z_true")
_BANDS = 5
FITS_SUFFIXES = (".fits", ".fit", ".fits.gz")


class SourceError(ValueError):
    """A source cannot be read; the message names file, place in it (column, HDU) and fault."""


@dataclass(frozen=True)
class Columns:
    """Names in the source; None: the usual ones. `magnitudes` is one column (N, M) or one per band (N,)."""

    images: str | None = None
    magnitudes: tuple[str, ...] | None = None
    redshift: str | None = None


@dataclass(frozen=True)
class Block:
    """Consecutive galaxies as the source has them: images (n, ·, ·, ·), magnitudes (n, M), redshift (n,);
    `total` is how many galaxies the whole source has."""

    images: Array
    magnitudes: Array
    redshift: Array | None
    total: int

    def __len__(self) -> int:
        return len(self.images)


def blocks(path: Path, columns: Columns, rows: int) -> Iterator[Block]:
    """The galaxies of a source in its order, `rows` at a time. Raises SourceError."""
    if not path.is_file():
        raise SourceError(f"{path}: there is no such file")
    reader = _reader(path)
    try:
        yield from reader(path, columns, rows)
    except TorchFileError as error:
        raise SourceError(f"{path}: {error}") from None
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error, KeyError) as error:
        raise SourceError(f"{path}: cannot be read ({type(error).__name__}: {error})") from None


def _reader(path: Path) -> Any:
    name = path.name.lower()
    if name.endswith(FITS_SUFFIXES):
        return _fits
    readers = {".pt": _torch, ".npz": _npz, ".h5": _hdf5, ".hdf5": _hdf5}
    if path.suffix.lower() not in readers:
        raise SourceError(f"{path}: unknown format; give .pt, .npz, .h5, .hdf5 or .fits")
    return readers[path.suffix.lower()]


def _sliced(path: Path, arrays: dict[str, Any], columns: Columns, rows: int) -> Iterator[Block]:
    images, magnitudes, redshift = _choose(path, list(arrays), columns)
    count = len(arrays[images])
    for name in [*magnitudes, *([redshift] if redshift else [])]:
        if len(arrays[name]) != count:
            raise SourceError(f"{path}: {name} has {len(arrays[name])} rows, {images} has {count}")
    for start in range(0, count, rows):
        part = slice(start, min(start + rows, count))
        yield Block(
            np.asarray(arrays[images][part]),
            _stack([np.asarray(arrays[name][part]) for name in magnitudes]),
            None if redshift is None else np.asarray(arrays[redshift][part]).reshape(-1),
            count,
        )


def _stack(parts: list[Array]) -> Array:
    return parts[0] if parts[0].ndim == 2 and len(parts) == 1 else np.stack([p.reshape(-1) for p in parts], 1)


def _choose(path: Path, names: list[str], columns: Columns) -> tuple[str, tuple[str, ...], str | None]:
    images = _named(path, names, columns.images, IMAGE_NAMES, "images")
    if columns.magnitudes is None:
        magnitudes: tuple[str, ...] = (_named(path, names, None, MAGNITUDE_NAMES, "magnitudes"),)
    else:
        magnitudes = tuple(_named(path, names, name, (), "magnitudes") for name in columns.magnitudes)
    if columns.redshift is not None:
        return images, magnitudes, _named(path, names, columns.redshift, (), "redshift")
    return images, magnitudes, _match(names, REDSHIFT_NAMES)


def _named(path: Path, names: list[str], given: str | None, usual: Sequence[str], what: str) -> str:
    found = _match(names, usual if given is None else (given.lower(),))
    if found is None:
        wanted = f"no column {given}" if given else f"no column for {what} among the usual names"
        raise SourceError(f"{path}: {wanted}; it has {', '.join(names)}: give --{what} NAME")
    return found


def _match(names: list[str], usual: Sequence[str]) -> str | None:
    lower = {name.lower(): name for name in names}
    return next((lower[name] for name in usual if name in lower), None)


def _torch(path: Path, columns: Columns, rows: int) -> Iterator[Block]:
    """Memory-mapped; pages are given back after each block, or they would count as resident memory."""
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)  # closed with the last view of it
    tensors = tensors_of(memoryview(mapped))
    if len(tensors) not in (2, 3):
        raise SourceError(f"{path}: has {len(tensors)} tensors, expected images, magnitudes and redshift")
    arrays = dict(zip(("images", "magnitudes", "redshift"), tensors, strict=False))
    for block in _sliced(path, arrays, Columns(), rows):
        yield Block(block.images.copy(), block.magnitudes.copy(), _copied(block.redshift), block.total)
        mapped.madvise(mmap.MADV_DONTNEED)


def _copied(array: Array | None) -> Array | None:
    return None if array is None else array.copy()


def _hdf5(path: Path, columns: Columns, rows: int) -> Iterator[Block]:
    import h5py

    with h5py.File(path) as file:
        found: dict[str, Any] = {}

        def visit(name: str, item: object) -> None:
            if isinstance(item, h5py.Dataset) and item.ndim:
                found[name] = item

        file.visititems(visit)
        yield from _sliced(path, found, columns, rows)


def _npz(path: Path, columns: Columns, rows: int) -> Iterator[Block]:
    with zipfile.ZipFile(path) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
        images, magnitudes, redshift = _choose(path, names, columns)
        wanted = [images, *magnitudes, *([redshift] if redshift else [])]
        streams = [_NpyStream(path, archive, name) for name in wanted]
        counts = {name: stream.count for name, stream in zip(wanted, streams, strict=True)}
        if len(set(counts.values())) != 1:
            raise SourceError(f"{path}: arrays of different lengths: {counts}")
        for start in range(0, counts[images], rows):
            size = min(rows, counts[images] - start)
            parts = [stream.read(size) for stream in streams]
            z = parts.pop().reshape(-1) if redshift else None
            yield Block(parts[0], _stack(parts[1:]), z, counts[images])


class _NpyStream:
    """Rows of one array of an .npz, compressed or not, read in order without holding the array."""

    def __init__(self, path: Path, archive: zipfile.ZipFile, name: str) -> None:
        self._file = archive.open(f"{name}.npy")
        version = np.lib.format.read_magic(self._file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, self._dtype = read(self._file)
        if fortran or self._dtype.hasobject or not shape:
            raise SourceError(f"{path}: {name} must be a plain array in C order")
        self.count, self._row = shape[0], shape[1:]

    def read(self, rows: int) -> Array:
        wanted = rows * int(np.prod(self._row, dtype=int)) * self._dtype.itemsize
        data = self._file.read(wanted)
        if len(data) < wanted:
            raise OSError("the file is cut short")
        return np.frombuffer(data, self._dtype).reshape(rows, *self._row)


def _fits(path: Path, columns: Columns, rows: int) -> Iterator[Block]:
    from astropy.io import fits

    with _opened(path) as hdus:
        arrays: dict[str, Any] = {}
        bands: list[tuple[str, _FitsImage]] = []
        for index, hdu in enumerate(hdus):
            label = f"HDU {index} ({hdu.name})"
            if isinstance(hdu, fits.BinTableHDU):
                arrays |= {name: _FitsColumn(hdu, name) for name in hdu.columns.names}
            elif hdu.shape and len(hdu.shape) == 4:
                arrays["images"] = _FitsImage(hdu, f"{path}: {label}")
            elif hdu.shape and len(hdu.shape) == 3:
                bands.append((hdu.name or label, _FitsImage(hdu, f"{path}: {label}")))
            elif hdu.shape:
                raise SourceError(f"{path}: {label} has {len(hdu.shape)} axes; stamps need 3 (one band) or 4")
        if bands:
            arrays["images"] = _Bands(path, bands)
        yield from _sliced(path, arrays, columns, rows)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The file's HDUs; what astropy only warns of (a file cut short) is an error."""
    from astropy.io import fits
    from astropy.utils.exceptions import AstropyUserWarning

    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always", AstropyUserWarning)
        hdus = fits.open(path, memmap=True, lazy_load_hdus=False)
    with hdus:
        if seen:
            raise SourceError(f"{path}: cannot be read ({seen[0].message})")
        yield hdus


class _FitsImage:
    """The image (N, C, H, W) or (N, H, W) of one HDU."""

    def __init__(self, hdu: Any, place: str) -> None:
        self._hdu, self._place = hdu, place

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self._hdu.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, part: slice) -> Array:
        images = np.asarray(self._hdu.section[part.start : part.stop])
        good = np.isfinite(images.reshape(len(images), -1)).all(1)
        if not good.all():
            first = part.start + int(np.argmin(good))
            raise SourceError(f"{self._place}: the stamp of galaxy {first} (from 0) holds NaN or infinity")
        return images


class _FitsColumn:
    def __init__(self, hdu: Any, name: str) -> None:
        self._hdu, self._name = hdu, name

    def __len__(self) -> int:
        return int(self._hdu.header["NAXIS2"])

    def __getitem__(self, part: slice) -> Array:
        return np.asarray(self._hdu.data[self._name][part])


class _Bands:
    """One image (N, H, W) per band, in the order of the file, as images (N, C, H, W)."""

    def __init__(self, path: Path, bands: list[tuple[str, _FitsImage]]) -> None:
        shapes = {name: image.shape for name, image in bands}
        if len(set(shapes.values())) != 1:
            raise SourceError(f"{path}: bands of different shapes: {shapes}")
        if len(bands) < _BANDS:
            raise SourceError(f"{path}: bands {', '.join(shapes)}: expected {_BANDS}, each an image (N, H, W)")
        self._images = [image for _, image in bands]

    def __len__(self) -> int:
        return len(self._images[0])

    def __getitem__(self, part: slice) -> Array:
        return np.stack([image[part] for image in self._images], 1)
