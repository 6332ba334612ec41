"""The partitions in a folder on this machine: those that a run would read from the same folder in S3."""

from __future__ import annotations

import os
from pathlib import Path

from cosmicai.results.outputs import LOCK
from inference.data.partition import PartitionError
from initialize.plan import STAGE, Listing, PartitionFile, part_of_a_set, partitions_among


def list_folder(folder: Path) -> Listing:
    """The files in a folder and its subfolders; keys are paths below it. Raises OSError."""
    files: list[PartitionFile] = []
    seen: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True, onerror=_raise):
        within = Path(place).relative_to(folder)
        real = os.path.realpath(place)
        if real in seen:  # a link to a folder around it
            folders.clear()
            continue
        seen.add(real)
        hidden = [name for name in folders if name.startswith(".") and name != STAGE]
        folders[:] = [name for name in folders if name not in hidden]
        files += [
            PartitionFile((within / name).as_posix(), _size(Path(place, name))) for name in names + hidden
        ]
    return partitions_among((file for file in files if Path(file.key).name != LOCK), 0)


def partitions_in(folder: Path) -> Listing:
    """The same for a folder to be read. Raises PartitionError if it holds none, or part of a set."""
    listing = list_folder(folder)
    if listing.is_part:
        raise PartitionError(part_of_a_set(str(folder)))
    if not listing.files:
        note = listing.note("it")
        raise PartitionError(f"{folder}: there is no partition file (.pt)" + (f"; {note}" if note else ""))
    return listing


def _size(path: Path) -> int:
    """In bytes; 0 for a broken link."""
    return path.stat().st_size if path.exists() else 0


def _raise(error: OSError) -> None:
    raise error
