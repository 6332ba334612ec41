"""The sizes of a rank on AWS Batch, and what such a rank is planned by."""

from __future__ import annotations

from typing import TYPE_CHECKING

from summarize.contract import batch_prices

if TYPE_CHECKING:
    from cosmicai.experiments.scatter import Floats

_GB = 1024
SIZES = {
    1: range(2 * _GB, 8 * _GB + 1, _GB),
    2: range(4 * _GB, 16 * _GB + 1, _GB),
    4: range(8 * _GB, 30 * _GB + 1, _GB),
    8: range(16 * _GB, 60 * _GB + 1, 4 * _GB),
    16: range(32 * _GB, 120 * _GB + 1, 8 * _GB),
}
"""Memory in MB by vCPUs, of one task
(https://docs.aws.amazon.com/AmazonECS/latest/developerguide/task-cpu-memory-error.html)."""
MOST_SECONDS = 14_400  # the default of batch.timeout_seconds in the tfvars
MOST_VCPUS = 256  # the default of batch.max_vcpus
STARTS_PER_SECOND = 20.0
"""Tasks that an account starts on Fargate, sustained
(https://docs.aws.amazon.com/AmazonECS/latest/developerguide/throttling.html)."""


def smallest(vcpus: int) -> int:
    """The least memory in MB for a number of vCPUs; 0 for a number that Fargate does not have."""
    return SIZES[vcpus][0] if vcpus in SIZES else 0


def size_fault(vcpus: int, memory_mb: int) -> str | None:
    """Why Fargate has no rank of this size; None where it has."""
    if vcpus not in SIZES:
        return f"Fargate has no {vcpus} vCPUs here; give {', '.join(map(str, SIZES))}"
    sizes = SIZES[vcpus]
    if memory_mb in sizes:
        return None
    allowed = f"{sizes[0]:,} to {sizes[-1]:,} in steps of {sizes.step:,}"
    return f"Fargate has no {memory_mb:,} MB for {vcpus} vCPUs; give {allowed}"


def usd(vcpus: int, memory_mb: int, architecture: str, seconds: Floats) -> Floats:
    """(runs,), of ranks with a public address. seconds: (runs, ranks), for which each is billed."""
    billed = seconds.clip(min=batch_prices.LEAST_SECONDS).sum(axis=1)
    return billed * batch_prices.fargate(vcpus, memory_mb / _GB, 1.0, architecture, public=True)
