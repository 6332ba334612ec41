"""The predictions of all ranks as one catalogue, a row per galaxy in the order of the partitions."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference.contract.columns import Column, described, ordered
from inference.contract.names import COPY
from inference.contract.run_records import COPIES
from inference.table import EVERY_RANKS, columns, count_of, metadata_of
from initialize.plan import natural

Array = NDArray[Any]


class CatalogueError(RuntimeError):
    """A folder holds no predictions that a catalogue can be made of; the message says what to do."""


@dataclass(frozen=True)
class Catalogue:
    """Ranks by their predictions/{rank}.npz; every table has the same columns.

    types: by column, in order, its type and the shape of one value; columns: by column, its unit, UCD and
    description; grid: of the column pdf.
    """

    files: tuple[Path, ...]
    types: dict[str, tuple[np.dtype[Any], tuple[int, ...]]]
    columns: dict[str, Column]
    grid: Array | None
    run_id: str

    @classmethod
    def of(cls, folder: Path) -> Catalogue:
        """Of a folder of downloaded results, or of `cosmicai infer`. Raises CatalogueError."""
        place = folder / "predictions"
        files = tuple(sorted(place.glob("*.npz"), key=lambda path: natural(path.name)))
        if not files:
            raise CatalogueError(f"{place} holds no predictions: the run has saved none, or failed")
        types: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {}
        metadata: dict[str, Column] = {}
        grids: list[Array] = []
        run_ids = set()
        for file in files:
            arrays = _arrays(file)
            for name, array in _columns(arrays, file).items():
                kind = array.dtype.newbyteorder("="), array.shape[1:]
                earlier = types.setdefault(name, kind)
                if earlier[1] != kind[1]:
                    raise CatalogueError(f"{file}: {name} has another shape than in other ranks")
                types[name] = _joint(earlier[0], kind[0]), kind[1]
            for name, column in _metadata(arrays, file).items():
                if metadata.setdefault(name, column) != column:
                    raise CatalogueError(
                        f"{file}: {name} has another unit, UCD or description than in other ranks; their "
                        "models differ"
                    )
            grids += [arrays["z_grid"]] if "z_grid" in arrays else []
            run_ids.add(str(arrays.get("run_id", "")))
        if any(not np.array_equal(grid, grids[0]) for grid in grids):
            raise CatalogueError(f"{place}: the ranks have different grids of p(z); their models differ")
        if len(run_ids) > 1:
            raise CatalogueError(f"{place} holds predictions of several runs: {', '.join(sorted(run_ids))}")
        types = {name: types[name] for name in ordered(set(types))}
        known = {name: described(name, metadata) for name in types}
        return cls(files, types, known, grids[0] if grids else None, run_ids.pop())

    @property
    def names(self) -> list[str]:
        return list(self.types)

    def tables(self) -> Iterator[dict[str, Array]]:
        """The columns of one rank after the other."""
        for file in self.files:
            columns = _columns(_arrays(file), file)
            count = count_of(columns)
            yield {
                name: columns[name].astype(kind) if name in columns else _missing(count, kind, shape)
                for name, (kind, shape) in self.types.items()
            }

    def whole(self) -> dict[str, Array]:
        """The columns of all ranks, in memory."""
        tables = list(self.tables())
        return {name: np.concatenate([table[name] for table in tables]) for name in self.names}


def _arrays(file: Path) -> dict[str, Array]:
    try:
        with np.load(file, allow_pickle=False) as content:
            arrays = {name: content[name] for name in content.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise CatalogueError(f"{file} cannot be read: {error}; download the run again") from error
    if COPY in arrays:
        raise CatalogueError(
            f"{file} is of a copy, whose galaxies are those of other ranks: make the catalogue of the folder "
            f"above {COPIES}/"
        )
    present = [arrays[name] for name in EVERY_RANKS if name in arrays]
    if not present or present[0].ndim != 1:
        raise CatalogueError(f"{file} is not what a rank writes: it has no column {' or '.join(EVERY_RANKS)}")
    return arrays


def _columns(arrays: dict[str, Array], file: Path) -> dict[str, Array]:
    try:
        return columns(arrays)
    except ValueError as error:
        raise CatalogueError(f"{file}: {error}") from error


def _metadata(arrays: dict[str, Array], file: Path) -> dict[str, Column]:
    try:
        return metadata_of(arrays)
    except (ValueError, RecursionError) as error:
        raise CatalogueError(f"{file} is not what a rank writes: {error}") from error


def _joint(first: np.dtype[Any], second: np.dtype[Any]) -> np.dtype[Any]:
    """A type that holds the values of both exactly: text for whole numbers that numpy would make floats."""
    joint = np.promote_types(first, second)
    return np.dtype("U20") if joint.kind == "f" and {first.kind, second.kind} <= set("iu") else joint


def _missing(count: int, kind: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    """NaN, '' or 0, in a rank that lacks a column."""
    return np.full((count, *shape), np.nan if kind.kind == "f" else np.zeros((), kind)[()], kind)
