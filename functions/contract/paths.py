"""Names that others chose, mostly of S3 objects, as paths below a folder."""

from __future__ import annotations

import re
from pathlib import Path

_LONGEST_NAME = 255  # bytes of one name on the file systems of Linux and macOS (NAME_MAX, limits.h)
_LONGEST_PATH = 1024  # bytes: an S3 key has no more, and macOS's PATH_MAX allows no more
_SHOWN = 120
_DRIVE = re.compile(r"[A-Za-z]:")


class PathError(ValueError):
    """A name cannot be used as a path below a folder; the message gives the name and the reason."""


def below(folder: Path, name: str) -> Path:
    """FOLDER/NAME, if NAME is relative, in normal form, and valid on Linux, macOS and Windows drives.

    Raises PathError otherwise: if names were corrected, two could become one file. Symbolic links below the
    folder are followed; S3 objects are never written as such.
    """
    fault = _fault(name)
    if fault is not None:
        raise PathError(f"{_quoted(name)} cannot be a path below a folder: {fault}; rename it")
    return folder.joinpath(*name.split("/"))


def plain(folder: Path, name: str) -> Path:
    """A file directly in the folder. Raises PathError."""
    if "/" in name:
        raise PathError(f"{_quoted(name)} cannot be the name of a file: it has a slash; rename it")
    return below(folder, name)


def is_marker(key: str) -> bool:
    """Whether an object represents a folder, as S3's console creates them: empty, with a key that ends in /."""
    return key.endswith("/")


def _quoted(name: str) -> str:
    """The name, shortened; repr escapes what is not printable."""
    return repr(name[:_SHOWN]) + ("…" if len(name) > _SHOWN else "")


def _fault(name: str) -> str | None:
    """The first reason why the name cannot be used; None if it can."""
    try:
        encoded = name.encode()
    except UnicodeEncodeError:
        return "it is not Unicode text"
    if len(encoded) > _LONGEST_PATH:
        return f"it has {len(encoded)} bytes, and at most {_LONGEST_PATH} are allowed"
    if any(character < " " or "\x7f" <= character <= "\x9f" for character in name):
        return "it has control characters"
    if "\\" in name:
        return "it has a backslash, which separates folders on Windows"
    if name.startswith("/"):
        return "it is absolute"
    for part in name.split("/"):
        if part in ("", ".", ".."):
            return f"it has a part {part!r}"
        if len(part.encode()) > _LONGEST_NAME:
            return f"a part has {len(part.encode())} bytes, and at most {_LONGEST_NAME} are allowed"
        if _DRIVE.match(part):
            return "it names a drive"
    return None
