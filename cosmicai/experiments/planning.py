"""Duration and cost of a run before it is started: a simulation of dispatch, cold starts, network and compute.

Every figure that the user does not give is in `Assumptions`, with its source; `Assumptions.of_summary` takes
the ranks' figures from a run that was measured.
"""

from __future__ import annotations

import heapq
import json
import math
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from cosmicai.experiments import fargate
from summarize.contract import pricing
from summarize.contract.dispatch import STARTS_PER_SECOND, Children, children
from summarize.contract.limits import MB_PER_VCPU, MOST_RANKS
from summarize.contract.run_records import Summary

Json = dict[str, Any]

IMAGE_BYTES = 32 * 32 * 5 * 4 + 5 * 4 + 4  # float32: image, magnitudes, redshift
MIB = 1024 * 1024
MOST_SECONDS = 900  # of a Lambda (https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html)
S3_GB_MONTH = 0.023  # USD, https://aws.amazon.com/s3/pricing, Standard
_GET_BYTES = 2_000_000  # of a ranged GET of the partition reader


class PlanningError(ValueError):
    """No run can meet the request; the message says why and what is possible."""


@dataclass(frozen=True)
class Assumptions:
    """The figures of the simulation. Pairs are (least, most): ranks are spread evenly between them."""

    images_per_second_vcpu: tuple[float, float] = (385.0, 440.0)
    """440 in float32, one thread of an idle x86 host capped to AVX2, as Lambda's are; an eighth less for the
    slowest rank. It was measured with an earlier version of the full-size network. The present one gave 278 on
    a slower, busy host, where torch had slowed down as much (benchmarks/engine.json). That arm64 is as fast a
    vCPU, and that more than two vCPUs are as much faster, was not measured."""
    cold_start_seconds: tuple[float, float] = (1.3, 2.1)
    """Images with onnxruntime and without torch, measured by others: 1.3 s on arm64, 2.1 s on x86."""
    init_limit_seconds: float = 10.0
    """After this time, Lambda starts the init phase a second time, within the invocation
    (https://docs.aws.amazon.com/lambda/latest/dg/lambda-runtime-environment.html)."""
    concurrency: int = 1000
    """The default quota of an account."""
    max_vcpus: int = fargate.MOST_VCPUS
    """Of all ranks on AWS Batch together, batch.max_vcpus of the tfvars."""
    sandboxes_at_once: int = 1000
    new_sandboxes_per_second: float = 100.0
    """A function gets 1,000 sandboxes at once and another 1,000 every 10 s, if the quota allows it
    (https://docs.aws.amazon.com/lambda/latest/dg/lambda-concurrency.html)."""
    children: Children | None = None
    """Of the Distributed Map; None: as Initialize would choose."""
    burst_bytes: float = 300 * MIB
    burst_bytes_per_second: float = 1.2 * 1024 * MIB
    bytes_per_second: float = 75 * MIB
    """A function's network, whatever its memory: measured by others."""
    job_start_seconds: tuple[float, float] = (60.0, 120.0)
    """Of a job of AWS Batch, mostly the download of its image, which is billed; an estimate, no account was at
    hand. That Fargate's network is as fast as a function's was not measured either."""
    rendezvous_seconds: float = 30.0
    """From a stopped t4g.nano to one that answers; an estimate: no account was available."""
    initialize_seconds: float = 2.0
    """Cold start of a zip function with boto3 and some listings; an estimate."""
    summarize_ranks_per_second: float = 600.0
    """32 GETs in flight of some 50 ms each."""
    summarize_seconds: float = 2.0

    @classmethod
    def of_summary(cls, path: Path) -> Assumptions:
        """The ranks' speed and cold starts from a run's summary.json. Raises PlanningError."""
        try:
            summary = Summary.from_json(json.loads(path.read_text(encoding="utf-8")))
            if summary.cost is None:
                raise ValueError("`cosmicai infer` wrote it, not a run on Lambda")
            if summary.cost.batch is not None:
                raise ValueError("its ranks ran on AWS Batch, whose vCPUs do not follow from their memory")
            spread = summary.spread
            threads = _threads(summary.cost.gb_seconds, summary.seconds["duration"])
            speed, init = spread["sample_persec"], spread["init (seconds)"]
            measured = cls(
                images_per_second_vcpu=(speed["min"] / threads, speed["max"] / threads),
                cold_start_seconds=(min(init["p50"], init["max"]), init["max"]),
            )
            if not (
                0 < measured.images_per_second_vcpu[0] < math.inf and 0 <= measured.cold_start_seconds[0] < 900
            ):
                raise ValueError("its speed or its cold starts are not measurements")
        except (OSError, ValueError, KeyError, TypeError, ArithmeticError) as error:
            reason = f"{error} is missing" if isinstance(error, KeyError) else error
            raise PlanningError(
                f"{path} is not the summary.json of a run whose ranks were measured ({reason})"
            ) from error
        return measured


def _threads(gb_seconds: float, seconds: float) -> float:
    """vCPUs of the run's ranks, from the memory that they were billed for."""
    return max(1.0, round(gb_seconds / seconds * 1024 / MB_PER_VCPU))


@dataclass(frozen=True)
class Case:
    """One way to run the data.

    collectives: over the rendezvous host. vcpus: of a rank on AWS Batch; None where it runs on Lambda.
    """

    images: int
    partition_mb: float
    memory_mb: int
    architecture: str
    collectives: bool = True
    vcpus: int | None = None

    @property
    def images_per_partition(self) -> int:
        return max(1, int(self.partition_mb * MIB // IMAGE_BYTES))

    @property
    def ranks(self) -> int:
        return math.ceil(self.images / self.images_per_partition)

    @property
    def threads(self) -> float:
        """vCPUs that compute; on Lambda they follow from the memory."""
        return self.vcpus or max(1.0, self.memory_mb / MB_PER_VCPU)

    def at_once(self, assumptions: Assumptions) -> int:
        """The ranks that can run at the same time."""
        return assumptions.concurrency if self.vcpus is None else max(1, assumptions.max_vcpus // self.vcpus)

    def starts_per_second(self, assumptions: Assumptions) -> float:
        return fargate.STARTS_PER_SECOND if self.vcpus else STARTS_PER_SECOND[self.children(assumptions)]

    def children(self, assumptions: Assumptions) -> Children:
        """As what its ranks on Lambda are started."""
        largest = min(self.images, self.images_per_partition) * IMAGE_BYTES
        return assumptions.children or children(largest, self.memory_mb, self.ranks, script=False)[0]


@dataclass(frozen=True)
class Obstacle:
    """A limit that a case meets. prevents: it cannot be run at all; otherwise it only takes longer."""

    text: str
    prevents: bool


@dataclass(frozen=True)
class Plan:
    """Duration and cost of a case, its bottleneck, and the limits it meets.

    seconds: from start to end. parts: seconds before the ranks, of the rank that ends last, and after the
    ranks. usd: by what is billed. A case of more ranks than one run can have is not simulated: its seconds and
    cost are infinite.
    """

    case: Case
    seconds: float
    parts: dict[str, float]
    usd: dict[str, float]
    bottleneck: str
    obstacles: tuple[Obstacle, ...]

    @property
    def total_usd(self) -> float:
        return sum(self.usd.values()) if self.usd else math.inf

    @property
    def possible(self) -> bool:
        """Whether no limit prevents it."""
        return not any(obstacle.prevents for obstacle in self.obstacles)


def plan(case: Case, assumptions: Assumptions = Assumptions(), seed: int = 0) -> Plan:
    """Simulates one run."""
    if case.images < 1:
        raise PlanningError(f"images: {case.images} is not allowed; give at least 1")
    if case.ranks > MOST_RANKS:
        return Plan(case, math.inf, {}, {}, "number of ranks", (_too_many_ranks(case),))
    ranks = _simulate(case, assumptions, random.Random(seed))  # noqa: S311 - no secret
    last = max(ranks, key=lambda rank: rank["end"])
    before = assumptions.initialize_seconds + (assumptions.rendezvous_seconds if case.collectives else 0.0)
    after = assumptions.summarize_seconds + case.ranks / assumptions.summarize_ranks_per_second
    parts = {
        "initialize": assumptions.initialize_seconds,
        "rendezvous host": assumptions.rendezvous_seconds if case.collectives else 0.0,
        "dispatch": last["dispatched"],
        "concurrency quota": last["start"] - last["dispatched"],
        "cold start": last["cold"],
        "network": last["network"],
        "compute": last["compute"],
        "summarize": after,
    }
    seconds = before + last["end"] + after
    usd = _usd(case, assumptions, ranks, seconds, before)
    return Plan(
        case,
        seconds,
        parts,
        usd,
        max(parts, key=lambda name: parts[name]),
        _obstacles(case, assumptions, ranks),
    )


def _simulate(case: Case, assumptions: Assumptions, dice: random.Random) -> list[dict[str, float]]:
    """Times of every rank, in seconds from the first dispatch."""
    at_once, starts_per_second = case.at_once(assumptions), case.starts_per_second(assumptions)
    free: list[float] = []  # when each sandbox that is busy will be free again
    ranks, left = [], case.images
    for number in range(case.ranks):
        images = min(case.images_per_partition, left)
        left -= images
        dispatched = number / starts_per_second
        start, cold = dispatched, True
        if free and free[0] <= dispatched:
            heapq.heappop(free)  # a warm one
            cold = case.vcpus is not None
        elif len(free) >= at_once:
            start, cold = heapq.heappop(free), case.vcpus is not None
        elif case.vcpus is None:
            ramp = (
                max(0.0, len(free) + 1 - assumptions.sandboxes_at_once) / assumptions.new_sandboxes_per_second
            )
            start = max(dispatched, ramp)
        wait = _cold_start(case, assumptions, dice) if cold else 0.0
        size = images * IMAGE_BYTES
        burst = min(size, assumptions.burst_bytes)
        network = burst / assumptions.burst_bytes_per_second + (size - burst) / assumptions.bytes_per_second
        compute = images / (dice.uniform(*assumptions.images_per_second_vcpu) * case.threads)
        run = wait + max(network, compute)  # they overlap
        heapq.heappush(free, start + run)
        ranks.append({
            "dispatched": dispatched, "start": start, "end": start + run, "billed": run, "cold": wait,
            "network": max(network - compute, 0.0), "compute": compute, "bytes": size,
        })  # fmt: skip
    return ranks


def _cold_start(case: Case, assumptions: Assumptions, dice: random.Random) -> float:
    """Seconds; every job of AWS Batch has one."""
    wait = dice.uniform(*assumptions.cold_start_seconds)
    if case.vcpus is not None:
        return wait + dice.uniform(*assumptions.job_start_seconds)
    return wait + (assumptions.init_limit_seconds if wait > assumptions.init_limit_seconds else 0.0)


def _usd(
    case: Case, assumptions: Assumptions, ranks: list[dict[str, float]], seconds: float, before: float
) -> dict[str, float]:
    billed = [rank["billed"] for rank in ranks]
    gets = sum(math.ceil(rank["bytes"] / _GET_BYTES) + 2 for rank in ranks) + len(ranks)
    puts = pricing.PUTS_PER_RANK * len(ranks)
    host = max(seconds - before, pricing.RENDEZVOUS_LEAST_SECONDS) / 3600 if case.collectives else 0.0
    s3 = puts * pricing.S3_PUT + gets * pricing.S3_GET
    if case.vcpus is not None:
        return {
            "AWS Batch compute": fargate.usd(case.vcpus, case.memory_mb, case.architecture, billed),
            "Step Functions": pricing.step_functions(0, 0.0, "standard"),
            "S3 requests": s3,
        }
    return {
        "Lambda compute": sum(billed) * case.memory_mb / 1024 * pricing.GB_SECOND[case.architecture],
        "Lambda requests": len(ranks) * pricing.LAMBDA_REQUEST,
        "Step Functions": pricing.step_functions(len(ranks), sum(billed), case.children(assumptions)),
        "S3 requests": s3,
        "rendezvous host": host * pricing.RENDEZVOUS_HOUR,
    }


def _too_many_ranks(case: Case) -> Obstacle:
    need = math.ceil(case.images * IMAGE_BYTES / MOST_RANKS / MIB)
    most = (
        f"one Distributed Map has {MOST_RANKS:,} children"
        if case.vcpus is None
        else f"an array has {MOST_RANKS:,} jobs"
    )
    return Obstacle(
        f"{case.ranks:,} ranks: {most} at most; cut partitions of "
        f"{need:,} MB or more, give a smaller world_size, or make several runs",
        prevents=True,
    )


def _obstacles(case: Case, assumptions: Assumptions, ranks: list[dict[str, float]]) -> tuple[Obstacle, ...]:
    on_batch, at_once, obstacles = case.vcpus is not None, case.at_once(assumptions), []
    if case.ranks > at_once:
        waves = math.ceil(case.ranks / at_once)
        more = (
            f"{assumptions.max_vcpus:,} vCPUs run {at_once:,} at once; raise batch.max_vcpus and, if that is "
            "less, the account's quota (Service Quotas: AWS Fargate, vCPU resource count)"
            if on_batch
            else f"the account runs {at_once:,} at once; ask for more (Service Quotas: Lambda, concurrent "
            "executions); metrics are reduced over S3"
        )
        obstacles.append(Obstacle(f"{case.ranks:,} ranks in {waves} waves: {more}", prevents=False))
    longest = max(rank["billed"] for rank in ranks)
    if on_batch and longest > fargate.MOST_SECONDS:
        default = f"{fargate.MOST_SECONDS:,} by default"
        told = f"a rank takes {longest:,.0f} s: set batch.timeout_seconds, which is {default}"
        obstacles.append(Obstacle(told, prevents=False))
    if not on_batch and longest > MOST_SECONDS:
        told = (
            f"a rank takes {longest:,.0f} s: Lambda ends it after {MOST_SECONDS} s; cut smaller partitions, "
            "give more ranks or more memory, or use AWS Batch (--backend batch)"
        )
        obstacles.append(Obstacle(told, prevents=True))
    return tuple(obstacles)


def options(
    images: int, partitions_mb: Iterable[float], memories_mb: Iterable[int], architectures: Iterable[str],
    assumptions: Assumptions = Assumptions(), collectives: bool = True,
) -> Iterator[Plan]:  # fmt: skip
    """A plan for each combination."""
    for partition_mb, memory_mb, architecture in product(partitions_mb, memories_mb, architectures):
        yield plan(Case(images, partition_mb, memory_mb, architecture, collectives), assumptions)


def options_on_batch(
    images: int, partitions_mb: Iterable[float], sizes: Iterable[tuple[int, int]], architectures: Iterable[str],
    assumptions: Assumptions = Assumptions(),
) -> Iterator[Plan]:  # fmt: skip
    """The same for ranks on AWS Batch, which reduce nothing among themselves. sizes: vCPUs and MB of a rank."""
    for partition_mb, (vcpus, memory_mb), architecture in product(partitions_mb, sizes, architectures):
        yield plan(Case(images, partition_mb, memory_mb, architecture, False, vcpus), assumptions)


def recommended(plans: list[Plan], target_seconds: float | None, budget_usd: float | None) -> Plan:
    """The best of the plans that can be run.

    That is the cheapest within the target time, the fastest within the budget, or otherwise the one with the
    smallest product of time and cost. Raises PlanningError if none fits, and names the one that comes closest.
    """
    possible = [one for one in plans if one.possible]
    if not possible:
        obstacles = "; ".join(obstacle.text for obstacle in plans[0].obstacles)
        raise PlanningError(f"none of these can be run: {obstacles}")
    fitting = [
        one
        for one in possible
        if (target_seconds is None or one.seconds <= target_seconds)
        and (budget_usd is None or one.total_usd <= budget_usd)
    ]
    if not fitting:
        raise PlanningError(_none_fits(possible, target_seconds, budget_usd))
    if target_seconds is not None:
        return min(fitting, key=lambda one: one.total_usd)
    if budget_usd is not None:
        return min(fitting, key=lambda one: one.seconds)
    return min(fitting, key=lambda one: one.seconds * one.total_usd)


def _none_fits(possible: list[Plan], target_seconds: float | None, budget_usd: float | None) -> str:
    """Why no plan is within the target and the budget, and what the nearest one takes."""
    fastest = min(possible, key=lambda one: one.seconds)
    cheapest = min(possible, key=lambda one: one.total_usd)
    if target_seconds is not None and fastest.seconds > target_seconds:
        return (
            f"--target-seconds {target_seconds:g} cannot be met; the fastest takes {_time_and_cost(fastest)}; "
            f"its bottleneck is: {fastest.bottleneck}"
        )
    if budget_usd is not None and cheapest.total_usd > budget_usd:
        return f"--budget {budget_usd:g} is too small; the cheapest takes {_time_and_cost(cheapest)}"
    within = [one for one in possible if target_seconds is None or one.seconds <= target_seconds]
    best = min(within, key=lambda one: one.total_usd)
    return (
        f"--target-seconds and --budget cannot both be met; the cheapest in time takes {_time_and_cost(best)}"
    )


def _time_and_cost(one: Plan) -> str:
    return f"{one.seconds:,.0f} s and {one.total_usd:.4g} USD"
