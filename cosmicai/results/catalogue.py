"""The predictions of all ranks as one catalogue, a row per galaxy in the order of the partitions."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosmicai.results.columns import ordered
from initialize.plan import natural

Array = NDArray[Any]

_PER_RUN = ("index", "files", "rows", "run_id", "z_grid")  # arrays that are not columns

_IN_HALF_PRECISION = {"pdf", "embedding"}  # which most formats do not have


class CatalogueError(RuntimeError):
    """A folder holds no predictions that a catalogue can be made of; the message says what to do."""


@dataclass(frozen=True)
class Catalogue:
    """Ranks by their predictions/{rank}.npz; every table has the same columns.

    types: by column, in order, its type and the shape of one value; grid: of the column pdf.
    """

    files: tuple[Path, ...]
    types: dict[str, tuple[np.dtype[Any], tuple[int, ...]]]
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
            grids += [arrays["z_grid"]] if "z_grid" in arrays else []
            run_ids.add(str(arrays.get("run_id", "")))
        if any(not np.array_equal(grid, grids[0]) for grid in grids):
            raise CatalogueError(f"{place}: the ranks have different grids of p(z); their models differ")
        if len(run_ids) > 1:
            raise CatalogueError(f"{place} holds predictions of several runs: {', '.join(sorted(run_ids))}")
        types = {name: types[name] for name in ordered(set(types))}
        return cls(files, types, grids[0] if grids else None, run_ids.pop())

    @property
    def names(self) -> list[str]:
        return list(self.types)

    def tables(self) -> Iterator[dict[str, Array]]:
        """The columns of one rank after the other."""
        for file in self.files:
            columns = _columns(_arrays(file), file)
            count = len(columns["z_pred"])
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
    if "z_pred" not in arrays or arrays["z_pred"].ndim != 1:
        raise CatalogueError(f"{file} is not what a rank writes: it has no column z_pred")
    return arrays


def _columns(arrays: dict[str, Array], file: Path) -> dict[str, Array]:
    """Every array with a row per galaxy, in single precision or better, and the galaxies' places."""
    count = len(arrays["z_pred"])
    columns = {name: array for name, array in arrays.items() if name not in _PER_RUN}
    wrong = [name for name, array in columns.items() if array.ndim == 0 or len(array) != count]
    if wrong:
        raise CatalogueError(f"{file}: {', '.join(wrong)} lacks a row for each of the {count} galaxies")
    for name in _IN_HALF_PRECISION & columns.keys():
        columns[name] = columns[name].astype(np.float32)
    files, rows = arrays.get("files"), arrays.get("rows")
    if files is not None and rows is not None and rows.sum() == count and len(files) == len(rows):
        columns["file"] = np.repeat(files, rows)
        columns["row"] = np.concatenate([*(np.arange(one) for one in rows), np.empty(0, np.int64)])
    return columns


def _joint(first: np.dtype[Any], second: np.dtype[Any]) -> np.dtype[Any]:
    """A type that holds the values of both exactly: text for whole numbers that numpy would make floats."""
    joint = np.promote_types(first, second)
    return np.dtype("U20") if joint.kind == "f" and {first.kind, second.kind} <= set("iu") else joint


def _missing(count: int, kind: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    """NaN, '' or 0, in a rank that lacks a column."""
    return np.full((count, *shape), np.nan if kind.kind == "f" else np.zeros((), kind)[()], kind)
