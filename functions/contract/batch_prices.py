"""What a rank on AWS Batch costs, in USD at on-demand list prices of us-east-1."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from .rank_info import RankInfo

Capacity = Literal["lambda", "fargate", "fargate_spot"]
CAPACITIES: tuple[Capacity, ...] = ("lambda", "fargate", "fargate_spot")

AS_OF = "2026-03"
# https://aws.amazon.com/fargate/pricing: Linux, from the start of the image's download to the end of the task
FARGATE_VCPU_HOUR = {"x86_64": 0.04048, "arm64": 0.03238, "aarch64": 0.03238}
FARGATE_GB_HOUR = {"x86_64": 0.004445, "arm64": 0.00356, "aarch64": 0.00356}
LEAST_SECONDS = 60
# https://aws.amazon.com/vpc/pricing: a public IPv4 address
PUBLIC_ADDRESS_HOUR = 0.005

SPOT_NOTE = (
    "Fargate Spot's price changes with supply and demand; the cost is at Fargate's on-demand price, which Spot "
    "is up to 70 % below"
)


def billed_seconds(info: RankInfo) -> float:
    """What Fargate bills of a rank: from its image's download, where the rank could learn when that began."""
    return max(info.billed or info.duration or 0.0, LEAST_SECONDS)


def fargate(vcpus: float, memory_gb: float, seconds: float, architecture: str, public: bool) -> float:
    """USD of one rank. seconds: billed ones. public: whether it has a public address."""
    hour = vcpus * FARGATE_VCPU_HOUR[architecture] + memory_gb * FARGATE_GB_HOUR[architecture]
    return seconds / 3600 * (hour + (PUBLIC_ADDRESS_HOUR if public else 0.0))


def compute(infos: Iterable[RankInfo]) -> tuple[float, list[str]]:
    """USD of ranks on AWS Batch, and sentences on what that figure cannot hold."""
    total, unknown, spot = 0.0, Counter[str](), False
    for info in infos:
        fault = _not_priced(info)
        if fault is not None:
            unknown[fault] += 1
            continue
        assert info.vcpus is not None  # noqa: S101 - for the type checker
        memory_gb, architecture = (info.memory_limit or 0.0) / 1024, info.architecture or ""
        seconds, public = billed_seconds(info), bool(info.public_address)
        total += fargate(info.vcpus, memory_gb, seconds, architecture, public)
        spot |= info.capacity == "fargate_spot"
    notes = [f"{_ranks(count)} {fault}" for fault, count in sorted(unknown.items())]
    return total, [SPOT_NOTE, *notes] if spot else notes


def _not_priced(info: RankInfo) -> str | None:
    """Why a rank has no price, after the number of such ranks; None where it has one."""
    if info.capacity is None:
        return "did not say what AWS Batch ran them on: what they cost is not known, and not in the total"
    if not info.vcpus or info.architecture is None:
        return "did not say their vCPUs or architecture: what they cost is not known, and not in the total"
    return None


def _ranks(count: int) -> str:
    return "1 rank" if count == 1 else f"{count:,} ranks"
