"""Redshifts as the body of an HTTP response: CSV, or a JSON object per line."""

from __future__ import annotations

import csv
import io
import json
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

Table = dict[str, NDArray[Any]]
"""Columns (N,) by name."""

CSV, JSON_LINES = "text/csv", "application/jsonlines"
_TYPES = {
    CSV: CSV,
    JSON_LINES: JSON_LINES,
    "application/x-ndjson": "application/x-ndjson",
    "*/*": CSV,
    "text/*": CSV,
    "application/*": JSON_LINES,
}
OFFERED = "text/csv, application/jsonlines or application/x-ndjson"


def chosen(accept: str) -> str | None:
    """The content type for a header `Accept`; None if it accepts none of ours (RFC 9110, 12.5.1)."""
    weighted = []
    for place, entry in enumerate(accept.lower().split(",")):
        kind, *parameters = (part.strip() for part in entry.split(";"))
        quality = next((part[2:] for part in parameters if part.startswith("q=")), "1")
        weight = float(quality) if re.fullmatch(r"[01](\.[0-9]{0,3})?", quality) else 0.0
        if kind in _TYPES and weight > 0:
            weighted.append((-weight, place, _TYPES[kind]))
    return min(weighted)[2] if weighted else None


def written(table: Table, kind: str) -> bytes:
    """The table in one of the OFFERED types. An unknown redshift is empty in CSV and null in JSON."""
    columns = [_shortest(column) for column in table.values()]
    rows = zip(*columns, strict=True)
    if kind == CSV:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(table)
        writer.writerows(rows)
        return text.getvalue().encode()
    lines = (json.dumps(dict(zip(table, row, strict=True)), allow_nan=False) for row in rows)
    return "".join(f"{line}\n" for line in lines).encode()


def _shortest(column: NDArray[Any]) -> list[Any]:
    """The column as Python's values: for a float32 the shortest one that rounds to it; None for NaN."""
    if column.dtype.kind != "f":
        return list(column.tolist())
    return [None if np.isnan(value) else float(str(value)) for value in column]
