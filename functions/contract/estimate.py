"""What a run on Lambda takes and costs before it is started: its ranks, without the reduction of their metrics.

`cosmicai plan` simulates ranks one by one from the same figures; Initialize needs an estimate at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from . import pricing
from .dispatch import STARTS_PER_SECOND, Children
from .limits import MB_PER_VCPU

Architecture = Literal["arm64", "x86_64"]
IMAGE_BYTES = 32 * 32 * 5 * 4 + 5 * 4 + 4
"""Of a galaxy in a partition, in float32: image, magnitudes, redshift."""
INITIALIZE_SECONDS = 2.0
"""Cold start of a zip function with boto3 and some listings; an estimate."""
SUMMARIZE_SECONDS = 2.0
INITIALIZE_PARTITIONS_PER_SECOND = 10_000.0
"""Of those that Initialize lists and deals: 12,000 with an S3 that answers in 25 ms (benchmarks/run.json)."""
SUMMARIZE_RANKS_PER_SECOND = 600.0
"""32 GETs in flight of some 50 ms each."""
BURST_BYTES = 300 * 2**20
BURST_BYTES_PER_SECOND = 1.2 * 2**30
BYTES_PER_SECOND = 75 * 2**20
"""A function's network, whatever its memory: measured by others."""
GET_BYTES = 2_000_000
"""Of a ranged GET of the partition reader."""


@dataclass(frozen=True)
class Speed:
    """How fast ranks are. images_per_second_vcpu, start_seconds: (least, most) of a rank, the latter from the
    start of a sandbox to its first image; source: where the figures are from, for a sentence."""

    images_per_second_vcpu: tuple[float, float]
    start_seconds: tuple[float, float]
    source: str


ASSUMED = Speed((385.0, 440.0), (1.3, 2.1), "an assumed speed")
"""440 in float32, one thread of an idle x86 host capped to AVX2, as Lambda's are; an eighth less for the
slowest rank. It was measured with an earlier version of the full-size network. The present one gave 278 on a
slower, busy host, where torch had slowed down as much (benchmarks/engine.json). That arm64 is as fast a vCPU,
and that more than two vCPUs are as much faster, was not measured. Starts are those of images with onnxruntime
and without torch, measured by others: 1.3 s on arm64, 2.1 s on x86."""


@dataclass(frozen=True)
class Ranks:
    """The ranks of a run. bytes, largest: of all partitions, and of the rank that reads most. at_once: how many
    can run at the same time. memory_mb: of the inference function."""

    count: int
    bytes: int
    largest: int
    at_once: int
    memory_mb: int
    architecture: Architecture
    children: Children
    speed: Speed

    @property
    def usd_second(self) -> float:
        """What Lambda bills for a second of one rank."""
        return self.memory_mb / 1024 * pricing.GB_SECOND[self.architecture]

    @property
    def mean_seconds(self) -> float:
        """Of a rank, its start included."""
        speed = self.speed
        images_per_second = sum(speed.images_per_second_vcpu) / 2
        return sum(speed.start_seconds) / 2 + self._busy(self.bytes / self.count, images_per_second)

    @property
    def slowest_seconds(self) -> float:
        """Of the rank that ends last."""
        return self.speed.start_seconds[1] + self._busy(self.largest, self.speed.images_per_second_vcpu[0])

    @property
    def seconds(self) -> float:
        """Of the run, from start to end."""
        waves = math.ceil(self.count / self.at_once)
        dispatch = self.count / STARTS_PER_SECOND[self.children]
        summarize = SUMMARIZE_SECONDS + self.count / SUMMARIZE_RANKS_PER_SECOND
        return (
            INITIALIZE_SECONDS + dispatch + (waves - 1) * self.mean_seconds + self.slowest_seconds + summarize
        )

    @property
    def usd(self) -> float:
        """Of the run, as summary.json counts it."""
        billed = self.count * self.mean_seconds
        gets = self.count * (gets_of(self.bytes / self.count) + pricing.GETS_OF_SUMMARIZE_PER_RANK)
        requests = self.count * pricing.PUTS_PER_RANK * pricing.S3_PUT + gets * pricing.S3_GET
        states = pricing.step_functions(self.count, billed, self.children)
        return billed * self.usd_second + self.count * pricing.LAMBDA_REQUEST + states + requests

    def _busy(self, size: float, images_per_second_vcpu: float) -> float:
        """Seconds of reading and computing, which overlap."""
        return max(size / IMAGE_BYTES / (images_per_second_vcpu * vcpus(self.memory_mb)), network_seconds(size))


def vcpus(memory_mb: float) -> float:
    """The vCPUs of a function with this memory; less than one is a share of one."""
    return memory_mb / MB_PER_VCPU


def network_seconds(size: float) -> float:
    """The seconds that a function takes to read `size` bytes."""
    burst = min(size, BURST_BYTES)
    return burst / BURST_BYTES_PER_SECOND + (size - burst) / BYTES_PER_SECOND


def gets_of(size: float) -> int:
    """The requests by which a rank reads its partitions, `size` bytes in all, and its model."""
    return math.ceil(size / GET_BYTES) + 2
