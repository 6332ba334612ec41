"""Files and folders that appear whole or not at all, and errors of writing that name their path."""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
    """Raises OutputError, which names `path`, where writing within fails (space, permission)."""
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
    """A file to write to, which takes the place of `path` at the end; nothing stays of it after an error."""
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
    """A folder to fill, beside `path`; the caller moves it, and whatever is left of it goes at the end."""
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
def filling(path: Path) -> Iterator[None]:
    """A folder to which whole files are added, each as NAME.partial at first.

    After an error the complete ones stay, so that the same call can continue; nothing else stays.
    """
    with writing(path), made(path.absolute()):
        try:
            yield
        except BaseException:
            for partial in path.glob("*.partial"):
                partial.unlink(missing_ok=True)
            raise


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


_OF_A_RUN = (
    "run.json", "manifest.json", "metrics.json", "combined_data.json", "summary.json", "report.html",
    "Results.json", "inference.png", "redshifts.csv", "predictions", "failures",
)  # fmt: skip


def publish_run(scratch: Path, folder: Path) -> None:
    """Moves the files of a run to their folder, where they replace those of an earlier run; others stay.

    So the results of two runs are never mixed. Raises OutputError.
    """
    if (folder / "run.json").is_file():
        earlier = [folder / name for name in _OF_A_RUN]
        earlier += [path for path in folder.glob("*.json") if re.fullmatch(r"[0-9]+", path.stem)]
        for path in earlier:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    merge(scratch, folder)


def copy(source: Path, target: Path) -> None:
    """Copies all that is in one folder to another, which may be there. Raises OSError of the first fault."""
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
