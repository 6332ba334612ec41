"""Which rank gets which partition files, and the events that the Distributed Map reads."""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from .contract.event import DEFAULT_OUTPUTS, RankEvent
from .contract.limits import most_ranks
from .contract.photometry import FILE as PHOTOMETRY
from .contract.run_records import Run
from .contract.s3 import repeated
from .payload import READY, cut

_MOST_NAMES = 5  # of files, for each reason why they are left out
STAGE = ".partial"
"""Subfolder of the target folder in which a new set of partitions waits until it is complete."""
MOVING = f"{STAGE}/moving"
"""Exists while a set is moved to its folder, which holds only part of the set until then."""
_OURS = (READY.strip("/"), "stamps.png")  # next to the partitions, by our own commands
_NO_PARTITION = "does not end in .pt"


class PlanError(ValueError):
    """The data and the payload do not fit together; the message says why and what to do."""


@dataclass(frozen=True)
class PartitionFile:
    """One object of the data prefix: its key and its size in bytes."""

    key: str
    size: int


@dataclass(frozen=True)
class Listing:
    """A folder of partitions: the files that a run reads, in natural order, and {reason: files left out}.

    is_part: whether the set is incomplete, because the command that writes it still runs or was interrupted.
    descriptions: the keys of each photometry.json among them.
    """

    files: list[PartitionFile]
    left_out: dict[str, list[str]]
    is_part: bool = False
    descriptions: list[str] = field(default_factory=list)

    def describing(self, files: list[PartitionFile]) -> list[str]:
        """The descriptions, except those in folders that hold only other partitions than these files."""
        others = _folders(self.files) - _folders(files)
        return [key for key in self.descriptions if key.rpartition("/")[0] not in others]

    def note(self, place: str) -> str | None:
        """A sentence that counts and names the files in `place` that a run leaves out; None without any."""
        count = sum(map(len, self.left_out.values()))
        if not count:
            return None
        reasons = "; ".join(f"{reason}: {named(names)}" for reason, names in sorted(self.left_out.items()))
        files, are = ("file", "is") if count == 1 else ("files", "are")
        return f"{count:,} {files} in {place} {are} left out ({reasons})"


def _folders(files: Iterable[PartitionFile]) -> set[str]:
    """Those of the files, and all above them."""
    parts = (file.key.split("/")[:-1] for file in files)
    return {"/".join(part[:depth]) for part in parts for depth in range(len(part) + 1)}


def natural(key: str) -> list[tuple[int, int | str]]:
    """Sort key that puts 2.pt before 10.pt."""
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in re.split(r"(\d+)", key)]


def partitions_among(listed: Iterable[PartitionFile], start: int) -> Listing:
    """Chooses the partitions among a folder's files, nested ones too; `start`: the length of the folder's key.

    A run reads files that end in .pt, except empty ones and hidden ones such as macOS's ._1.pt.
    """
    files: list[PartitionFile] = []
    left_out: dict[str, list[str]] = {}
    descriptions: list[str] = []
    is_part = False
    for file in sorted(listed, key=lambda file: natural(file.key)):
        name = file.key[start:]
        if name in _OURS or not name or name.endswith("/"):  # folders, as S3's console makes them
            continue
        is_part |= name == MOVING
        reason = _why_not(name, file.size)
        if reason is None:
            files.append(file)
        elif reason == _NO_PARTITION and name.rpartition("/")[2] == PHOTOMETRY:
            descriptions.append(file.key)
        else:
            left_out.setdefault(reason, []).append(name)
    return Listing(files, left_out, is_part, descriptions)


def part_of_a_set(place: str) -> str:
    """The message that refuses a folder whose Listing has is_part."""
    return (
        f"{place} holds an incomplete set of partitions: the command that writes it still runs or was "
        "interrupted; wait until it ends, or give the same command again to complete the set"
    )


def _why_not(name: str, size: int) -> str | None:
    if any(part.startswith(".") for part in name.split("/")):
        return "hidden"
    if not name.endswith(".pt"):
        return _NO_PARTITION
    return None if size else "empty"


def named(names: list[str]) -> str:
    """The first names, for a message, and how many more there are."""
    more = f" and {len(names) - _MOST_NAMES:,} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(map(cut, names[:_MOST_NAMES])) + more


def list_partitions(s3: Any, bucket: str, prefix: str) -> Listing:
    """The partitions under the prefix.

    Raises PlanError for a bucket that does not exist or may not be read, and for a prefix with no partitions or
    with an incomplete set.
    """

    def listed() -> list[PartitionFile]:
        pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/")
        return [PartitionFile(o["Key"], o["Size"]) for page in pages for o in page.get("Contents", [])]

    try:
        objects = repeated(listed)
    except s3.exceptions.ClientError as error:
        code = error.response["Error"]["Code"]
        raise PlanError(
            f"data_bucket: {bucket} cannot be listed ({code}); give a bucket that exists and that this "
            "deployment may read"
        ) from error
    listing = partitions_among(objects, len(prefix) + 1)
    if listing.is_part:
        raise PlanError(f"data_prefix: {part_of_a_set(f's3://{bucket}/{prefix}/')}")
    if not listing.files:
        note = listing.note("it")
        raise PlanError(
            f"data_prefix: s3://{bucket}/{prefix}/ holds no .pt file among its {len(objects)} objects; upload "
            "partitions there or correct the prefix" + (f"; {note}" if note else "")
        )
    return listing


def deal(
    files: list[PartitionFile], world_size: int, times: int = 1, on_batch: bool = False
) -> list[list[PartitionFile]]:
    """Files for each rank, balanced by bytes: the largest remaining file goes to the rank with least so far.

    There are never more ranks than files. One rank per file keeps the natural order. times: how often the same
    files are dealt; the ranks of the second and later times are copies of the first ones, in the same order.
    on_batch: whether the ranks are jobs of AWS Batch. Raises PlanError for more ranks than one run may have.
    """
    world_size, most = min(world_size, len(files)), most_ranks(on_batch)
    if world_size * times > most:
        raise PlanError(_too_many_ranks(world_size, len(files), times, most))
    return _dealt(files, world_size) * times


def _too_many_ranks(world_size: int, files: int, times: int, most: int) -> str:
    several = "and each rank reads several files"
    if times == 1:
        return (
            f"world_size: {world_size} ranks for {files} partition files are more than the {most} of one "
            f"run; give a world_size of at most {most}, {several}"
        )
    fewer = [f"a repeat_data of at most {most // world_size}"] if world_size <= most else []
    smaller = [f"a world_size of at most {most // times}, {several}"] if times <= most else []
    remedies = fewer + smaller or [f"a smaller repeat_data and world_size, whose product is at most {most}"]
    return (
        f"repeat_data: {times} times {world_size} ranks are more than the {most} of one run; give "
        f"{' or '.join(remedies)}"
    )


def _dealt(files: list[PartitionFile], world_size: int) -> list[list[PartitionFile]]:
    """Each file once."""
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
    """{rank: key, or list of keys if it has several}, as in run.json and payload.json."""
    return {
        str(rank): hand[0].key if len(hand) == 1 else [file.key for file in hand]
        for rank, hand in enumerate(hands)
    }


def rank_events(run: Run, ranks: Iterable[int]) -> Iterator[RankEvent]:
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
            originals=run.first_ranks,
            data_bucket=payload["data_bucket"],
            data_prefix=payload["data_prefix"],
            result_path=run.folder_of(rank),
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

    return map(event, ranks)
