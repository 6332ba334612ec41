"""Published runs of AstroMAE on Lambda, compared with their plans and with plans of runs of this bundle."""

from __future__ import annotations

from dataclasses import dataclass, replace

from cosmicai.experiments.cases import MIB, Assumptions, Case
from cosmicai.experiments.planning import Plan, plan
from summarize.contract.estimate import IMAGE_BYTES
from summarize.contract.limits import MB_PER_VCPU


@dataclass(frozen=True)
class Published:
    """A published run of AstroMAE on Lambda over 12.6 GB; seconds from start to end as (least, most)."""

    partition_mb: float
    ranks: int
    seconds: tuple[float, float]
    usd: float  # as published: for the memory that was used, not the memory that was configured


PUBLISHED_GB = 12.6
PUBLISHED = (
    Published(25, 517, (55, 60), 0.16),
    Published(50, 259, (43, 46), 0.20),
    Published(75, 173, (45, 52), 0.30),
    Published(100, 130, (67, 70), 0.38),
)
PUBLISHED_MEMORY_MB = 10_240
_PUBLISHED_VCPUS = PUBLISHED_MEMORY_MB / MB_PER_VCPU
PUBLISHED_WAY = replace(
    Assumptions(),
    images_per_second_vcpu=(200 / _PUBLISHED_VCPUS, 245 / _PUBLISHED_VCPUS),  # 200 to 245 images/s a function
    cold_start_seconds=(8.0, 20.0),  # images with torch
    children="standard",
)
"""The figures of those runs: what was published, and the rest as for ours."""


def compare_published() -> list[tuple[Published, Plan, Plan]]:
    """Each published run, its plan from its own figures, and the plan of our way (3,538 MB, arm64)."""
    rows = []
    for earlier in PUBLISHED:
        images = int(PUBLISHED_GB * 1e9 / IMAGE_BYTES)
        partition = images / earlier.ranks * IMAGE_BYTES / MIB
        theirs = Case(images, partition * 1.0001, PUBLISHED_MEMORY_MB, "x86_64", collectives="none")
        ours = Case(images, earlier.partition_mb, 3538, "arm64")
        rows.append((earlier, plan(theirs, PUBLISHED_WAY), plan(ours)))
    return rows
