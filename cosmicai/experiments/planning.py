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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from summarize.contract import pricing
from summarize.contract.channels import (
    Choice,
    Host,
    HostState,
    choose,
    host_seconds,
    host_usd,
    reduction_seconds,
    reduction_usd,
)
from summarize.contract.dispatch import STARTS_PER_SECOND, Children, children
from summarize.contract.estimate import (
    ASSUMED,
    IMAGE_BYTES,
    INITIALIZE_SECONDS,
    SUMMARIZE_RANKS_PER_SECOND,
    SUMMARIZE_SECONDS,
    Architecture,
    Ranks,
    Speed,
    gets_of,
    network_seconds,
)
from summarize.contract.limits import MB_PER_VCPU, MOST_RANKS
from summarize.contract.run_records import Summary

Json = dict[str, Any]

MIB = 1024 * 1024
MOST_SECONDS = 900  # of a Lambda (https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html)
S3_GB_MONTH = 0.023  # USD, https://aws.amazon.com/s3/pricing, Standard


class PlanningError(ValueError):
    """No run can meet the request; the message says why and what is possible."""


@dataclass(frozen=True)
class Assumptions:
    """The figures of the simulation. Pairs are (least, most): ranks are spread evenly between them."""

    images_per_second_vcpu: tuple[float, float] = ASSUMED.images_per_second_vcpu
    cold_start_seconds: tuple[float, float] = ASSUMED.start_seconds
    init_limit_seconds: float = 10.0
    """After this time, Lambda starts the init phase a second time, within the invocation
    (https://docs.aws.amazon.com/lambda/latest/dg/lambda-runtime-environment.html)."""
    concurrency: int = 1000
    """The default quota of an account."""
    sandboxes_at_once: int = 1000
    new_sandboxes_per_second: float = 100.0
    """A function gets 1,000 sandboxes at once and another 1,000 every 10 s, if the quota allows it
    (https://docs.aws.amazon.com/lambda/latest/dg/lambda-concurrency.html)."""
    children: Children | None = None
    """Of the Distributed Map; None: as Initialize would choose."""
    host: HostState = "stopped"
    """The rendezvous host when the run starts."""

    @classmethod
    def of_summary(cls, path: Path) -> Assumptions:
        """The ranks' speed and cold starts from a run's summary.json. Raises PlanningError."""
        try:
            summary = Summary.from_json(json.loads(path.read_text(encoding="utf-8")))
            if summary.cost is None:
                raise ValueError("`cosmicai infer` wrote it, not a run on Lambda")
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
    """One way to run the data."""

    images: int
    partition_mb: float
    memory_mb: int
    architecture: Architecture
    collectives: Literal["auto", "direct", "s3", "none"] = "auto"

    @property
    def images_per_partition(self) -> int:
        return max(1, int(self.partition_mb * MIB // IMAGE_BYTES))

    @property
    def ranks(self) -> int:
        return math.ceil(self.images / self.images_per_partition)

    def children(self, assumptions: Assumptions) -> Children:
        """How its ranks are started."""
        largest = min(self.images, self.images_per_partition) * IMAGE_BYTES
        return assumptions.children or children(largest, self.memory_mb, self.ranks, script=False)[0]

    def estimated(self, assumptions: Assumptions) -> Ranks:
        """Its ranks as Initialize estimates them."""
        return Ranks(
            count=self.ranks,
            bytes=self.images * IMAGE_BYTES,
            largest=min(self.images, self.images_per_partition) * IMAGE_BYTES,
            at_once=min(self.ranks, assumptions.concurrency),
            memory_mb=self.memory_mb,
            architecture=self.architecture,
            children=self.children(assumptions),
            speed=Speed(
                assumptions.images_per_second_vcpu, assumptions.cold_start_seconds, "the speed of this plan"
            ),
        )

    def channel(self, assumptions: Assumptions) -> Choice:
        """By which its ranks reduce their metrics, as Initialize would choose."""
        if self.collectives == "auto":
            return choose(
                self.estimated(assumptions),
                Host(assumptions.host, f"the rendezvous host is {assumptions.host}"),
            )
        if self.collectives == "direct" and self.ranks > assumptions.concurrency:
            return Choice("s3", "not all ranks can run at once")
        return Choice(self.collectives, "")


@dataclass(frozen=True)
class Obstacle:
    """A limit that a case meets. prevents: it cannot be run at all; otherwise it only takes longer."""

    text: str
    prevents: bool


@dataclass(frozen=True)
class Plan:
    """Duration and cost of a case, its bottleneck, and the limits it meets.

    channel: by which the ranks reduce their metrics. seconds: from start to end. parts: seconds before the
    ranks, of the rank that ends last, and after the ranks. usd: by what is billed. A case of more ranks than
    one run can have is not simulated: its seconds and cost are infinite, and it has no channel.
    """

    case: Case
    seconds: float
    parts: dict[str, float]
    usd: dict[str, float]
    bottleneck: str
    obstacles: tuple[Obstacle, ...]
    channel: Choice | None = None

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
    choice, estimated = case.channel(assumptions), case.estimated(assumptions)
    waiting = host_seconds(choice.channel, assumptions.host)
    reducing = reduction_seconds(choice.channel, estimated)
    after = SUMMARIZE_SECONDS + case.ranks / SUMMARIZE_RANKS_PER_SECOND
    parts = {
        "initialize": INITIALIZE_SECONDS,
        "rendezvous host": waiting,
        "dispatch": last["dispatched"],
        "concurrency quota": last["start"] - last["dispatched"],
        "cold start": last["cold"],
        "network": last["network"],
        "compute": last["compute"],
        "metrics": reducing,
        "summarize": after,
    }
    seconds = INITIALIZE_SECONDS + waiting + last["end"] + reducing + after
    usd = _usd(case, assumptions, ranks) | {
        "metrics": reduction_usd(choice.channel, estimated),
        "rendezvous host": host_usd(choice.channel, estimated, assumptions.host),
    }
    bottleneck = max(parts, key=lambda name: parts[name])
    return Plan(case, seconds, parts, usd, bottleneck, _obstacles(case, assumptions, ranks), choice)


def _simulate(case: Case, assumptions: Assumptions, dice: random.Random) -> list[dict[str, float]]:
    """Times of every rank, in seconds from the first dispatch."""
    vcpus, starts_per_second = (
        max(1.0, case.memory_mb / MB_PER_VCPU),
        STARTS_PER_SECOND[case.children(assumptions)],
    )
    free: list[float] = []  # when each sandbox that is busy will be free again
    ranks, left = [], case.images
    for number in range(case.ranks):
        images = min(case.images_per_partition, left)
        left -= images
        dispatched = number / starts_per_second
        start, cold = dispatched, True
        if free and free[0] <= dispatched:
            heapq.heappop(free)  # a warm one
            cold = False
        elif len(free) >= assumptions.concurrency:
            start, cold = heapq.heappop(free), False
        else:
            ramp = (
                max(0.0, len(free) + 1 - assumptions.sandboxes_at_once) / assumptions.new_sandboxes_per_second
            )
            start = max(dispatched, ramp)
        wait = dice.uniform(*assumptions.cold_start_seconds) if cold else 0.0
        if wait > assumptions.init_limit_seconds:
            wait += assumptions.init_limit_seconds
        size = images * IMAGE_BYTES
        network = network_seconds(size)
        compute = images / (dice.uniform(*assumptions.images_per_second_vcpu) * vcpus)
        run = wait + max(network, compute)  # they overlap
        heapq.heappush(free, start + run)
        ranks.append({
            "dispatched": dispatched, "start": start, "end": start + run, "billed": run, "cold": wait,
            "network": max(network - compute, 0.0), "compute": compute, "bytes": size,
        })  # fmt: skip
    return ranks


def _usd(case: Case, assumptions: Assumptions, ranks: list[dict[str, float]]) -> dict[str, float]:
    gb_seconds = sum(rank["billed"] for rank in ranks) * case.memory_mb / 1024
    gets = sum(gets_of(rank["bytes"]) + pricing.GETS_OF_SUMMARIZE_PER_RANK for rank in ranks)
    puts = pricing.PUTS_PER_RANK * len(ranks)
    return {
        "Lambda compute": gb_seconds * pricing.GB_SECOND[case.architecture],
        "Lambda requests": len(ranks) * pricing.LAMBDA_REQUEST,
        "Step Functions": pricing.step_functions(
            len(ranks), sum(rank["billed"] for rank in ranks), case.children(assumptions)
        ),
        "S3 requests": puts * pricing.S3_PUT + gets * pricing.S3_GET,
    }


def _too_many_ranks(case: Case) -> Obstacle:
    need = math.ceil(case.images * IMAGE_BYTES / MOST_RANKS / MIB)
    return Obstacle(
        f"{case.ranks:,} ranks: one Distributed Map has {MOST_RANKS:,} children at most; cut partitions of "
        f"{need:,} MB or more, give a smaller world_size, or make several runs",
        prevents=True,
    )


def _obstacles(case: Case, assumptions: Assumptions, ranks: list[dict[str, float]]) -> tuple[Obstacle, ...]:
    obstacles = []
    if case.ranks > assumptions.concurrency:
        waves = math.ceil(case.ranks / assumptions.concurrency)
        obstacles.append(
            Obstacle(
                f"{case.ranks:,} ranks in {waves} waves: the account runs {assumptions.concurrency:,} at once; "
                "ask for more (Service Quotas: Lambda, concurrent executions); they cannot meet directly",
                prevents=False,
            )
        )
    longest = max(rank["billed"] for rank in ranks)
    if longest > MOST_SECONDS:
        obstacles.append(
            Obstacle(
                f"a rank takes {longest:,.0f} s: Lambda ends it after {MOST_SECONDS} s; cut smaller "
                "partitions, or give more ranks or more memory",
                prevents=True,
            )
        )
    return tuple(obstacles)


def options(
    images: int, partitions_mb: Iterable[float], memories_mb: Iterable[int],
    architectures: Iterable[Architecture], assumptions: Assumptions = Assumptions(),
    collectives: Literal["auto", "direct", "s3", "none"] = "auto",
) -> Iterator[Plan]:  # fmt: skip
    """A plan for each combination."""
    memories, architectures = list(memories_mb), list(architectures)
    for partition_mb in partitions_mb:
        for memory in memories:
            for architecture in architectures:
                yield plan(Case(images, partition_mb, memory, architecture, collectives), assumptions)


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
