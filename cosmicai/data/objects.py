"""Identifiers, positions and kept columns of a source, as partitions hold them next to their tensors."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cosmicai.data import values
from cosmicai.data.sources.base import Array
from inference.contract.names import POSITIONS, is_name, is_reserved
from inference.data.objects import (
    MOST_BYTES,
    MOST_CHARACTERS,
    MOST_COLUMNS,
    NUMBERS,
    RECORD,
    Objects,
    joined,
)

_TIME = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip can hold: the same galaxies give the same bytes


class ObjectsError(ValueError):
    """A column cannot be kept; the message names the reason."""


def column_name(source_name: str, used: Sequence[str]) -> str:
    """The name of a kept column in partitions and results. Raises ObjectsError if another one has it."""
    name = re.sub(r"[^A-Za-z0-9_.+-]", "_", source_name)[:57]
    if is_reserved(name) or name.lower() in POSITIONS:
        name = f"source_{name}"
    if not is_name(name) or name.lower() in {one.lower() for one in used}:
        raise ObjectsError(
            f"{source_name} would be the column {name or 'without a name'}, and there is one already"
        )
    return name


def kept(column: Array) -> Array:
    """A column's values as they are, of one of the types that a partition holds.

    Whole numbers and true or false with missing ones become text, where '' is missing. Raises ObjectsError.
    """
    masked = np.ma.getmaskarray(column) if np.ma.isMaskedArray(column) else None
    plain = np.asarray(np.ma.getdata(column)).reshape(len(column))
    missing = masked is not None and bool(masked.any())
    if plain.dtype.kind == "f":
        exact = np.float32 if plain.dtype.itemsize <= 4 else np.float64
        result = plain.astype(exact)
        if masked is not None and missing:
            result[masked.reshape(-1)] = np.nan
        return result
    if plain.dtype.kind in "biu":
        unsigned = plain.dtype.kind == "u" and plain.dtype.itemsize == 8
        result = plain.astype(np.bool_ if plain.dtype.kind == "b" else np.uint64 if unsigned else np.int64)
    else:
        try:
            result = values.exact(plain)
        except values.ValueFault as error:
            raise ObjectsError(str(error)) from error
    if masked is not None and missing:
        result = result.astype(np.str_)
        result[masked.reshape(-1)] = ""
    return result


def concatenated(blocks: Sequence[Objects]) -> Objects:
    """The columns of consecutive blocks of one source."""
    return joined([(block, len(block["id"])) for block in blocks])


def append(body: io.BytesIO, columns: Objects) -> None:
    """Adds the record to a file that torch.save has written. Raises ObjectsError beyond the record's bounds."""
    if len(columns) > MOST_COLUMNS:
        raise ObjectsError(f"{len(columns)} columns are to be kept, but at most {MOST_COLUMNS} can be")
    stored = {name: _stored(name, column) for name, column in columns.items()}
    table = np.empty(len(columns["id"]), [(name, column.dtype) for name, column in stored.items()])
    for name, column in stored.items():
        table[name] = column
    content = io.BytesIO()
    np.lib.format.write_array(content, table, version=(1, 0), allow_pickle=False)
    size = content.getbuffer().nbytes
    if size > MOST_BYTES:
        raise ObjectsError(
            f"identifiers and kept columns of a partition have {size >> 20} MB, more than "
            f"{MOST_BYTES >> 20}: keep fewer columns, or give a smaller --partition-mb"
        )
    with zipfile.ZipFile(body, "a") as archive:
        root = archive.infolist()[0].filename.partition("/")[0]
        archive.writestr(zipfile.ZipInfo(f"{root}/{RECORD}", _TIME), content.getvalue())


def _stored(name: str, column: Array) -> NDArray[np.generic]:
    if column.dtype.kind == "U":
        width = max(1, int(np.char.str_len(column).max(initial=1)))
        if width > MOST_CHARACTERS:
            raise ObjectsError(f"{name} holds a text of {width} characters, more than {MOST_CHARACTERS}")
        return column.astype(f"<U{width}")
    little = column.astype(column.dtype.newbyteorder("<"))
    if little.dtype.str not in NUMBERS:
        raise ObjectsError(f"{name} holds {column.dtype}, which cannot be kept")
    return little
