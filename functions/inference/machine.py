"""What AWS Batch has given a rank, and since when it is billed."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from importlib.util import find_spec
from typing import Any

_METADATA = "ECS_CONTAINER_METADATA_URI_V4"
_INSTANCE_METADATA = "http://169.254.169.254"
_MOST_BYTES = 1 << 20
_SECONDS = 2.0  # that an endpoint on the same machine has to answer


@dataclass(frozen=True)
class Machine:
    """What a rank's machine is billed as; all None where that is not known, or nothing is billed.

    capacity: one of CAPACITIES. vcpus: the configured ones. public_address: whether it has one. since: Unix
    seconds of the start of the image's download, from which AWS Batch's ranks are billed. instance_type: of a
    rank on EC2.
    """

    capacity: str | None = None
    vcpus: int | None = None
    public_address: bool | None = None
    since: float | None = None
    instance_type: str | None = None


NOT_BILLED = Machine()


def pull_started(environment: Mapping[str, str]) -> float | None:
    """When the download of this task's image began, in Unix seconds; None where ECS does not tell.

    See https://docs.aws.amazon.com/AmazonECS/latest/developerguide/task-metadata-endpoint-v4-fargate-response.html.
    """
    place = environment.get(_METADATA, "")
    if not place.startswith("http://"):
        return None
    try:
        return _time(json.loads(_answer(f"{place}/task"))["PullStartedAt"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None  # the rank does its work without it


def instance_type(service: str = _INSTANCE_METADATA) -> str | None:
    """The type of the EC2 instance that this is; None where the instance's metadata do not tell.

    See https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-retrieval.html (IMDSv2).
    """
    lifetime = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
    try:
        token = _answer(f"{service}/latest/api/token", lifetime, "PUT").decode("ascii")
        place = f"{service}/latest/meta-data/instance-type"
        kind = _answer(place, {"X-aws-ec2-metadata-token": token}).decode("ascii")
    except (OSError, ValueError):
        return None
    return kind if re.fullmatch(r"[a-z0-9-]{1,20}\.[a-z0-9-]{1,20}", kind) else None


def _answer(place: str, headers: dict[str, str] | None = None, method: str = "GET") -> bytes:
    from urllib.request import Request, urlopen  # only ranks on AWS Batch ask

    request = Request(place, method=method, headers=headers or {})  # noqa: S310 - http alone
    with urlopen(request, timeout=_SECONDS) as answer:  # noqa: S310
        return bytes(answer.read(_MOST_BYTES))


def device(asked: str) -> str:
    """cpu or cuda; of auto, cuda where torch finds a GPU. torch is not imported for anything else."""
    if asked != "auto":
        return asked
    if find_spec("torch") is None:
        return "cpu"
    import torch  # it takes a second

    return "cuda" if torch.cuda.is_available() else "cpu"


def _time(text: Any) -> float:
    """RFC 3339 with nanoseconds, which Python's own reader does not take, in Unix seconds."""
    return datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", text)).timestamp()
