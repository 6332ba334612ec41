"""A folder of partitions copied to another place: into S3, or into another folder."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from cosmicai.data import photometry
from cosmicai.data.listing import partitions_in
from cosmicai.data.places import sha256
from cosmicai.data.sets import NewSet, Place, new_set

_TRANSFERS = 8  # files at once

Progress = Callable[[int, int], None]
"""Called with (finished, total) bytes."""


@dataclass(frozen=True)
class Copied:
    """What `copy` did; removed: partitions of another set; note: names what was left out."""

    partitions: int
    bytes: int
    written: int
    removed: list[str]
    note: str | None


def copy(
    folder: Path,
    place: Place,
    overwrite: bool = False,
    progress: Progress = lambda finished, total: None,
) -> Copied:
    """Copies the partitions of a folder and its subfolders; they appear together at the end.

    The copy has one photometry.json, with what all those of the folder agree on. overwrite: replace another set
    of partitions. Raises PartitionError if the folder holds none, PhotometryError if descriptions are broken or
    disagree, and SetError if the place holds another set.
    """
    listing = partitions_in(folder)
    total, finished, written = sum(file.size for file in listing.files), 0, 0
    names, described = {file.key for file in listing.files}, photometry.common_to([folder])
    with new_set(place, overwrite, names.__contains__) as partitions, ThreadPoolExecutor(_TRANSFERS) as pool:
        if listing.descriptions:
            place.describe(described)
        outcomes = [(file, pool.submit(_add, partitions, folder, file.key)) for file in listing.files]
        try:
            for file, outcome in outcomes:
                written += outcome.result()
                finished += file.size
                progress(finished, total)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
        removed = partitions.finish()
    return Copied(len(names), total, written, removed, listing.note(str(folder)))


def _add(partitions: NewSet, folder: Path, name: str) -> bool:
    with (folder / name).open("rb") as body:
        digest = sha256(body)
        body.seek(0)
        return partitions.add(name, body, digest)
