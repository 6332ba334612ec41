"""What a rank computed as the columns of a table: in Parquet for a catalogue that grows.

arro3 writes the Parquet files because it is a fifth of pyarrow's size (docs/benchmarks.md). It is imported
only where a rank writes such a file.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .contract.columns import DECIMAL, PARTITION, STORED, Column, described, ordered, stored_type, taken_name
from .contract.names import COPY, METADATA

if TYPE_CHECKING:
    from arro3.core import Array as ArrowArray
    from arro3.core import DataType

Array = NDArray[Any]

EVERY_RANKS = ("z_pred", "flags")
"""Columns of which each rank writes one at least: an imported network may give no redshift."""
_PER_RANK = ("index", "files", "rows", "run_id", "z_grid", METADATA, COPY)  # arrays that are not columns
_IN_HALF_PRECISION = {"pdf", "embedding"}  # which most formats do not have


class TableError(ValueError):
    """A rank's columns cannot be part of a catalogue; the message names the column and says what to do."""


def columns(arrays: Mapping[str, Array]) -> dict[str, Array]:
    """The columns of predictions/{rank}.npz: every array with a row per galaxy, and the galaxies' places.

    Half precision becomes single. Raises ValueError for an array that has another number of rows.
    """
    count = count_of(arrays)
    per_galaxy = {name: array for name, array in arrays.items() if name not in _PER_RANK}
    wrong = [name for name, array in per_galaxy.items() if array.ndim == 0 or len(array) != count]
    if wrong:
        raise ValueError(f"{', '.join(wrong)} lacks a row for each of the {count} galaxies")
    for name in _IN_HALF_PRECISION & per_galaxy.keys():
        per_galaxy[name] = per_galaxy[name].astype(np.float32)
    files, rows = arrays.get("files"), arrays.get("rows")
    if files is not None and rows is not None and rows.sum() == count and len(files) == len(rows):
        per_galaxy["file"] = np.repeat(files, rows)
        per_galaxy["row"] = np.concatenate([*(np.arange(one) for one in rows), np.empty(0, np.int64)])
    return per_galaxy


def metadata_of(arrays: Mapping[str, Array]) -> dict[str, Column]:
    """What an imported network's mapping says about its columns; {} for AstroMAE. Raises ValueError."""
    if METADATA not in arrays:
        return {}
    content = json.loads(str(arrays[METADATA]))
    if not isinstance(content, dict):
        raise ValueError(f"{METADATA} is not a JSON object")
    return {name: Column.of(one) for name, one in content.items() if name in arrays}


def count_of(arrays: Mapping[str, Array]) -> int:
    """The galaxies of a rank."""
    return next(len(arrays[name]) for name in EVERY_RANKS if name in arrays)


def types(table: Mapping[str, Array]) -> dict[str, str]:
    """Delta Lake's type of each column (N,), `array<…>` of one (N, M), in the order of a catalogue.

    Raises TableError for a column that has no place in a catalogue.
    """
    return {name: _type(name, table[name]) for name in ordered(set(table))}


def _type(name: str, column: Array) -> str:
    if name.lower() == PARTITION:
        raise TableError(taken_name(name))
    kind = stored_type(f"{column.dtype.kind}{column.dtype.itemsize}")
    return f"array<{kind}>" if column.ndim > 1 else kind


def parquet(table: Mapping[str, Array], about: Mapping[str, str], metadata: Mapping[str, Column]) -> bytes:
    """A Parquet file of the columns, with units, UCDs and descriptions in its schema.

    about: of all columns; metadata: of those that not every catalogue has.
    """
    from arro3.core import Field, RecordBatch, Schema
    from arro3.io import write_parquet

    arrays, fields = [], []
    for name in ordered(set(table)):
        arrays.append(_arrow(table[name]))
        fields.append(
            Field(name, arrays[-1].type, nullable=True, metadata=described(name, metadata).metadata())
        )
    batch = RecordBatch.from_arrays(arrays, schema=Schema(fields, metadata=dict(about)))
    body = io.BytesIO()
    write_parquet(batch, body, compression="zstd(1)")
    return body.getvalue()


def _arrow(column: Array) -> ArrowArray:
    """(N, M) becomes lists of M values."""
    from arro3.core import Array as ArrowArray
    from arro3.core import DataType, Field, list_array

    if column.ndim > 1:
        width = int(np.prod(column.shape[1:]))
        values = _arrow(column.reshape(-1))
        offsets = np.arange(len(column) + 1, dtype=np.int32) * np.int32(width)
        kind: DataType = DataType.list(Field("element", values.type, nullable=True))
        return list_array(ArrowArray.from_numpy(offsets), values, type=kind)
    if column.dtype.kind == "U":
        return ArrowArray(column.tolist(), type=DataType.string())
    stored, numpy_type = STORED[f"{column.dtype.kind}{column.dtype.itemsize}"]
    made = ArrowArray.from_numpy(np.ascontiguousarray(column, numpy_type))
    return made.cast(DataType.decimal128(20, 0)) if stored == DECIMAL else made


def about(arrays: Mapping[str, Array]) -> dict[str, str]:
    """The metadata of a table of these arrays: the run, and as JSON the redshifts at which pdf is given."""
    grid = grid_of(arrays)
    return {"run_id": str(arrays["run_id"]), **({"z_grid": json.dumps(grid)} if grid else {})}


def grid_of(arrays: Mapping[str, Array]) -> list[float]:
    """The redshifts at which pdf is given; [] where there is no pdf."""
    return [float(value) for value in arrays["z_grid"]] if "z_grid" in arrays else []
