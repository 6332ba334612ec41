"""What is read from rank infos, whoever wrote them: the engine, or a user's own script.

A script decides what it writes, so nothing is assumed here of a field's presence or type.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

from .flags import NAMES
from .limits import PHASES
from .pricing import BILLED_AS, GB_SECOND
from .untrusted import load, shown

Json = dict[str, Any]

MOST_BYTES = 1 << 20  # of a rank info; the largest state of metrics takes a third of it
_MOST_DIGITS = 120  # of a whole number; the sums of a state of metrics have up to that
LEFT_OUT = "left_out"  # the field of a rank info that names the wrong fields which are not in it
_LARGEST_FIGURE = 1e15  # of seconds, megabytes, rates: more is no measurement, and sums would overflow
_FIGURES = (
    *(f"{phase} (seconds)" for phase in PHASES),
    *("duration (seconds)", "ended (unix seconds)", "total_cpu_time (seconds)", "total_gpu_time (seconds)"),
    *("execution_time (seconds/batch)", "sample_persec", "throughput_bps", "memory_limit (MB)", "threads"),
    *(f"total_{what}_memory (MB)" for what in ("cpu", "gpu", "process", "image", "model")),
    *("library_overhead_memory (MB)", "s3_total_time", "s3_avg_time", "s3_min_time", "s3_max_time"),
)
_MEASURES = ("MAE", "MSE", "bias", "precision (NMAD)", "R2", "outlier fraction")
_COUNTS = ("num_samples", "num_batches", "batch_size", "number of batches", "batch size", "s3_num_requests")
_TEXTS = ("engine", "precision", "precision_reason", "device", "instructions", "result_path")

ENGINE, UNKNOWN = "engine", "unknown"
_BATCHES = (("num_batches", "batch_size"), ("number of batches", "batch size"))  # the second as in Results.json
_MOST_TOLD = 20  # faults of a rank info that its rank has named
_MOST_SAMPLES = 2**53  # more is no count of galaxies


def figure(info: Json, name: str) -> float | None:
    """The number under a name; None for anything else, and for one beyond any measurement."""
    value = info.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if abs(value) <= _LARGEST_FIGURE else None  # which NaN is not


def parse(body: bytes) -> tuple[Any, list[str]]:
    """A rank info or a record of a failure, and what was left out of it. Raises UntrustedError."""
    return load(body, MOST_BYTES, _MOST_DIGITS)


def checked(info: Json, faults: Iterable[str] = ()) -> Json:
    """A rank info without the fields whose values have another type or are out of bounds.

    What was left out, `faults` and what the rank itself has left out are named in its field LEFT_OUT.
    """
    wrong = {name: what for name, what in _expectations(info) if name in info}
    kept = {name: value for name, value in info.items() if name not in wrong and name != LEFT_OUT}
    earlier = info.get(LEFT_OUT)
    told = [one for one in earlier if isinstance(one, str)][:_MOST_TOLD] if isinstance(earlier, list) else []
    told += [*faults, *(f"{name}: {shown(info[name])} is not {what}" for name, what in wrong.items())]
    return {**kept, LEFT_OUT: told} if told else kept


def _expectations(info: Json) -> Iterable[tuple[str, str]]:
    """(field, what it must be) of every field that is something else; null is never wrong."""
    given = {name: value for name, value in info.items() if value is not None}
    for name in _FIGURES:
        value = figure(info, name)
        if name in given and (value is None or value < 0):
            yield name, "a number from 0 within bounds"
    for name in _MEASURES:
        if name in given and figure(info, name) is None:
            yield name, "a number within bounds"
    for name in _COUNTS:
        if name in given and _count(info, name) is None:
            yield name, "a whole number from 0"
    for name in _TEXTS:
        if not isinstance(given.get(name, ""), str):
            yield name, "a text"
    if not isinstance(given.get("cold_start", True), bool):
        yield "cold_start", "true or false"
    if given.get("architecture", "arm64") not in tuple(GB_SECOND):
        yield "architecture", f"one of {', '.join(GB_SECOND)}, so the rank is billed as {BILLED_AS}"
    flags = given.get("flags", dict.fromkeys(NAMES, 0))
    if not isinstance(flags, dict) or any(_count(flags, name) is None for name in NAMES):
        yield "flags", f"the numbers of galaxies with {', '.join(NAMES)}"
    paths = given.get("data_path", "")
    if not isinstance(paths, str) and not (
        isinstance(paths, list) and all(isinstance(path, str) for path in paths)
    ):
        yield "data_path", "a key or a list of keys"


def is_result(content: Any, run_id: str, rank: int | None = None) -> bool:
    """Whether an object is a rank's finished info of this run; rank: by the object's key.

    A script may write an object of the same key while it runs; until its rank has ended, that object lacks
    what the rank itself measures.
    """
    return (
        isinstance(content, dict)
        and content.get("run_id") == run_id
        and type(content.get("rank")) is int
        and rank in (None, content["rank"])
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
