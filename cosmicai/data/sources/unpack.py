"""Compressed files unpacked into temporary ones, and what a file is by its first bytes."""

from __future__ import annotations

import bz2
import gzip
import lzma
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from cosmicai.data.sources.base import SourceError
from cosmicai.data.sources.torchfile import is_torch

_OPENERS: dict[bytes, Callable[..., Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
}
_SUFFIXES = (".gz", ".bz2", ".xz")
_CHUNK = 1 << 20
_FREE = 1 << 30  # bytes that unpacking leaves on the disk
_MAGIC = (
    (b"SIMPLE  =", "fits"),
    (b"\x89HDF\r\n\x1a\n", "hdf5"),
    (b"PAR1", "parquet"),
    (b"\x93NUMPY", "npy"),
    (b"\x80", "torch"),  # a row of pickles, as torch wrote before 1.6
)


def unpacked(path: Path, stack: ExitStack) -> Path:
    """The file, or a plain copy of a compressed one, which lasts as long as the stack. Raises SourceError."""
    start = head(path)
    opener = next((opener for magic, opener in _OPENERS.items() if start.startswith(magic)), None)
    if start.startswith(b"(\xb5/\xfd"):
        raise SourceError(f"{path}: is compressed with zstd: decompress it first (zstd -d)")
    if opener is None:
        return path
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cosmicai-")))
    target = folder / (path.stem if path.suffix.lower() in _SUFFIXES else path.name)
    try:
        with opener(path, "rb") as packed, target.open("wb") as plain:
            while chunk := packed.read(_CHUNK):
                plain.write(chunk)
                if shutil.disk_usage(folder).free < _FREE:
                    raise SourceError(
                        f"{path}: unpacking it fills the disk of {folder}: set TMPDIR to a larger one"
                    )
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise SourceError(f"{path}: cannot be decompressed ({error})") from error
    return target


def head(path: Path) -> bytes:
    """The first bytes. Raises SourceError."""
    try:
        with path.open("rb") as file:
            return file.read(4096)
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror}") from error


def kind_of(path: Path) -> str:
    """fits, hdf5, parquet, npy, npz, torch or csv, by its content. Raises SourceError."""
    start = head(path)
    for magic, kind in _MAGIC:
        if start.startswith(magic):
            return kind
    if start.startswith(b"PK\x03\x04"):
        return _kind_of_zip(path)
    if start and b"\x00" not in start and path.suffix.lower() in (".csv", ".tsv", ".txt", ".dat"):
        return "csv"
    raise SourceError(
        f"{path}: unknown format; give FITS, HDF5, Parquet, .npz, .npy, .pt of torch.save, a .csv of paths, "
        "or a folder of FITS cut-outs or frames"
    )


def _kind_of_zip(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError) as error:
        raise SourceError(f"{path}: cannot be read ({error})") from error
    if is_torch(names):
        return "torch"
    if any(name.endswith(".npy") for name in names):
        return "npz"
    raise SourceError(
        f"{path}: is a zip file without arrays (it begins with {', '.join(names[:3])}): unpack it first"
    )
