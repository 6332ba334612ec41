"""How many images the ranks of a run have computed, and how that is known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from .rank_info import RankInfo

ENGINE, UNKNOWN = "engine", "unknown"


def samples(info: RankInfo) -> tuple[int | None, str]:
    """How many images a rank computed, and the field that states it.

    Batches × batch size is an upper bound: the last batch may be smaller.
    """
    count = info.num_samples
    if info.engine != "script":
        return count, ENGINE if count is not None else UNKNOWN
    if count is not None:
        return count, "num_samples"
    if info.num_batches is not None and info.batch_size is not None:
        return info.num_batches * info.batch_size, "num_batches * batch_size"
    if info.number_of_batches is not None and info.historic_batch_size is not None:
        return info.number_of_batches * info.historic_batch_size, "number of batches * batch size"
    return None, UNKNOWN


def counted(infos: Iterable[RankInfo]) -> tuple[int | None, dict[str, int]]:
    """The images of all ranks that report a number, None if none does; and {how it is known: ranks}.

    Copies do not count: their images are those of other ranks.
    """
    total, known, sources = 0, 0, Counter[str]()
    for info in infos:
        if info.copy is not None:
            continue
        count, source = samples(info)
        sources[source] += 1
        if count is not None:
            total, known = total + count, known + 1
    return (None if sources and not known else total), dict(sources)


def copied(infos: Iterable[RankInfo]) -> int:
    """The images that copies have computed again."""
    return sum(info.num_samples or 0 for info in infos if info.copy is not None)


def are_redshifts(infos: Iterable[RankInfo]) -> bool:
    """Whether the model gives redshifts; an imported network may give other things alone."""
    return not any(info.columns and "z_pred" not in info.columns for info in infos)


def is_exact(sources: dict[str, int]) -> bool:
    """Whether every rank has reported its exact number of images."""
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
