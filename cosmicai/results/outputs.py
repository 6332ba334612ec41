"""Files and folders that appear whole or not at all, and errors of writing that name their path."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

LOCK = ".cosmicai.lock"
"""This file exists while a process writes to a folder that no other may write to."""
_REMEDIES = {
    errno.ENOSPC: "free some space, or write elsewhere",
    errno.EDQUOT: "free some space, or write elsewhere",
    errno.EFBIG: "raise the limit (`ulimit -f`), or write elsewhere",
    errno.EROFS: "write elsewhere",
    errno.EACCES: "write elsewhere, or change its permissions",
    errno.EPERM: "write elsewhere, or change its permissions",
}
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
# torch, safetensors and onnxruntime report a full disk by errors of their own.
_FOREIGN = re.compile(
    r"os error (28|27|122|30)|No space left|File too large|Disk quota|"
    r"failed writing file|unexpected pos|iostream|PytorchStreamWriter"
)


class OutputError(RuntimeError):
    """Something could not be written; the message names the path, the reason and what to do."""


def output_error(path: Path, error: OSError) -> OutputError:
    """An error of the file system, met while something was written to `path`."""
    remedy = _REMEDIES.get(error.errno or 0)
    reason = error.strerror or str(error)
    return OutputError(f"{path} cannot be written: {reason}" + (f"; {remedy}" if remedy else ""))


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raises OutputError, which names `path`, if writing within fails (space, permission)."""
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        if not _concerns(path.absolute(), error):
            raise
        raise output_error(path, error) from error
    except Exception as error:
        if not _FOREIGN.search(str(error)):
            raise
        reason = str(error).strip().splitlines()[0]
        raise OutputError(f"{path} cannot be written: {reason}; is its disk full?") from error


def _concerns(path: Path, error: OSError) -> bool:
    """Whether an error is one of writing to `path`, and not of reading something else meanwhile."""
    if error.errno in _FULL:
        return True
    if error.errno is None or not isinstance(error.filename, str | bytes):
        return False
    place = Path(os.fsdecode(error.filename)).absolute()
    scratch = place.parent == path.parent and place.name.startswith(f".{path.stem[:40]}.")
    return scratch or place.is_relative_to(path) or path.is_relative_to(place)


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A file to write to, which replaces `path` at the end; after an error, it is removed."""
    scratch = path.with_name(f".{path.stem[:40]}.{secrets.token_hex(4)}{path.suffix}")
    with writing(path), made(path.parent):
        try:
            yield scratch
            scratch.replace(path)
        finally:
            scratch.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text file in UTF-8, whole or not at all. Raises OutputError."""
    with new_file(path) as scratch:
        scratch.write_text(text, encoding="utf-8")


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, next to `path`; the caller moves it, and whatever is left of it goes at the end."""
    place = path.absolute()
    scratch = place.with_name(f".{place.stem[:40]}.{secrets.token_hex(4)}")
    with writing(path), made(place.parent):
        try:
            scratch.mkdir()
            yield scratch
        except OutputError as error:
            raise OutputError(str(error).replace(str(scratch), str(path))) from error
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Locks an existing folder for this process. Raises OutputError while another process does.

    A process that was killed no longer holds it.
    """
    path = folder / LOCK
    file = _flocked(path)
    while file is None:  # whoever held it has removed the file that was locked
        file = _flocked(path)
    with file:
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _flocked(path: Path) -> TextIO | None:
    """The locked file, unless by now it is no longer the one at the path. Raises OutputError."""
    file = path.open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(file.fileno()), path.stat()):
            return file
    except FileNotFoundError:
        pass
    except BlockingIOError as error:
        file.close()
        raise OutputError(
            f"another process writes to {path.parent}: wait until it has ended, or write elsewhere"
        ) from error
    file.close()
    return None


@contextmanager
def made(folder: Path) -> Iterator[None]:
    """Makes a folder with its parents; after an error, those that were missing go again if they are empty."""
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for place in missing:
            try:
                place.rmdir()
            except OSError:
                break
        raise


def copy(source: Path, target: Path) -> None:
    """Copies all that is in one folder to another, which may exist. Raises OSError of the first fault."""
    for path in sorted(source.rglob("*")):
        place = target / path.relative_to(source)
        if path.is_dir():
            place.mkdir(parents=True, exist_ok=True)
        else:
            shutil.copy2(path, place)


def merge(source: Path, target: Path) -> None:
    """Moves all that is in `source` into `target`, where files of the same names are replaced."""
    target.mkdir(parents=True, exist_ok=True)
    for entry in sorted(source.iterdir()):
        place = target / entry.name
        if entry.is_dir() and not entry.is_symlink():
            if place.exists() and not place.is_dir():
                place.unlink()
            merge(entry, place)
        else:
            if place.is_dir() and not place.is_symlink():
                raise OutputError(f"{place} is a folder where a file is to be written; move it away")
            os.replace(entry, place)  # noqa: PTH105 - also of a link
