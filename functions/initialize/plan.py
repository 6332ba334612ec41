"""Which rank gets which partition files, and the events that the Distributed Map reads."""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from .contract.event import DEFAULT_OUTPUTS, RankEvent
from .contract.limits import MOST_RANKS
from .contract.run_records import Run
from .contract.s3 import repeated
from .payload import READY, cut

_MOST_NAMES = 5  # of files, for each reason why they are not taken
STAGE = ".partial"
"""Folder in which a new set of partitions waits until it is complete, below the one that it is for."""
MOVING = f"{STAGE}/moving"
"""There while a set is being put in its place: what lies there is a part of one, for as long."""
_OURS = (READY.strip("/"), "photometry.json", "stamps.png")  # beside the partitions, by our own commands


class PlanError(ValueError):
    """The data and the payload do not go together; the message says why and what to do."""


@dataclass(frozen=True)
class PartitionFile:
    """One object of the data prefix: its key and its size in bytes."""

    key: str
    size: int


@dataclass(frozen=True)
class Listing:
    """What lies in a folder of partitions: what a run takes, in natural order, and the rest by the reason.

    is_part: whether the set is incomplete, because the command that writes it still runs or was cut off.
    """

    files: list[PartitionFile]
    not_taken: dict[str, list[str]]
    is_part: bool = False

    def note(self, place: str) -> str | None:
        """A sentence that counts and names what a run does not take of `place`; None if that is nothing."""
        count = sum(map(len, self.not_taken.values()))
        if not count:
            return None
        reasons = "; ".join(f"{reason}: {_named(names)}" for reason, names in sorted(self.not_taken.items()))
        return f"{count:,} {'file is' if count == 1 else 'files are'} not taken of {place} ({reasons})"


def natural(key: str) -> list[tuple[int, int | str]]:
    """Sort key that puts 2.pt before 10.pt."""
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in re.split(r"(\d+)", key)]


def partitions_among(found: Iterable[PartitionFile], start: int) -> Listing:
    """What a run takes of the files in a folder, nested ones too; `start`: where keys continue below it.

    It takes what ends in .pt, unless it is empty, or hidden like macOS's ._1.pt.
    """
    files: list[PartitionFile] = []
    not_taken: dict[str, list[str]] = {}
    is_part = False
    for file in sorted(found, key=lambda file: natural(file.key)):
        name = file.key[start:]
        if name in _OURS or not name or name.endswith("/"):  # folders, as S3's console makes them
            continue
        is_part |= name == MOVING
        reason = _why_not(name, file.size)
        if reason is None:
            files.append(file)
        else:
            not_taken.setdefault(reason, []).append(name)
    return Listing(files, not_taken, is_part)


def part_of_a_set(place: str) -> str:
    """The sentence that refuses a folder of which a listing says that it is_part."""
    return (
        f"{place} holds a part of a set of partitions: the command that writes it still runs, or was cut off; "
        "wait until it has ended, or give the same command again, which finishes it"
    )


def _why_not(name: str, size: int) -> str | None:
    if any(part.startswith(".") for part in name.split("/")):
        return "hidden"
    if not name.endswith(".pt"):
        return "does not end in .pt"
    return None if size else "empty"


def _named(names: list[str]) -> str:
    more = f" and {len(names) - _MOST_NAMES:,} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(map(cut, names[:_MOST_NAMES])) + more


def list_partitions(s3: Any, bucket: str, prefix: str) -> Listing:
    """What lies under the prefix, however much it is.

    Raises PlanError for a bucket that does not exist or may not be read, and for a prefix without partitions or
    with a part of a set.
    """

    def listed() -> list[PartitionFile]:
        pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/")
        return [PartitionFile(o["Key"], o["Size"]) for page in pages for o in page.get("Contents", [])]

    try:
        found = repeated(listed)
    except s3.exceptions.ClientError as error:
        code = error.response["Error"]["Code"]
        raise PlanError(
            f"data_bucket: {bucket} cannot be listed ({code}); give a bucket that exists and that this "
            "deployment may read"
        ) from error
    listing = partitions_among(found, len(prefix) + 1)
    if listing.is_part:
        raise PlanError(f"data_prefix: {part_of_a_set(f's3://{bucket}/{prefix}/')}")
    if not listing.files:
        note = listing.note("it")
        raise PlanError(
            f"data_prefix: s3://{bucket}/{prefix}/ holds no .pt file among its {len(found)} objects; upload "
            "partitions there or correct the prefix" + (f"; {note}" if note else "")
        )
    return listing


def deal(files: list[PartitionFile], world_size: int) -> list[list[PartitionFile]]:
    """Files for each rank, balanced by bytes: the largest file left goes to the rank with least so far.

    There are never more ranks than files. One rank per file keeps the natural order. Raises PlanError for more
    ranks than MOST_RANKS.
    """
    world_size = min(world_size, len(files))
    if world_size > MOST_RANKS:
        raise PlanError(
            f"world_size: {len(files)} partition files would be {world_size} ranks, of which one run has "
            f"{MOST_RANKS} at most; give a world_size up to that, and a rank reads several files"
        )
    if world_size == len(files):
        return [[file] for file in files]
    hands: list[list[PartitionFile]] = [[] for _ in range(world_size)]
    least = [(0, 0, rank) for rank in range(world_size)]  # bytes, files, rank
    for file in sorted(files, key=lambda file: -file.size):
        held, count, rank = heapq.heappop(least)
        hands[rank].append(file)
        heapq.heappush(least, (held + file.size, count + 1, rank))
    return [sorted(hand, key=lambda file: natural(file.key)) for hand in hands]


def data_map(hands: Iterable[list[PartitionFile]]) -> dict[str, str | list[str]]:
    """rank -> key, or list of keys where a rank has several, as run.json and payload.json carry it."""
    return {
        str(rank): hand[0].key if len(hand) == 1 else [file.key for file in hand]
        for rank, hand in enumerate(hands)
    }


def rank_events(run: Run, ranks: Iterable[int]) -> list[RankEvent]:
    """One event per rank for manifest.json."""
    payload, channel = run.payload, (run.collectives or {})["channel"]

    def event(rank: int) -> RankEvent:
        keys = (run.data_map or {})[str(rank)]
        return RankEvent(
            bucket=payload["bucket"],
            object_type=payload["object_type"],
            script_folder=payload.get("S3_object_name"),
            script=payload.get("script"),
            world_size=run.world_size,
            data_bucket=payload["data_bucket"],
            data_prefix=payload["data_prefix"],
            result_path=payload["result_path"],
            batch_size=payload["batch_size"],
            run_id=run.run_id,
            model=payload.get("model"),
            engine=payload["engine"],
            precision=payload["precision"],
            collectives=channel,
            save_predictions=payload["save_predictions"],
            max_bad_fraction=payload["max_bad_fraction"],
            outputs=tuple(payload.get("outputs", DEFAULT_OUTPUTS)),
            catalogue=payload.get("catalogue"),
            rank=rank,
            data_paths=(keys,) if isinstance(keys, str) else tuple(keys),
        )

    return [event(rank) for rank in ranks]
