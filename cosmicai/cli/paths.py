"""What arguments and options may hold: files and folders to read, and to write.

Like the kinds of `values`, each is a callable for Typer's `parser`.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from cosmicai.cli.values import Prefix, Refused, shown


def _kind(path: Path) -> str:
    """'file', 'folder', or '' if there is nothing. Raises Refused for a name that no file can have."""
    try:
        return "folder" if path.is_dir() else "file" if path.exists() else ""
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise Refused(path, f"no file can have this name ({reason})") from error


def _path(value: object, what: str) -> Path:
    if not str(value).strip():
        raise Refused(value, f"is empty; give {what}")
    return Path(str(value))


@dataclass(frozen=True)
class InFile:
    """An existing file that can be read."""

    def __call__(self, value: object) -> Path:
        path = _path(value, "a file")
        kind = _kind(path)
        if kind != "file":
            raise Refused(value, "is a folder; give a file" if kind else "there is no such file")
        if not os.access(path, os.R_OK):
            raise Refused(value, "cannot be read: permission denied")
        return path


@dataclass(frozen=True)
class InPath:
    """An existing file or folder that can be read."""

    def __call__(self, value: object) -> Path:
        kind = _kind(_path(value, "a file or a folder"))
        if not kind:
            raise Refused(value, "there is no such file or folder")
        return InFolder()(value) if kind == "folder" else InFile()(value)


@dataclass(frozen=True)
class ModelOrConfig:
    """A model folder, or the config.json of one."""

    def __call__(self, value: object) -> Path:
        path = InPath()(value)
        return MODEL(value) if path.is_dir() else JsonFile()(value)


@dataclass(frozen=True)
class JsonFile:
    """A file that holds one JSON object."""

    def __call__(self, value: object) -> Path:
        path = InFile()(value)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise Refused(value, f"is not JSON ({error})") from error
        if not isinstance(content, dict):
            raise Refused(value, "is not a JSON object")
        return path


@dataclass(frozen=True)
class InFolder:
    """An existing folder; `holds`: patterns, one of which a name in it must match; `what`: it, in words."""

    holds: tuple[str, ...] = ()
    what: str = "a folder"

    def __call__(self, value: object) -> Path:
        path = _path(value, self.what)
        kind = _kind(path)
        if kind != "folder":
            raise Refused(value, f"is a file; give {self.what}" if kind else "there is no such folder")
        try:
            names = os.listdir(path)  # noqa: PTH208 - a pattern's special characters may be in the path
        except OSError as error:
            raise Refused(value, f"cannot be read: {error.strerror}") from error
        if self.holds and not any(fnmatch(name, one) for name in names for one in self.holds):
            raise Refused(value, f"holds no {' or '.join(self.holds)}; give {self.what}")
        return path


@dataclass(frozen=True)
class AstroMaeFolder:
    """The model folder of an AstroMAE, which has a config.json."""

    def __call__(self, value: object) -> Path:
        path = USABLE_MODEL(value)
        if _kind(path / "config.json"):
            return path
        raise Refused(value, "is a network from ONNX, and this works only for AstroMAE; give its model folder")


MODEL = AstroMaeFolder()
USABLE_MODEL = InFolder(("config.json", "graphs.json"), "a model folder")
"""One that ranks can run; that of a network from ONNX has no config.json."""


@dataclass(frozen=True)
class InPartitions:
    """A folder with .pt files that a run would read, in it or its subfolders."""

    def __call__(self, value: object) -> Path:
        from cosmicai.data.listing import list_folder

        what = "a folder of .pt files"
        path = InFolder(what=what)(value)
        listing = list_folder(path)
        if not listing.files:
            note = listing.note("it")
            raise Refused(value, f"holds no .pt file; give {what}" + (f" ({note})" if note else ""))
        return path


PARTITIONS = InPartitions()


@dataclass(frozen=True)
class Source:
    """A partition file, a folder of them, or s3://bucket/prefix."""

    def __call__(self, value: object) -> str:
        text = str(value)
        if text.startswith("s3://"):
            return bucket_and_prefix(text) and text
        kind = _kind(_path(value, "a .pt file, a folder of them or s3://bucket/prefix"))
        if not kind:
            raise Refused(value, "there is no such file or folder")
        PARTITIONS(value) if kind == "folder" else InFile()(value)
        return text


def bucket_and_prefix(address: str) -> tuple[str, str]:
    """The bucket and the prefix of s3://bucket/prefix. Raises Refused."""
    bucket, _, prefix = address.removeprefix("s3://").partition("/")
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", bucket):
        raise Refused(address, "has no valid bucket name; give s3://bucket/prefix")
    if not prefix.strip("/"):
        raise Refused(address, "has no prefix; give s3://bucket/prefix")
    try:
        return bucket, Prefix()(prefix)
    except Refused as error:
        raise Refused(address, f"as its prefix, {error.message.partition(': ')[2]}") from error


def _check_writable(value: object, path: Path) -> None:
    """Raises Refused if nothing can be written at the path, which it finds out by trying."""
    if not str(path).isprintable():
        raise Refused(value, "its name has characters that cannot be printed")
    if _kind(path) == "file" and not os.access(path, os.W_OK):
        raise Refused(value, "cannot be written to: permission denied")
    folders = (path, *path.absolute().parents) if _kind(path) == "folder" else path.absolute().parents
    place = next(place for place in folders if _kind(place))
    if _kind(place) == "file":
        raise Refused(value, f"{shown(place)} is a file, not a folder")
    try:
        with tempfile.TemporaryDirectory(prefix=".cosmicai-", dir=place):
            pass
    except OSError as error:
        raise Refused(value, f"{shown(place)} cannot be written to: {error.strerror}") from error


@dataclass(frozen=True)
class OutFile:
    """A file to write, in an existing folder."""

    suffix: str = ""

    def __call__(self, value: object) -> Path:
        path = _path(value, "a file")
        if _kind(path) == "folder":
            raise Refused(value, "is a folder; give a file")
        _check_writable(value, path)
        if not path.absolute().parent.is_dir():
            raise Refused(value, f"there is no folder {shown(path.parent)}; create it first")
        if not path.name.lower().endswith(self.suffix):
            raise Refused(value, f"give a name that ends in {self.suffix}")
        return path


@dataclass(frozen=True)
class OutFolder:
    """A folder to write to, which may exist; `new`: if it exists, it must be empty."""

    new: bool = False

    def __call__(self, value: object) -> Path:
        path = _path(value, "a folder")
        kind = _kind(path)
        if kind == "file":
            raise Refused(value, "is a file; give a folder")
        _check_writable(value, path)
        if self.new and kind and any(path.iterdir()):
            raise Refused(value, "is not empty; give a new folder")
        return path


@dataclass(frozen=True)
class Destination:
    """A folder to write to, or s3://bucket/prefix."""

    def __call__(self, value: object) -> str:
        text = str(value)
        if text.startswith("s3://"):
            bucket_and_prefix(text)
        else:
            OutFolder()(text)
        return text
