"""Images and a catalogue whose rows are the same galaxies, in the same order."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from cosmicai.data import values
from cosmicai.data.sources.base import IDS, Array, Column, SourceError, Table


def side_by_side(table: Table, catalogue: Table) -> Table:
    """The columns of both. Identifiers that both have are taken once.

    Raises SourceError if they differ: the rows are then not in the same order.
    """
    own = {column.name.lower(): column for column in table.columns if not column.shape}
    shared = [column for column in catalogue.columns if not column.shape and column.name.lower() in own]
    shared = [column for column in shared if column.name.lower() in IDS]
    for column in shared:
        _check_same(table, own[column.name.lower()], catalogue, column)
    labels = ", ".join(column.label for column in shared)
    note = (
        f"rows of {catalogue.path.name} have the {labels} of those of {table.path.name}"
        if shared
        else f"rows of {catalogue.path.name} are assumed to be in the order of {table.path.name}, because no "
        "identifier is in both"
    )
    rest = tuple(column for column in catalogue.columns if column not in shared)
    return replace(table, columns=(*table.columns, *rest), notes=(*table.notes, *catalogue.notes, note))


def _check_same(table: Table, here: Column, catalogue: Table, there: Column) -> None:
    if here.rows != there.rows:
        raise SourceError(
            f"{table.path} has {here.rows} rows, but {catalogue.path} has {there.rows}: give a catalogue of "
            "these galaxies, in their order"
        )
    one, two = (_identifiers(path, column) for path, column in ((table.path, here), (catalogue.path, there)))
    different = np.flatnonzero(one != two)
    if len(different):
        row = int(different[0])
        raise SourceError(
            f"{len(different)} of {here.rows} rows of {catalogue.path} are not those of {table.path}: in row "
            f"{row} {there.label} is {two[row]}, but {one[row]} in the images' file: put the catalogue in "
            "the order of the images"
        )


def _identifiers(path: Path, column: Column) -> Array:
    try:
        return np.char.strip(values.identifiers(column.read(0, column.rows)).reshape(-1).astype(np.str_))
    except values.ValueFault as error:
        raise SourceError(f"{path}: identifiers {column.label}: {error}") from error
