"""What AWS Batch has given a rank, and since when it is billed."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

_METADATA = "ECS_CONTAINER_METADATA_URI_V4"
_MOST_BYTES = 1 << 20
_SECONDS = 2.0  # that an endpoint on the same machine has to answer


@dataclass(frozen=True)
class Machine:
    """What a rank's machine is billed as; all None where that is not known, or nothing is billed.

    capacity: one of CAPACITIES. vcpus: the configured ones. public_address: whether it has one. since: Unix
    seconds of the start of the image's download, from which AWS Batch's ranks are billed.
    """

    capacity: str | None = None
    vcpus: int | None = None
    public_address: bool | None = None
    since: float | None = None


NOT_BILLED = Machine()


def pull_started(environment: Mapping[str, str]) -> float | None:
    """When the download of this task's image began, in Unix seconds; None where ECS does not tell.

    See https://docs.aws.amazon.com/AmazonECS/latest/developerguide/task-metadata-endpoint-v4-fargate-response.html.
    """
    place = environment.get(_METADATA, "")
    if not place.startswith("http://"):
        return None
    try:
        with urllib.request.urlopen(f"{place}/task", timeout=_SECONDS) as answer:  # noqa: S310 - http alone
            return _time(json.loads(answer.read(_MOST_BYTES))["PullStartedAt"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None  # the rank does its work without it


def _time(text: Any) -> float:
    """RFC 3339 with nanoseconds, which Python's own reader does not take, in Unix seconds."""
    return datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", text)).timestamp()
