"""What a run will take and cost before it is started: a small simulation of dispatch, cold starts, network and
compute, rank by rank.

Every figure that is not asked for stands in `Assumptions`, with its source; `Assumptions.of_summary` takes the
ranks' own from a run that was measured.
"""

from __future__ import annotations

import heapq
import json
import math
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from summarize import pricing

Json = dict[str, Any]

IMAGE_BYTES = 32 * 32 * 5 * 4 + 5 * 4 + 4  # float32: image, magnitudes, redshift
MIB = 1024 * 1024
MOST_RANKS = 10_000  # children of one Distributed Map (https://docs.aws.amazon.com/step-functions/latest/dg/service-quotas.html)
MOST_SECONDS = 900  # of a Lambda (https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html)
MB_PER_VCPU = 1769  # https://docs.aws.amazon.com/lambda/latest/dg/configuration-memory.html
S3_GB_MONTH = 0.023  # USD, https://aws.amazon.com/s3/pricing, Standard
_GET_BYTES = 2_000_000  # of a ranged GET of the partition reader


class PlanningError(ValueError):
    """No run can be planned for what was asked; the message says why and what would go."""


@dataclass(frozen=True)
class Assumptions:
    """What the simulation takes as given. Pairs are (least, most): ranks are spread evenly between them."""

    images_per_second_vcpu: tuple[float, float] = (385.0, 440.0)
    """benchmarks/engine.json: 440 for the full-size network in float32, one thread of an x86 host capped to
    AVX2, as Lambda's are; an eighth less is taken for the slowest rank. That arm64 is as fast a vCPU, and that
    more than two vCPUs are as much faster, was not measured."""
    cold_start_seconds: tuple[float, float] = (1.3, 2.1)
    """Images with onnxruntime and without torch, as others have measured: arm64 1.3 s, x86 2.1 s."""
    init_limit_seconds: float = 10.0
    """Beyond it Lambda starts the init phase a second time, inside of the invocation
    (https://docs.aws.amazon.com/lambda/latest/dg/lambda-runtime-environment.html)."""
    starts_per_second: float = 100.0
    """Of Standard children (https://docs.aws.amazon.com/step-functions/latest/dg/service-quotas.html)."""
    concurrency: int = 1000
    """The default quota of an account; another 1,000 come every 10 s for a function where the quota allows."""
    burst_bytes: float = 300 * MIB
    burst_bytes_per_second: float = 1.2 * 1024 * MIB
    bytes_per_second: float = 75 * MIB
    """A function's network, whatever its memory: measured by others."""
    rendezvous_seconds: float = 30.0
    """From a stopped t4g.nano to one that answers; an estimate, no account was at hand."""
    initialize_seconds: float = 2.0
    """Cold start of a zip function with boto3 and some listings; an estimate."""
    summarize_ranks_per_second: float = 600.0
    """32 GETs in flight of some 50 ms each."""
    summarize_seconds: float = 2.0

    @classmethod
    def of_summary(cls, path: Path) -> Assumptions:
        """The ranks' speed and cold starts from a run's summary.json. Raises PlanningError."""
        try:
            found = json.loads(path.read_text())
            spread, threads = found["spread"], _threads(found)
            speed, init = spread["sample_persec"], spread["init (seconds)"]
            return cls(
                images_per_second_vcpu=(speed["min"] / threads, speed["max"] / threads),
                cold_start_seconds=(min(init["p50"], init["max"]), init["max"]),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise PlanningError(f"{path} is no summary.json of a run with ranks: {error}") from None


def _threads(found: Json) -> float:
    """vCPUs of the run's ranks, from what they were billed for."""
    gb_seconds, seconds = found["cost"]["GB-seconds"], found["seconds"]["duration"]
    return max(1.0, round(gb_seconds / seconds * 1024 / MB_PER_VCPU))


@dataclass(frozen=True)
class Case:
    """One way to run it."""

    images: int
    partition_mb: float
    memory_mb: int
    architecture: str
    collectives: bool = True

    @property
    def images_per_partition(self) -> int:
        return max(1, int(self.partition_mb * MIB // IMAGE_BYTES))

    @property
    def ranks(self) -> int:
        return math.ceil(self.images / self.images_per_partition)


@dataclass(frozen=True)
class Plan:
    """What a case takes: seconds end to end, USD by part, what holds it up, and what stands in its way."""

    case: Case
    seconds: float
    parts: dict[str, float]  # seconds of the rank that ends last, and of what goes before and behind the ranks
    usd: dict[str, float]
    bottleneck: str
    obstacles: tuple[str, ...]

    @property
    def total_usd(self) -> float:
        return sum(self.usd.values())


def plan(case: Case, given: Assumptions = Assumptions(), seed: int = 0) -> Plan:
    """Simulates one run."""
    if case.images < 1:
        raise PlanningError(f"images: {case.images} is not allowed; give at least 1")
    ranks = _simulate(case, given, random.Random(seed))  # noqa: S311 - no secret
    last = max(ranks, key=lambda rank: rank["end"])
    before = given.initialize_seconds + (given.rendezvous_seconds if case.collectives else 0.0)
    behind = given.summarize_seconds + case.ranks / given.summarize_ranks_per_second
    parts = {
        "initialize": given.initialize_seconds,
        "rendezvous host": given.rendezvous_seconds if case.collectives else 0.0,
        "dispatch": last["dispatched"],
        "concurrency quota": last["start"] - last["dispatched"],
        "cold start": last["cold"],
        "network": last["network"],
        "compute": last["compute"],
        "summarize": behind,
    }
    seconds = before + last["end"] + behind
    usd = _usd(case, ranks, seconds, before)
    return Plan(
        case, seconds, parts, usd, max(parts, key=lambda name: parts[name]), _obstacles(case, given, ranks)
    )


def _simulate(case: Case, given: Assumptions, dice: random.Random) -> list[dict[str, float]]:
    """Times of every rank, in seconds from the first dispatch."""
    vcpus = max(1.0, case.memory_mb / MB_PER_VCPU)
    free: list[float] = []  # when each sandbox that is busy will be free again
    found, left = [], case.images
    for number in range(case.ranks):
        images = min(case.images_per_partition, left)
        left -= images
        dispatched = number / given.starts_per_second
        start, cold = dispatched, True
        if free and free[0] <= dispatched:
            heapq.heappop(free)  # a warm one
            cold = False
        elif len(free) >= given.concurrency:
            start, cold = heapq.heappop(free), False
        wait = dice.uniform(*given.cold_start_seconds) if cold else 0.0
        if wait > given.init_limit_seconds:
            wait += given.init_limit_seconds
        size = images * IMAGE_BYTES
        burst = min(size, given.burst_bytes)
        network = burst / given.burst_bytes_per_second + (size - burst) / given.bytes_per_second
        compute = images / (dice.uniform(*given.images_per_second_vcpu) * vcpus)
        run = wait + max(network, compute)  # they overlap
        heapq.heappush(free, start + run)
        found.append({
            "dispatched": dispatched, "start": start, "end": start + run, "billed": run, "cold": wait,
            "network": max(network - compute, 0.0), "compute": compute, "bytes": size,
        })  # fmt: skip
    return found


def _usd(case: Case, ranks: list[dict[str, float]], seconds: float, before: float) -> dict[str, float]:
    gb_seconds = sum(rank["billed"] for rank in ranks) * case.memory_mb / 1024
    gets = sum(math.ceil(rank["bytes"] / _GET_BYTES) + 2 for rank in ranks) + len(ranks)
    puts = pricing.PUTS_PER_RANK * len(ranks)
    transitions = pricing.TRANSITIONS_PER_RUN + pricing.TRANSITIONS_PER_RANK * len(ranks)
    host = max(seconds - before, pricing.RENDEZVOUS_LEAST_SECONDS) / 3600 if case.collectives else 0.0
    return {
        "Lambda compute": gb_seconds * pricing.GB_SECOND[case.architecture],
        "Lambda requests": len(ranks) * pricing.LAMBDA_REQUEST,
        "Step Functions": transitions * pricing.STATE_TRANSITION,
        "S3 requests": puts * pricing.S3_PUT + gets * pricing.S3_GET,
        "rendezvous host": host * pricing.RENDEZVOUS_HOUR,
    }


def _obstacles(case: Case, given: Assumptions, ranks: list[dict[str, float]]) -> tuple[str, ...]:
    found = []
    if case.ranks > MOST_RANKS:
        need = case.images * IMAGE_BYTES / MOST_RANKS / MIB
        found.append(
            f"{case.ranks:,} ranks: one Distributed Map has {MOST_RANKS:,} children at most; cut partitions of "
            f"{need:,.0f} MB or more, give a smaller world_size, or make several runs"
        )
    if case.ranks > given.concurrency:
        waves = math.ceil(case.ranks / given.concurrency)
        found.append(
            f"{case.ranks:,} ranks in {waves} waves: the account runs {given.concurrency:,} at once; ask for "
            "more (Service Quotas: Lambda, concurrent executions); metrics are reduced over S3"
        )
    longest = max(rank["billed"] for rank in ranks)
    if longest > MOST_SECONDS:
        found.append(
            f"a rank takes {longest:,.0f} s: Lambda ends it after {MOST_SECONDS} s; cut smaller partitions, "
            "give more ranks or more memory"
        )
    return tuple(found)


def options(
    images: int, partitions_mb: Iterable[float], memories_mb: Iterable[int], architectures: Iterable[str],
    given: Assumptions = Assumptions(), collectives: bool = True,
) -> Iterator[Plan]:  # fmt: skip
    """A plan for each combination."""
    memories, architectures = list(memories_mb), list(architectures)
    for partition_mb in partitions_mb:
        for memory in memories:
            for architecture in architectures:
                yield plan(Case(images, partition_mb, memory, architecture, collectives), given)


def recommended(plans: list[Plan], target_seconds: float | None, budget_usd: float | None) -> Plan:
    """Of those that nothing hinders: the cheapest in time, the fastest within the budget, else the one with the
    smallest product of time and money. Raises PlanningError where none fits, saying what comes next."""
    possible = [one for one in plans if not _hindered(one)]
    if not possible:
        raise PlanningError(f"none of these can be run: {'; '.join(plans[0].obstacles)}")
    if target_seconds is not None:
        fitting = [one for one in possible if one.seconds <= target_seconds]
        if not fitting:
            best = min(possible, key=lambda one: one.seconds)
            raise PlanningError(
                f"target_seconds: {target_seconds:g} s cannot be had; the fastest is {best.seconds:,.0f} s for "
                f"{best.total_usd:.2f} USD, held up by {best.bottleneck}"
            )
        return min(fitting, key=lambda one: one.total_usd)
    if budget_usd is not None:
        fitting = [one for one in possible if one.total_usd <= budget_usd]
        if not fitting:
            best = min(possible, key=lambda one: one.total_usd)
            raise PlanningError(
                f"budget: {budget_usd:g} USD is too little; the cheapest is {best.total_usd:.2f} USD in "
                f"{best.seconds:,.0f} s"
            )
        return min(fitting, key=lambda one: one.seconds)
    return min(possible, key=lambda one: one.seconds * one.total_usd)


def _hindered(one: Plan) -> bool:
    return any("waves" not in obstacle for obstacle in one.obstacles)


@dataclass(frozen=True)
class Published:
    """A run that was published for AstroMAE on Lambda, 12.6 GB; seconds end to end as (least, most)."""

    partition_mb: float
    ranks: int
    seconds: tuple[float, float]
    usd: float  # by used memory, as it was published


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
)
"""How those runs went: what was published of them, and everything else as for ours."""


def beside_published() -> list[tuple[Published, Plan, Plan]]:
    """Each published run, the plan of it by its own figures, and the same data our way (3,538 MB, arm64)."""
    found = []
    for earlier in PUBLISHED:
        images = int(PUBLISHED_GB * 1e9 / IMAGE_BYTES)
        partition = images / earlier.ranks * IMAGE_BYTES / MIB
        theirs = Case(images, partition * 1.0001, PUBLISHED_MEMORY_MB, "x86_64", collectives=False)
        ours = Case(images, earlier.partition_mb, 3538, "arm64")
        found.append((earlier, plan(theirs, PUBLISHED_WAY), plan(ours)))
    return found
