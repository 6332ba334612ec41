"""Histograms and sums as JSON: written compactly, and read as untrusted input. Standard library only."""

from __future__ import annotations

import base64
import zlib
from array import array
from collections import Counter
from typing import Any

MOST_GALAXIES = 2**53
_MOST_PACKED = 1 << 20  # bytes of an unpacked histogram; the largest of ours takes a third of it


def required(content: Any, name: str) -> Any:
    if not isinstance(content, dict) or name not in content:
        raise ValueError(f"accuracy state: {name} is missing")
    value = content[name]
    return list(value) if isinstance(value, tuple) else value  # of a state that was never JSON text


def whole(content: Any, name: str, largest: int) -> int:
    value = required(content, name)
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > largest:
        raise ValueError(f"accuracy state: {name} is not a whole number within bounds")
    return value


def packed(counts: Counter[int]) -> str:
    flat = array("q", [number for item in sorted(counts.items()) for number in item])
    return base64.b64encode(zlib.compress(flat.tobytes(), 9)).decode()


def unpacked(text: Any, first: int, last: int) -> Counter[int]:
    """{bin: galaxies} with bins from `first` to `last`; raises ValueError."""
    try:
        unpacking = zlib.decompressobj()
        content = unpacking.decompress(base64.b64decode(text, validate=True), _MOST_PACKED)
        flat = array("q", content)
        counts = dict(zip(flat[::2], flat[1::2], strict=True))
    except (TypeError, ValueError, zlib.error) as error:
        raise ValueError(f"accuracy state: a histogram cannot be unpacked ({error})") from error
    if not unpacking.eof:
        raise ValueError("accuracy state: a histogram is cut off or too large")
    bounds = all(first <= index <= last and 0 <= count <= MOST_GALAXIES for index, count in counts.items())
    if not bounds or 2 * len(counts) != len(flat):
        raise ValueError("accuracy state: a histogram has bins or counts out of bounds")
    return Counter(counts)
