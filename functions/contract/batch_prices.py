"""What a rank on AWS Batch costs, on Fargate or an instance, in USD at on-demand list prices of us-east-1."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from .rank_info import RankInfo

Capacity = Literal["lambda", "fargate", "fargate_spot", "ec2", "ec2_spot"]
CAPACITIES: tuple[Capacity, ...] = ("lambda", "fargate", "fargate_spot", "ec2", "ec2_spot")

AS_OF = "2026-03"  # Fargate; the instances are of 2026-08
# https://aws.amazon.com/fargate/pricing: Linux, from the start of the image's download to the end of the task
FARGATE_VCPU_HOUR = {"x86_64": 0.04048, "arm64": 0.03238, "aarch64": 0.03238}
FARGATE_GB_HOUR = {"x86_64": 0.004445, "arm64": 0.00356, "aarch64": 0.00356}
LEAST_SECONDS = 60
# https://aws.amazon.com/vpc/pricing: a public IPv4 address
PUBLIC_ADDRESS_HOUR = 0.005

# https://aws.amazon.com/ec2/pricing/on-demand: an hour of an instance with Linux, and how many GPUs it has
INSTANCE_HOURS: dict[str, tuple[float, int]] = {
    "g4dn.xlarge": (0.526, 1), "g4dn.2xlarge": (0.752, 1), "g4dn.4xlarge": (1.204, 1),
    "g4dn.8xlarge": (2.176, 1), "g4dn.16xlarge": (4.352, 1), "g4dn.12xlarge": (3.912, 4),
    "g4dn.metal": (7.824, 8),
    "g5.xlarge": (1.006, 1), "g5.2xlarge": (1.212, 1), "g5.4xlarge": (1.624, 1), "g5.8xlarge": (2.448, 1),
    "g5.16xlarge": (4.096, 1), "g5.12xlarge": (5.672, 4), "g5.48xlarge": (16.288, 8),
    "g6.xlarge": (0.8048, 1), "g6.2xlarge": (0.9776, 1), "g6.4xlarge": (1.3232, 1),
    "g6.16xlarge": (3.3968, 1), "g6.12xlarge": (4.6016, 4), "g6.24xlarge": (6.6752, 4),
    "g6.48xlarge": (13.3504, 8),
}  # fmt: skip

INSTANCE_NOTE = (
    "AWS bills an instance from its start to its end; the cost counts only the time of its ranks, from the "
    "download of their images on, and not its start, its disk, and the minutes until AWS Batch ends it"
)
INSTANCE_SPOT_NOTE = (
    "the price of EC2 Spot changes with supply and demand; the cost is at the on-demand price, which Spot "
    "never exceeds"
)
SPOT_NOTE = (
    "the price of Fargate Spot changes with supply and demand; the cost is at the on-demand price, and Spot "
    "costs up to 70 % less"
)


_UNKNOWN = "what they cost is not known, and not in the total"
_ON_INSTANCES = {"ec2", "ec2_spot"}
_NOTES: tuple[tuple[str, set[str | None]], ...] = (
    (SPOT_NOTE, {"fargate_spot"}),
    (INSTANCE_SPOT_NOTE, {"ec2_spot"}),
    (INSTANCE_NOTE, {"ec2", "ec2_spot"}),
)


def billed_seconds(info: RankInfo) -> float:
    """What AWS bills of a rank: from its image's download, where the rank could learn when that began."""
    return max(info.billed or info.duration or 0.0, LEAST_SECONDS)


def fargate(vcpus: float, memory_gb: float, seconds: float, architecture: str, public: bool) -> float:
    """USD of one rank. seconds: billed ones. public: whether it has a public address."""
    hour = vcpus * FARGATE_VCPU_HOUR[architecture] + memory_gb * FARGATE_GB_HOUR[architecture]
    return seconds / 3600 * (hour + (PUBLIC_ADDRESS_HOUR if public else 0.0))


def compute(infos: Iterable[RankInfo]) -> tuple[float, list[str]]:
    """USD of ranks on AWS Batch, and sentences on what that figure cannot hold."""
    total, unknown, used = 0.0, Counter[str](), set[str | None]()
    for info in infos:
        fault = _not_priced(info)
        if fault is not None:
            unknown[fault] += 1
            continue
        total += _on_instance(info) if info.capacity in _ON_INSTANCES else _on_fargate(info)
        used.add(info.capacity)
    notes = [note for note, capacities in _NOTES if used & capacities]
    return total, [*notes, *(f"{_ranks(count)} {fault}" for fault, count in sorted(unknown.items()))]


def _on_fargate(info: RankInfo) -> float:
    memory_gb, public = (info.memory_limit or 0.0) / 1024, bool(info.public_address)
    return fargate(info.vcpus or 0.0, memory_gb, billed_seconds(info), info.architecture or "", public)


def _on_instance(info: RankInfo) -> float:
    """The share of the instance that a rank's one GPU is."""
    hour, gpus = INSTANCE_HOURS[info.instance_type or ""]
    return billed_seconds(info) / 3600 * (hour + (PUBLIC_ADDRESS_HOUR if info.public_address else 0.0)) / gpus


def _not_priced(info: RankInfo) -> str | None:
    """Why a rank has no price, after the number of such ranks; None where it has one."""
    if info.capacity is None:
        return f"did not say what AWS Batch ran them on: {_UNKNOWN}"
    if info.capacity in _ON_INSTANCES and info.instance_type not in INSTANCE_HOURS:
        kind = (info.instance_type or "")[:40] or "an instance of an unknown type"
        return f"ran on {kind}, which has no price here: {_UNKNOWN}"
    if info.capacity not in _ON_INSTANCES and (not info.vcpus or info.architecture is None):
        return f"did not say their vCPUs or architecture: {_UNKNOWN}"
    return None


def _ranks(count: int) -> str:
    return "1 rank" if count == 1 else f"{count:,} ranks"
