"""Names of columns in partitions and predictions. Uses only the standard library."""

from __future__ import annotations

import re

NAME = re.compile(r"[A-Za-z0-9_.+-]{1,64}")
METADATA = "column_metadata"
"""The array of predictions with the units, UCDs and descriptions of an imported network's columns, as JSON."""
COPY = "copy_number"
"""Of predictions and rank infos: the number of the copy, from 1, which copies alone write."""
RESERVED = frozenset(
    {"embedding", "file", "files", "flags", "index", "pdf", "pit", "row", "rows", "run_id", METADATA, COPY}
)
"""Names that predictions have for something else, in lower case; those that begin with z_ are too."""
POSITIONS = ("id", "ra", "dec")
"""Columns of a partition whose meaning is fixed."""


def is_name(name: str) -> bool:
    """Whether a column may be called so."""
    return NAME.fullmatch(name) is not None and not is_reserved(name)


def is_reserved(name: str) -> bool:
    return name.lower() in RESERVED or name.lower().startswith("z_")
