"""FOLDER/{rank}.json, which ranks leave in S3: listed, and read one after the other.

A run may have 100,000 of them, so they are never in memory at once.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from .rank_info import MOST_BYTES, parse
from .s3 import read_small, repeated
from .untrusted import UntrustedError

READERS = 32  # parallel GETs
_AHEAD = 4 * READERS  # files that are read before their turn
_NAME = re.compile(r"(0|[1-9][0-9]{0,8})\.json")

Listed = dict[int, float]  # by rank: when S3 received its file, in Unix seconds
T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True)
class RankFile:
    """A rank's file: its content, the faults left out of it, and when S3 received it, in Unix seconds.

    fault: why no part of it can be used; '' if it can.
    """

    rank: int
    content: Any
    faults: list[str]
    modified: float
    fault: str = ""


def listed(s3: Any, bucket: str, folder: str) -> Listed:
    """The ranks that have left a file in the folder, in order. Raises botocore's ClientError."""
    prefix = f"{folder}/"

    def listing() -> Listed:
        pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix, Delimiter="/")
        items = (item for page in pages for item in page.get("Contents", []))
        matches = ((item, _NAME.fullmatch(item["Key"].removeprefix(prefix))) for item in items)
        return {int(match[1]): item["LastModified"].timestamp() for item, match in matches if match}

    return dict(sorted(repeated(listing).items()))


def rank_files(
    reads: Any, pool: ThreadPoolExecutor, bucket: str, folder: str, present: Listed, ranks: range
) -> Iterator[RankFile]:
    """The files of those of the ranks that are present, in order, as any program may have written them.

    One that has been deleted since it was listed is passed over. reads: boto3's client, or that of s3_rest;
    pool: reads several at a time.
    """

    def fetched(rank: int) -> bytes | ValueError | None:
        try:
            return read_small(reads, bucket, f"{folder}/{rank}.json", MOST_BYTES)
        except ValueError as error:
            return error
        except reads.exceptions.NoSuchKey:
            return None

    theirs = [rank for rank in present if rank in ranks]
    # Parsed here and not by the pool, whose threads would hinder each other.
    for rank, body in zip(theirs, _ahead(pool, fetched, theirs), strict=True):
        modified = present[rank]
        if body is None:
            continue
        if isinstance(body, ValueError):
            yield RankFile(rank, None, [], modified, str(body))
            continue
        try:
            yield RankFile(rank, *parse(body), modified)
        except UntrustedError as error:
            yield RankFile(rank, None, [], modified, str(error))


def _ahead(pool: ThreadPoolExecutor, function: Callable[[T], U], arguments: Iterable[T]) -> Iterator[U]:
    """The function of each argument, in order; the pool computes up to _AHEAD of them before their turn."""
    computed: deque[Future[U]] = deque()
    for argument in arguments:
        computed.append(pool.submit(function, argument))
        if len(computed) > _AHEAD:
            yield computed.popleft().result()
    while computed:
        yield computed.popleft().result()
