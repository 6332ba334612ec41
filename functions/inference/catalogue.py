"""A rank's part of a catalogue that grows."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

from .contract.event import RankEvent
from .contract.growing import Part, arrival_folder, arrival_of
from .data.storage import Storage
from .table import Array, about, columns, count_of, grid_of, metadata_of, parquet, types

_LONGEST_NAME = 80  # characters of a run's id in a file's name


def write_part(event: RankEvent, storage: Storage, arrays: Mapping[str, Array], network: str | None) -> Part:
    """Writes the arrays of predictions/{rank}.npz as Parquet to the event's catalogue.

    Its name ends in a hash of its content, as files of a table never change: a rank that is tried again, or
    started twice, writes the same file, or another one that nobody refers to. Raises TableError or ObjectError.
    """
    table, metadata, name = columns(arrays), metadata_of(arrays), ""
    kinds, rows = types(table), count_of(table)
    if rows:
        body = parquet(table, about(arrays), metadata)
        run = re.sub("[^A-Za-z0-9_.-]", "-", event.run_id)[:_LONGEST_NAME]
        name = f"{run}-{event.rank:05}-{hashlib.sha256(body).hexdigest()[:16]}.parquet"
        folder = arrival_folder(str(event.catalogue), arrival_of(event.data_bucket, event.data_prefix))
        storage.write(event.bucket, f"{folder}/{name}", body, "application/vnd.apache.parquet")
    return Part(
        file=name,
        rows=rows,
        columns=kinds,
        z_grid=grid_of(arrays),
        network=network or "",
        metadata={column: one.metadata() for column, one in metadata.items()},
    )
