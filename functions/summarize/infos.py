"""What is read from rank infos, whoever wrote them: the engine, or a user's own script.

A script decides what it writes, so nothing is assumed here of a field's presence or type.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

Json = dict[str, Any]

ENGINE, UNKNOWN = "engine", "unknown"
_BATCHES = (("num_batches", "batch_size"), ("number of batches", "batch size"))  # the second as in Results.json
_MOST_SAMPLES = 2**53  # more is no count of galaxies


def figure(info: Json, name: str) -> float | None:
    """The finite number under a name; None for anything else."""
    value = info.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return value if math.isfinite(value) else None
    except OverflowError:  # a whole number beyond all floats
        return None


def is_result(content: Any, run_id: str) -> bool:
    """Whether an object is a rank's finished info of this run.

    A script may write an object of the same key while it runs; until its rank has ended, that object lacks
    what the rank itself measures.
    """
    return (
        isinstance(content, dict)
        and content.get("run_id") == run_id
        and isinstance(content.get("rank"), int)
        and figure(content, "duration (seconds)") is not None
        and figure(content, "memory_limit (MB)") is not None
    )


def samples(info: Json) -> tuple[int | None, str]:
    """How many images a rank computed, and the field that says so.

    Batches × batch size is an upper bound: the last batch may be smaller.
    """
    count = _count(info, "num_samples")
    if info.get("engine") != "script":
        return count, ENGINE if count is not None else UNKNOWN
    if count is not None:
        return count, "num_samples"
    for batches, size in _BATCHES:
        factors = _count(info, batches), _count(info, size)
        if factors[0] is not None and factors[1] is not None:
            return factors[0] * factors[1], f"{batches} * {size}"
    return None, UNKNOWN


def _count(info: Json, name: str) -> int | None:
    """A whole number from 0, also as text: a script may write what it read from its environment."""
    value = info.get(name)
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,16}", value):
        return int(value)
    number = figure(info, name)
    return int(number) if number is not None and 0 <= number <= _MOST_SAMPLES and number % 1 == 0 else None


def counted(infos: Iterable[Json]) -> tuple[int | None, dict[str, int]]:
    """The images of all ranks that say it, None where none does; and how many ranks were counted by what."""
    total, known, sources = 0, 0, Counter[str]()
    for info in infos:
        count, source = samples(info)
        sources[source] += 1
        if count is not None:
            total, known = total + count, known + 1
    return (None if sources and not known else total), dict(sources)


def is_exact(sources: dict[str, int]) -> bool:
    """Whether every rank has said its number of images."""
    return set(sources) <= {ENGINE, "num_samples"}


def images_in_words(total: int | None, sources: dict[str, int]) -> tuple[str, str]:
    """The images of a run as text, and how a script's ranks were counted ('' for the engine's)."""
    if total is None:
        return UNKNOWN, "the script wrote neither num_samples, nor num_batches and batch_size"
    if set(sources) <= {ENGINE}:
        return f"{total:,}", ""
    fields = [f"{name} of {_ranks(ranks)}" for name, ranks in sources.items() if name not in (ENGINE, UNKNOWN)]
    silent = [f"unknown for {_ranks(sources[UNKNOWN])}"] if UNKNOWN in sources else []
    at_most = "at most " if any("*" in name for name in sources) else ""
    return f"{at_most}{total:,}", ", ".join(fields + silent)


def images_text(total: int | None, sources: dict[str, int]) -> str:
    """Both in one: 'at most 1,024 (num_batches * batch_size of 2 ranks)'."""
    number, how = images_in_words(total, sources)
    return f"{number} ({how})" if how else number


def _ranks(count: int) -> str:
    return f"{count:,} rank" if count == 1 else f"{count:,} ranks"
