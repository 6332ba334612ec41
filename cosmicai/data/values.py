"""Numbers from what columns hold: text, masked values, other byte orders; and identifiers, exactly."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# Text that means no value: astropy, pandas, topcat, SQL clients and people write it like this.
BLANKS = frozenset({"", "null", "none", "n/a", "na", "--", "-", "nodata", "masked"})


class ValueFault(ValueError):
    """A value is not a number; the message names it and its row in the array."""


def numbers(values: Array) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The values as float64, NaN if missing, and which are missing: by the file's mask or by blank text.

    Raises ValueFault for text that is neither a number nor blank, and for values that are not real numbers.
    """
    masked = np.ma.getmaskarray(values).copy() if np.ma.isMaskedArray(values) else np.zeros(values.shape, bool)
    plain = np.asarray(np.ma.getdata(values))
    if plain.dtype.kind in "USO":
        result, blank = _of_text(plain)
        masked |= blank
    elif plain.dtype.kind in "fiub":
        result = plain.astype(np.float64)
    else:
        raise ValueFault(f"holds {plain.dtype}, not numbers")
    result[masked] = np.nan
    return result, masked


def _of_text(values: Array) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    flat = [
        (one.decode("ascii", "replace") if isinstance(one, bytes) else str(one)).strip()
        for one in values.reshape(-1)
    ]
    result, blank = np.empty(len(flat)), np.zeros(len(flat), bool)
    for row, text in enumerate(flat):
        blank[row] = text.lower() in BLANKS
        try:
            result[row] = np.nan if blank[row] else float(text)
        except ValueError:
            raise ValueFault(f"holds {text[:40]!r} in row {row}, which is not a number") from None
    return result.reshape(values.shape), blank.reshape(values.shape)


def identifiers(values: Array) -> Array:
    """As `exact`. Raises ValueFault for an empty text, too."""
    result = exact(values)
    if result.dtype.kind == "U":
        empty = np.char.str_len(np.char.strip(result)).reshape(-1) == 0
        if empty.any():
            raise ValueFault(f"has no identifier in row {int(np.argmax(empty))}")
    return result


def exact(values: Array) -> Array:
    """int64 or text, as they are; whole numbers in floating point as int64 if that is exact.

    Raises ValueFault for a missing one and for floating-point numbers that are not exact.
    """
    if np.ma.isMaskedArray(values) and np.ma.getmaskarray(values).any():
        raise ValueFault(f"has no identifier in row {int(np.argmax(np.ma.getmaskarray(values)))}")
    plain = np.asarray(np.ma.getdata(values))
    if plain.dtype.kind == "S":
        try:
            return np.char.decode(plain, "utf-8")
        except UnicodeDecodeError as error:
            raise ValueFault(f"holds bytes that are not UTF-8 ({error.reason})") from error
    if plain.dtype.kind == "f":
        whole = (
            np.isfinite(plain)
            & (plain == np.round(plain))
            & (np.abs(plain) < 2.0 ** np.finfo(plain.dtype).nmant)
        )
        if not whole.all():
            row = int(np.argmin(whole))
            raise ValueFault(
                f"holds {plain[row]!r} in row {row}: floating-point numbers do not hold it exactly"
            )
        return plain.astype(np.int64)
    if plain.dtype.kind == "u" and plain.dtype.itemsize == 8:
        return plain.astype(np.uint64)
    return plain.astype(np.int64) if plain.dtype.kind in "iu" else plain.astype(np.str_)
